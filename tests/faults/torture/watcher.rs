//! [`Watcher`]: is disconnected by every kill and resumes from its last revision.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use sagad::proto::{watch_events_response::Item, *};
use tokio::{sync::watch, task::JoinHandle};
use tonic::Code;

use crate::support;

/// The items that a watcher received.
#[derive(Default)]
pub struct TailRecord {
    pub events: Vec<SagaEvent>,
    /// The last received revision, also of a bookmark.
    pub last: i64,
    /// How often it resumed.
    pub resumed: u64,
}

/// A running watcher; it follows the daemon to each new address.
pub struct Watcher {
    pub record: Arc<Mutex<TailRecord>>,
    task: JoinHandle<()>,
}

impl Watcher {
    pub fn follow(addresses: watch::Receiver<Option<SocketAddr>>) -> Self {
        let record = Arc::new(Mutex::new(TailRecord::default()));
        Watcher { record: record.clone(), task: tokio::spawn(follow(addresses, record)) }
    }

    /// Waits until it has everything up to a revision; returns its record.
    pub async fn through(self, head: i64) -> TailRecord {
        let begun = support::now();
        loop {
            if self.task.is_finished() {
                self.task.await.expect("the watcher does not fail");
                unreachable!("it does not end by itself");
            }
            if self.record.lock().unwrap().last >= head {
                break;
            }
            assert!(begun.elapsed() < support::WAIT_MAX, "the watcher does not reach {head}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.task.abort();
        std::mem::take(&mut *self.record.lock().unwrap())
    }
}

async fn follow(mut addresses: watch::Receiver<Option<SocketAddr>>, record: Arc<Mutex<TailRecord>>) {
    loop {
        let address = *addresses.borrow_and_update();
        if let Some(address) = address {
            tail(address, &record).await;
        }
        // A new address, or the same one after a moment.
        let _ = tokio::time::timeout(Duration::from_millis(50), addresses.changed()).await;
    }
}

/// Follows one daemon until it has ended.
async fn tail(address: SocketAddr, record: &Mutex<TailRecord>) {
    let Ok(endpoint) = tonic::transport::Endpoint::from_shared(format!("http://{address}")) else { return };
    let Ok(channel) = endpoint.connect().await else { return };
    let after = record.lock().unwrap().last;
    let request = WatchEventsRequest { after_revision: Some(after), ..WatchEventsRequest::default() };
    let mut stream = match support::Sagas::new(channel).watch_events(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return assert_gone(&status, after),
    };
    record.lock().unwrap().resumed += 1;
    loop {
        match stream.message().await {
            Ok(Some(answer)) => {
                let mut record = record.lock().unwrap();
                match answer.item {
                    Some(Item::Event(event)) => {
                        assert_eq!(event.revision, answer.revision);
                        assert!(event.revision > record.last, "{} came after {}", event.revision, record.last);
                        record.events.push(event);
                    }
                    Some(Item::Bookmark(_)) => assert!(answer.revision >= record.last, "a bookmark went back"),
                    None => panic!("an answer without an item"),
                }
                record.last = answer.revision;
            }
            Ok(None) => return,
            Err(status) => return assert_gone(&status, after),
        }
    }
}

fn assert_gone(status: &tonic::Status, after: i64) {
    assert_ne!(status.code(), Code::OutOfRange, "the received position {after} is unknown: {status:?}");
}
