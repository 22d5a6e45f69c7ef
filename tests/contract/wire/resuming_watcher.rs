//! [`ResumingWatcher`]: a watcher that is disconnected at random, for both kinds of watches; and a load of stale sagas.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sagad::proto::*;
use tonic::Status;

use crate::support::{daemon::connect, *};

/// An item of a watch: its revision and its content, without the present state of the saga.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchedItem {
    pub revision: i64,
    /// The item as text; empty: a bookmark.
    pub what: String,
}

/// Which rpc is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    Stale,
    Events,
}

/// An open watch of either kind.
pub enum OpenWatch {
    Stale(tonic::Streaming<WatchStaleResponse>),
    Events(tonic::Streaming<WatchEventsResponse>),
}

impl WatchKind {
    pub async fn open(self, api: &Api, after: Option<i64>) -> Result<OpenWatch, Status> {
        match self {
            WatchKind::Stale => {
                let request = WatchStaleRequest { after_revision: after, ..Default::default() };
                api.watch_stale(request).await.map(OpenWatch::Stale)
            }
            WatchKind::Events => {
                let request = WatchEventsRequest { after_revision: after, ..Default::default() };
                api.watch_events(request).await.map(OpenWatch::Events)
            }
        }
    }

    /// Every item from the beginning up to the revision of an item.
    pub async fn whole(self, api: &Api, through: i64) -> Vec<WatchedItem> {
        let mut open = self.open(api, Some(0)).await.unwrap();
        let mut seen = Vec::new();
        loop {
            let item = tokio::time::timeout(WAIT_MAX, open.next()).await.expect("the watch continues").unwrap();
            if item.revision > through || (item.revision == through && item.what.is_empty()) {
                return seen;
            }
            let last = item.revision == through;
            seen.extend(Some(item).filter(|item| !item.what.is_empty()));
            if last {
                return seen;
            }
        }
    }
}

impl OpenWatch {
    pub async fn next(&mut self) -> Result<WatchedItem, Status> {
        let ended = || Status::unavailable("the stream ended");
        match self {
            OpenWatch::Stale(stream) => stream.message().await?.map(|answer| stale(&answer)).ok_or_else(ended),
            OpenWatch::Events(stream) => stream.message().await?.map(|answer| event(&answer)).ok_or_else(ended),
        }
    }
}

pub fn stale(answer: &WatchStaleResponse) -> WatchedItem {
    use watch_stale_response::Item;
    let what = match answer.item.as_ref().expect("an answer has an item") {
        Item::Stale(item) => {
            let expire_time = micros(item.expire_time.as_ref());
            format!("stale {} {} {} {expire_time} {:?}", item.task_id, item.owner_id, item.fencing_token, item.cause())
        }
        Item::Resolved(item) => format!("resolved {} {:?}", item.task_id, item.resolution()),
        Item::Bookmark(_) => String::new(),
    };
    WatchedItem { revision: answer.revision, what }
}

fn event(answer: &WatchEventsResponse) -> WatchedItem {
    use watch_events_response::Item;
    let what = match answer.item.as_ref().expect("an answer has an item") {
        Item::Event(event) => {
            assert_eq!(event.revision, answer.revision);
            format!("{event:?}")
        }
        Item::Bookmark(_) => String::new(),
    };
    WatchedItem { revision: answer.revision, what }
}

/// A watcher that is disconnected again and again and resumes after its last revision.
pub struct ResumingWatcher {
    stream: WatchKind,
    pub seen: Vec<WatchedItem>,
    /// The highest revision received, of bookmarks too.
    pub last: Option<i64>,
}

impl ResumingWatcher {
    /// A watcher from the beginning of the history.
    pub fn new(stream: WatchKind) -> Self {
        ResumingWatcher { stream, seen: Vec::new(), last: Some(0) }
    }

    /// Connects and watches until it has this many items, nothing comes for a moment, or the connection is lost; then
    /// disconnects.
    pub async fn watch_briefly(&mut self, address: std::net::SocketAddr, items: usize) {
        let api = Api::new(connect(address).await);
        let Ok(mut open) = self.stream.open(&api, self.last).await else { return };
        for _ in 0..items {
            match tokio::time::timeout(Duration::from_millis(300), open.next()).await {
                Ok(Ok(item)) => self.take(item),
                Ok(Err(status)) => {
                    assert_ne!(status.code(), tonic::Code::OutOfRange, "a received revision can be resumed from");
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, item: WatchedItem) {
        let last = self.last.replace(item.revision).unwrap_or(0);
        if item.what.is_empty() {
            assert!(item.revision >= last, "a bookmark goes back: {item:?} after {last}");
        } else {
            assert!(item.revision > last, "received twice or out of order: {item:?} after {last}");
            self.seen.push(item);
        }
    }

    /// Watches without interruption until it has everything up to a revision.
    pub async fn catch_up(&mut self, api: &Api, through: i64) {
        let mut open = self.stream.open(api, self.last).await.unwrap();
        while self.last.is_none_or(|last| last < through) {
            let item = tokio::time::timeout(WAIT_MAX, open.next()).await.expect("the watch continues").unwrap();
            if item.revision <= through {
                self.take(item);
            } else {
                return;
            }
        }
    }
}

/// Sagas that become stale and are resolved in every way, until it is stopped. Calls that fail because the daemon is down are
/// not repeated.
pub struct StaleLoad {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl StaleLoad {
    pub fn start(address: std::net::SocketAddr, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let mut waiting: Vec<String> = Vec::new();
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let api = Api::new(connect(address).await);
                while !stopped.load(Ordering::Relaxed) {
                    number += 1;
                    let task_id = format!("load-{seed}-{number}");
                    if become_stale(&api, &task_id).await.is_err() {
                        break;
                    }
                    waiting.push(task_id);
                    if waiting.len() > 8 {
                        let chosen = waiting.swap_remove(random.random_range(0..waiting.len()));
                        resolve(&api, &chosen, random.random_range(0..5)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
        });
        StaleLoad { stop, task }
    }

    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

async fn become_stale(api: &Api, task_id: &str) -> Result<(), Status> {
    api.create_saga(held(task_id, &["a"])).await?;
    api.claim(claim(task_id, "w", 100)).await.map(drop)
}

async fn resolve(api: &Api, task_id: &str, how: u32) {
    let decide = |decision: RecoveryDecision| RecoverRequest {
        task_id: task_id.into(),
        decision: decision.into(),
        actor: "ada".into(),
        reason: "why".into(),
        ..Default::default()
    };
    let _ = match how {
        0 => api.recover(decide(RecoveryDecision::Requeue)).await,
        1 => api.recover(decide(RecoveryDecision::Compensate)).await,
        2 => api.recover(decide(RecoveryDecision::Quarantine)).await,
        3 => api.claim(claim(task_id, "again", 100)).await,
        _ => match api.find(task_id).await {
            Ok(Some(saga)) if saga.lease.is_some() => api.complete(key(&saga).complete()).await,
            _ => return,
        },
    };
}

/// The items that `WatchStale` has to send, computed from the whole history.
pub fn staleness_of(history: &[SagaEvent]) -> Vec<WatchedItem> {
    let mut stale = BTreeSet::new();
    let mut expected = Vec::new();
    for event in history {
        let details = |name: &str| event.details.get(name).cloned().unwrap_or_default();
        let what = match event.r#type() {
            EventType::LeaseExpired => {
                stale.insert(event.task_id.clone());
                let (task_id, token) = (&event.task_id, event.fencing_token);
                Some(format!("stale {task_id} {} {token}", details("owner_id")))
            }
            EventType::Claimed => resolved(&mut stale, event, Resolution::Reclaimed),
            EventType::Requeued => resolved(&mut stale, event, Resolution::Requeued),
            EventType::Compensating => resolved(&mut stale, event, Resolution::Compensating),
            EventType::Completed | EventType::Quarantined => resolved(&mut stale, event, Resolution::Terminal),
            _ => None,
        };
        expected.extend(what.map(|what| WatchedItem { revision: event.revision, what }));
    }
    expected
}

fn resolved(stale: &mut BTreeSet<String>, event: &SagaEvent, resolution: Resolution) -> Option<String> {
    stale.remove(&event.task_id).then(|| format!("resolved {} {resolution:?}", event.task_id))
}
