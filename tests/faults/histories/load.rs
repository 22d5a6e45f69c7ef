//! The load: clients that claim, heartbeat, stop past their ttl and come back; a daemon that is killed; watchers that are
//! cut off. Then the whole history, and the verdict.

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
        check::{self, Seen},
        record::{self, Call, Outcome, Purpose, Recorder},
    },
    client::{Client, Held, Sagas, TTL},
};
use crate::support::Launch;

const CLIENTS: usize = 8;
const OPEN_SAGAS: usize = 5;

/// What is to be run.
pub struct Load {
    pub mutant: Option<&'static str>,
    pub seed: u64,
    pub lasts: Duration,
}

/// What it came to.
pub struct Ran {
    pub complaints: Vec<String>,
    calls: Vec<Call>,
    events: usize,
    cuts: u64,
    kills: u64,
}

type Tasks = Arc<Mutex<Vec<String>>>;

fn seen(event: &SagaEvent) -> Seen {
    Seen {
        revision: event.revision,
        task: event.task_id.clone(),
        kind: event.r#type().as_str_name().trim_start_matches("EVENT_TYPE_").to_owned(),
        token: event.fencing_token,
        actor: event.actor.clone(),
    }
}

impl Load {
    pub async fn run(&self) -> Ran {
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
            let client = Client { sagas: sagas.clone(), recorder: recorder.clone(), owner: format!("w{n}") };
            let rng = StdRng::seed_from_u64(self.seed * 1000 + n as u64);
            clients.spawn(live(client, rng, tasks.clone(), all.clone(), until_us));
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
        while clients.join_next().await.transpose().expect("no client fails").is_some() {}
        // Until no lease is left that could run out.
        tokio::time::sleep(TTL * 4).await;
        let created = all.lock().unwrap().clone();
        let (history, head) = history(sagas.clone(), &created).await;
        stop.send_replace(head);
        let (mut watched, mut cuts) = (Vec::new(), 0);
        while let Some(record) = watchers.join_next().await.transpose().expect("no watcher fails") {
            watched.push(record.0);
            cuts += record.1;
        }
        let calls = recorder.calls();
        if let Ok(file) = std::env::var("SAGAD_HISTORY") {
            record::write(&calls, std::fs::File::create(file).unwrap()).unwrap();
        }
        let complaints = check::all(&calls, &history, &watched);
        Ran { complaints, calls, events: history.len(), cuts, kills }
    }
}

impl Ran {
    fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.calls.iter().filter(|call| wanted(&call.outcome)).count()
    }

    pub fn summary(&self) -> String {
        let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &self.calls {
            if let Outcome::Refused { reason } = &call.outcome {
                *refused.entry(reason).or_default() += 1;
            }
        }
        format!(
            "{} calls: {} accepted, {} of unknown outcome, refused {refused:?}; {} events; {} kills, {} watches cut off",
            self.calls.len(),
            self.count(|outcome| matches!(outcome, Outcome::Ok { .. })),
            self.count(|outcome| *outcome == Outcome::Unknown),
            self.events,
            self.kills,
            self.cuts,
        )
    }

    /// Whether enough happened.
    pub fn is_telling(&self) -> bool {
        self.kills > 1 && self.cuts > 1 && self.count(|outcome| matches!(outcome, Outcome::Ok { .. })) > 50
    }
}

/// One client, until the time is up.
async fn live(client: Client, mut rng: StdRng, tasks: Tasks, all: Tasks, until_us: i64) {
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
            // By id, not so many come to be undone that never ran.
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

async fn claim(client: &Client, task: &str, purpose: Purpose, tasks: &Tasks) -> Option<Held> {
    match client.claim(task, purpose).await {
        Ok(held) => Some(held),
        Err(Outcome::Refused { reason }) if reason == "SAGA_TERMINAL" => {
            tasks.lock().unwrap().retain(|t| t != task);
            None
        }
        Err(_) => None,
    }
}

/// Heartbeats a few times under a lease; returns whether it slept through it.
async fn linger(client: &Client, rng: &mut StdRng, held: &Held) -> bool {
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

/// Works, and gives back, completes or fails.
async fn work(client: &Client, rng: &mut StdRng, held: Held, tasks: &Tasks) {
    let (task, token) = (held.task.as_str(), held.token);
    let overslept = linger(client, rng, &held).await;
    if rng.random_bool(0.2) {
        client.register(task, token, &format!("made under {token}")).await;
    }
    // Late results are what there is most to be found out about.
    match rng.random_range(if overslept { 5..10 } else { 0..10 }) {
        0..3 => drop(client.release(task, token).await),
        3..6 => drop(client.fail(task, token).await),
        _ => {
            let result = format!("by {token}");
            if let Outcome::Ok { .. } = client.complete(task, token, result.clone()).await {
                if rng.random_bool(0.5) {
                    client.complete(task, token, result).await;
                }
                tasks.lock().unwrap().retain(|t| t != task);
            }
        }
    }
}

/// Undoes in reverse, though now and then in the wrong order, too soon, or past its ttl.
async fn undo(client: &Client, rng: &mut StdRng, mut held: Held, tasks: &Tasks) {
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
                if !matches!(client.record(&task, token, last, true).await, Outcome::Ok { .. }) {
                    return;
                }
                held.open.pop();
            }
        }
    }
    if let Outcome::Ok { .. } = client.compensate(&task, token).await {
        tasks.lock().unwrap().retain(|t| *t != task);
    }
}

/// A watcher, cut off by itself and by each kill, until it has seen what there is; with how often it was cut off.
async fn watch(mut sagas: Sagas, mut rng: StdRng, stopped: tokio::sync::watch::Receiver<i64>) -> (Vec<Seen>, u64) {
    let (mut record, mut position, mut cuts, mut idle) = (Vec::<Seen>::new(), 0, 0, 0);
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
        // When the load is over and nothing comes any more, it has what it gets.
        idle = if *stopped.borrow() < i64::MAX && position == before { idle + 1 } else { 0 };
    }
    let head = *stopped.borrow();
    record.retain(|seen| seen.revision <= head);
    (record, cuts)
}

/// The coordinator's own history of all these sagas, and its newest revision.
async fn history(mut sagas: Sagas, tasks: &[String]) -> (Vec<Seen>, i64) {
    let mut all = Vec::new();
    for task in tasks {
        let mut request = ListEventsRequest { task_id: task.clone(), ..ListEventsRequest::default() };
        // One whose creation never happened has none.
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
