//! The well-behaved client: it keeps leases, does work, comes anew, and notices everything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::*;

/// How long any of its calls may take, a new connection too: far beyond what is usual, and below each lease.
const DEADLINE: Duration = Duration::from_secs(10);
/// The length of its leases: kept by heartbeats every 200 ms, they end only if those are lost for as long.
const TTL_MS: u64 = 15_000;

/// What it went through.
#[derive(Debug, Default)]
pub struct Notes {
    /// Rounds of work that it did.
    pub rounds: AtomicU64,
    /// The longest call, in microseconds.
    pub slowest: AtomicU64,
    stop: AtomicBool,
}

/// A client at work.
pub struct Citizen {
    notes: Arc<Notes>,
    tasks: Vec<JoinHandle<()>>,
}

impl Citizen {
    /// Begins to work; returns once the first round is done.
    pub async fn at_work(daemon: &Daemon) -> Self {
        let notes = Arc::new(Notes::default());
        let api = daemon.api().await;
        let lease = |name: &str| (api.clone(), format!("kept-{name}"));
        let tasks = vec![
            tokio::spawn(beat(lease("unary"), notes.clone())),
            tokio::spawn(keep_alive(lease("stream"), notes.clone())),
            tokio::spawn(work(api.clone(), daemon.address(), notes.clone())),
        ];
        let citizen = Citizen { notes, tasks };
        citizen.work_on(1).await;
        citizen
    }

    /// Waits until it has done further rounds.
    pub async fn work_on(&self, rounds: u64) {
        let goal = self.notes.rounds.load(Relaxed) + rounds;
        while self.notes.rounds.load(Relaxed) < goal {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "the well-behaved client was not served");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The longest call since this was asked before, or since the beginning.
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.notes.slowest.swap(0, Relaxed))
    }

    /// Ends its work: each of its leases has to be there still. Returns the rounds that it did.
    pub async fn go_home(self) -> u64 {
        self.notes.stop.store(true, Relaxed);
        for task in self.tasks {
            timeout(WAIT_MAX, task).await.expect("it ends").expect("the well-behaved client was served");
        }
        self.notes.rounds.load(Relaxed)
    }
}

impl Notes {
    /// Takes the time of a call, which has to be answered well and in time.
    async fn timed<T>(&self, what: &str, call: impl Future<Output = Result<T, tonic::Status>>) -> T {
        let begun = now();
        let answer = timeout(DEADLINE, call).await.unwrap_or_else(|_| panic!("{what}: no answer within {DEADLINE:?}"));
        self.slowest.fetch_max(begun.elapsed().as_micros() as u64, Relaxed);
        answer.unwrap_or_else(|status| panic!("{what}: {status:?}"))
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }
}

async fn lease(api: &Api, task_id: &str, notes: &Notes) -> Key {
    notes.timed("create", api.create_saga(create(task_id))).await;
    key(&notes.timed("claim", api.claim(claim(task_id, "citizen", TTL_MS))).await)
}

async fn beat((api, task_id): (Api, String), notes: Arc<Notes>) {
    let key = lease(&api, &task_id, &notes).await;
    while notes.goes_on() {
        notes.timed("heartbeat", api.heartbeat(key.heartbeat())).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    notes.timed("complete", api.complete(key.complete())).await;
}

async fn keep_alive((api, task_id): (Api, String), notes: Arc<Notes>) {
    let key = lease(&api, &task_id, &notes).await;
    let (send, items) = tokio::sync::mpsc::channel(1);
    let mut sagas = api.sagas.clone();
    let mut answers = notes.timed("KeepAlive", sagas.keep_alive(ReceiverStream::new(items))).await.into_inner();
    while notes.goes_on() {
        send.send(key.keep_alive()).await.unwrap();
        let answer = notes.timed("an item of KeepAlive", answers.message()).await.expect("the stream goes on");
        assert_eq!(answer.code, 0, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    notes.timed("complete", api.complete(key.complete())).await;
}

/// Rounds of work, each with a call on a new connection.
async fn work(api: Api, address: std::net::SocketAddr, notes: Arc<Notes>) {
    let mut round = 0;
    while notes.goes_on() {
        round += 1;
        let key = lease(&api, &format!("round-{round}"), &notes).await;
        let anew = async { Ok(Api::new(daemon::connect(address).await)) };
        let newcomer = notes.timed("a new connection", anew).await;
        notes.timed("heartbeat of a newcomer", newcomer.heartbeat(key.heartbeat())).await;
        notes.timed("complete", newcomer.complete(key.complete())).await;
        notes.rounds.fetch_add(1, Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
