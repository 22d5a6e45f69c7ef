//! [`RecordedLoad`]: clients that claim, send heartbeats and pause past their ttl, while the daemon is killed and watchers are
//! disconnected. Then the whole history is checked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sagad::proto::{watch_events_response::Item, *};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;

use super::{
    checker::{
        check::{self, HistoryEvent},
        recorder::{self, CallOutcome, Purpose, RecordedCall, Recorder},
    },
    recorded_client::{HeldLease, RecordedClient, Sagas, TTL},
};
use crate::support::Launch;

const CLIENTS: usize = 8;
const OPEN_SAGAS: usize = 5;

/// The settings of a load.
pub struct RecordedLoad {
    pub mutant: Option<&'static str>,
    pub seed: u64,
    pub lasts: Duration,
}

/// The result of a load.
pub struct LoadResult {
    pub complaints: Vec<String>,
    calls: Vec<RecordedCall>,
    events: usize,
    cuts: u64,
    kills: u64,
}

type Tasks = Arc<Mutex<Vec<String>>>;

fn seen(event: &SagaEvent) -> HistoryEvent {
    HistoryEvent {
        revision: event.revision,
        task: event.task_id.clone(),
        kind: event.r#type().as_str_name().trim_start_matches("EVENT_TYPE_").to_owned(),
        token: event.fencing_token,
        actor: event.actor.clone(),
    }
}

impl RecordedLoad {
    pub async fn run(&self) -> LoadResult {
        let directory = tempfile::tempdir().unwrap();
        let mut launch = Launch::on(directory.path()).args(&["--restart-grace", "200ms", "--log", "warn"]);
        if let Some(mutant) = self.mutant {
            launch = launch.env("SAGAD_MUTANT", mutant);
        }
        let (mut daemon, mut kills) = (launch.start(), 0);
        let channel = Endpoint::from_shared(format!("http://{}", daemon.address())).unwrap().connect_lazy();
        let sagas = Sagas::new(channel);
        let recorder = Recorder::start();
        let (tasks, all): (Tasks, Tasks) = Default::default();
        let until_us = self.lasts.as_micros() as i64;
        let mut clients = JoinSet::new();
        for n in 0..CLIENTS {
            let client = RecordedClient { sagas: sagas.clone(), recorder: recorder.clone(), owner: format!("w{n}") };
            let rng = StdRng::seed_from_u64(self.seed * 1000 + n as u64);
            clients.spawn(run_client(client, rng, tasks.clone(), all.clone(), until_us));
        }
        let (stop, stopped) = tokio::sync::watch::channel(i64::MAX);
        let mut watchers = JoinSet::new();
        for n in 0..2 {
            let rng = StdRng::seed_from_u64(self.seed * 1000 + 500 + n);
            watchers.spawn(watch(sagas.clone(), rng, stopped.clone()));
        }
        let mut rng = StdRng::seed_from_u64(self.seed * 1000 + 900);
        while recorder.now_us() < until_us {
            tokio::time::sleep(Duration::from_millis(rng.random_range(300..1100))).await;
            daemon.kill().await;
            tokio::task::block_in_place(|| daemon.start_again());
            kills += 1;
        }
        while clients.join_next().await.transpose().expect("no client panics").is_some() {}
        // Until every lease has ended.
        tokio::time::sleep(TTL * 4).await;
        let created = all.lock().unwrap().clone();
        let (history, head) = history(sagas.clone(), &created).await;
        stop.send_replace(head);
        let (mut watched, mut cuts) = (Vec::new(), 0);
        while let Some(record) = watchers.join_next().await.transpose().expect("no watcher panics") {
            watched.push(record.0);
            cuts += record.1;
        }
        let calls = recorder.calls();
        if let Ok(file) = std::env::var("SAGAD_HISTORY") {
            recorder::write(&calls, std::fs::File::create(file).unwrap()).unwrap();
        }
        let complaints = check::all(&calls, &history, &watched);
        LoadResult { complaints, calls, events: history.len(), cuts, kills }
    }
}

impl LoadResult {
    fn count(&self, wanted: impl Fn(&CallOutcome) -> bool) -> usize {
        self.calls.iter().filter(|call| wanted(&call.outcome)).count()
    }

    pub fn summary(&self) -> String {
        let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &self.calls {
            if let CallOutcome::Refused { reason } = &call.outcome {
                *refused.entry(reason).or_default() += 1;
            }
        }
        format!(
            "{} calls: {} accepted, {} of unknown outcome, refused {refused:?}; {} events; {} kills, {} watches disconnected",
            self.calls.len(),
            self.count(|outcome| matches!(outcome, CallOutcome::Ok { .. })),
            self.count(|outcome| *outcome == CallOutcome::Unknown),
            self.events,
            self.kills,
            self.cuts,
        )
    }

    /// True if enough calls were made for a result.
    pub fn is_large_enough(&self) -> bool {
        self.kills > 1 && self.cuts > 1 && self.count(|outcome| matches!(outcome, CallOutcome::Ok { .. })) > 50
    }
}

/// One client, until the time is up.
async fn run_client(client: RecordedClient, mut rng: StdRng, tasks: Tasks, all: Tasks, until_us: i64) {
    let mut number = 0;
    while client.recorder.now_us() < until_us {
        let known = tasks.lock().unwrap().clone();
        if known.len() < OPEN_SAGAS {
            number += 1;
            let task = format!("{}-{number}", client.owner);
            all.lock().unwrap().push(task.clone());
            client.create(&task).await;
            tasks.lock().unwrap().push(task);
            continue;
        }
        let task = known[rng.random_range(0..known.len())].clone();
        let purpose = if rng.random_bool(0.3) { Purpose::Compensate } else { Purpose::Execute };
        let held = match rng.random_range(0..10) {
            0..3 => client.claim_next(purpose, Duration::ZERO).await,
            3..6 => client.claim_next(purpose, Duration::from_millis(rng.random_range(50..500))).await,
            // By id, so that fewer sagas are compensated that never ran.
            n => claim(&client, &task, if n == 6 { purpose } else { Purpose::Execute }, &tasks).await,
        };
        match held {
            Some(held) if held.purpose == Purpose::Compensate => undo(&client, &mut rng, held, &tasks).await,
            Some(held) => work(&client, &mut rng, held, &tasks).await,
            None => {
                if rng.random_bool(0.3) {
                    client.get(&task).await;
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(5..60))).await;
            }
        }
    }
}

async fn claim(client: &RecordedClient, task: &str, purpose: Purpose, tasks: &Tasks) -> Option<HeldLease> {
    match client.claim(task, purpose).await {
        Ok(held) => Some(held),
        Err(CallOutcome::Refused { reason }) if reason == "SAGA_TERMINAL" => {
            tasks.lock().unwrap().retain(|t| t != task);
            None
        }
        Err(_) => None,
    }
}

/// Sends some heartbeats under a lease; returns true if it slept past the expiry.
async fn linger(client: &RecordedClient, rng: &mut StdRng, held: &HeldLease) -> bool {
    let mut overslept = false;
    for _ in 0..rng.random_range(0..4) {
        let long = rng.random_bool(0.25);
        let pause = if long { rng.random_range(350..800) } else { rng.random_range(5..120) };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        overslept |= long;
        if rng.random_bool(0.7) {
            client.heartbeat(&held.task, held.token).await;
        }
    }
    overslept
}

/// Executes a saga: releases, completes or fails it.
async fn work(client: &RecordedClient, rng: &mut StdRng, held: HeldLease, tasks: &Tasks) {
    let (task, token) = (held.task.as_str(), held.token);
    let overslept = linger(client, rng, &held).await;
    if rng.random_bool(0.2) {
        client.register(task, token, &format!("made under {token}")).await;
    }
    // Late results are the most interesting case.
    match rng.random_range(if overslept { 5..10 } else { 0..10 }) {
        0..3 => drop(client.release(task, token).await),
        3..6 => drop(client.fail(task, token).await),
        _ => {
            let result = format!("by {token}");
            if let CallOutcome::Ok { .. } = client.complete(task, token, result.clone()).await {
                if rng.random_bool(0.5) {
                    client.complete(task, token, result).await;
                }
                tasks.lock().unwrap().retain(|t| t != task);
            }
        }
    }
}

/// Compensates in reverse, but sometimes in the wrong order, too early, or past the ttl.
async fn undo(client: &RecordedClient, rng: &mut StdRng, mut held: HeldLease, tasks: &Tasks) {
    let (task, token) = (held.task.clone(), held.token);
    let mut failed = false;
    while let Some(last) = held.open.last().copied() {
        linger(client, rng, &held).await;
        match rng.random_range(0..12) {
            0 => drop(client.record(&task, token, held.open[0], true).await),
            1 => drop(client.compensate(&task, token).await),
            2 => return drop(client.release(&task, token).await),
            3 if !failed => {
                failed = true;
                client.record(&task, token, last, false).await;
            }
            _ => {
                if !matches!(client.record(&task, token, last, true).await, CallOutcome::Ok { .. }) {
                    return;
                }
                held.open.pop();
            }
        }
    }
    if let CallOutcome::Ok { .. } = client.compensate(&task, token).await {
        tasks.lock().unwrap().retain(|t| *t != task);
    }
}

/// A watcher, disconnected by itself and by each kill, until it has everything. Returns its record and the number of
/// disconnections.
async fn watch(
    mut sagas: Sagas,
    mut rng: StdRng,
    stopped: tokio::sync::watch::Receiver<i64>,
) -> (Vec<HistoryEvent>, u64) {
    let (mut record, mut position, mut cuts, mut idle) = (Vec::<HistoryEvent>::new(), 0, 0, 0);
    while position < *stopped.borrow() && idle < 20 {
        let request = WatchEventsRequest { after_revision: Some(position), ..WatchEventsRequest::default() };
        let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(1), sagas.watch_events(request)).await else {
            tokio::time::sleep(Duration::from_millis(30)).await;
            continue;
        };
        let mut items = answer.into_inner();
        let before = position;
        let cut = tokio::time::sleep(Duration::from_millis(rng.random_range(100..700)));
        tokio::pin!(cut);
        loop {
            let item = tokio::select! {
                item = items.next() => item,
                () = &mut cut => None,
            };
            let Some(Ok(WatchEventsResponse { revision, item: Some(item) })) = item else { break };
            position = revision;
            match item {
                Item::Event(event) => record.push(seen(&event)),
                Item::Bookmark(_) => {}
            }
        }
        cuts += 1;
        // The load is over and no item comes for a while: the record is complete.
        idle = if *stopped.borrow() < i64::MAX && position == before { idle + 1 } else { 0 };
    }
    let head = *stopped.borrow();
    record.retain(|seen| seen.revision <= head);
    (record, cuts)
}

/// The history of all these sagas in the daemon, and its newest revision.
async fn history(mut sagas: Sagas, tasks: &[String]) -> (Vec<HistoryEvent>, i64) {
    let mut all = Vec::new();
    for task in tasks {
        let mut request = ListEventsRequest { task_id: task.clone(), ..ListEventsRequest::default() };
        // A saga whose creation did not happen has none.
        while let Ok(answer) = sagas.list_events(request.clone()).await {
            let page = answer.into_inner();
            all.extend(page.events.iter().map(seen));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
    }
    all.sort_by_key(|seen| seen.revision);
    let head = all.last().map_or(0, |seen| seen.revision);
    (all, head)
}
