//! [`WellBehavedClient`]: keeps leases, executes sagas, opens new connections, and checks that each call succeeds in time.

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

/// The longest time of a call, including one on a new connection: far more than usual, and less than a lease.
const DEADLINE: Duration = Duration::from_secs(10);
/// The length of its leases. They are kept by heartbeats every 200 ms.
const TTL_MS: u64 = 15_000;

/// Its rounds and the times of its calls.
#[derive(Debug, Default)]
pub struct CallTimes {
    /// Rounds of work so far.
    pub rounds: AtomicU64,
    /// The longest call, in microseconds.
    pub slowest: AtomicU64,
    stop: AtomicBool,
}

/// A client that works in the background.
pub struct WellBehavedClient {
    notes: Arc<CallTimes>,
    tasks: Vec<JoinHandle<()>>,
}

impl WellBehavedClient {
    /// Starts it; returns after its first round.
    pub async fn start(daemon: &Daemon) -> Self {
        let notes = Arc::new(CallTimes::default());
        let api = daemon.api().await;
        let lease = |name: &str| (api.clone(), format!("kept-{name}"));
        let tasks = vec![
            tokio::spawn(beat(lease("unary"), notes.clone())),
            tokio::spawn(keep_alive(lease("stream"), notes.clone())),
            tokio::spawn(work(api.clone(), daemon.address(), notes.clone())),
        ];
        let client = WellBehavedClient { notes, tasks };
        client.await_rounds(1).await;
        client
    }

    /// Waits until it has done this many more rounds.
    pub async fn await_rounds(&self, rounds: u64) {
        let goal = self.notes.rounds.load(Relaxed) + rounds;
        while self.notes.rounds.load(Relaxed) < goal {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "the well-behaved client was not served");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The longest call since the last call of this function.
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.notes.slowest.swap(0, Relaxed))
    }

    /// Stops it; all of its leases must still be valid. Returns the number of rounds.
    pub async fn stop(self) -> u64 {
        self.notes.stop.store(true, Relaxed);
        for task in self.tasks {
            timeout(WAIT_MAX, task).await.expect("it ends").expect("the well-behaved client was served");
        }
        self.notes.rounds.load(Relaxed)
    }
}

impl CallTimes {
    /// Measures a call, which must succeed in time.
    async fn timed<T>(&self, what: &str, call: impl Future<Output = Result<T, tonic::Status>>) -> T {
        let begun = now();
        let answer = timeout(DEADLINE, call).await.unwrap_or_else(|_| panic!("{what}: no answer within {DEADLINE:?}"));
        self.slowest.fetch_max(begun.elapsed().as_micros() as u64, Relaxed);
        answer.unwrap_or_else(|status| panic!("{what}: {status:?}"))
    }

    fn is_running(&self) -> bool {
        !self.stop.load(Relaxed)
    }
}

async fn lease(api: &Api, task_id: &str, notes: &CallTimes) -> Key {
    notes.timed("create", api.create_saga(create(task_id))).await;
    key(&notes.timed("claim", api.claim(claim(task_id, "client", TTL_MS))).await)
}

async fn beat((api, task_id): (Api, String), notes: Arc<CallTimes>) {
    let key = lease(&api, &task_id, &notes).await;
    while notes.is_running() {
        notes.timed("heartbeat", api.heartbeat(key.heartbeat())).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    notes.timed("complete", api.complete(key.complete())).await;
}

async fn keep_alive((api, task_id): (Api, String), notes: Arc<CallTimes>) {
    let key = lease(&api, &task_id, &notes).await;
    let (send, items) = tokio::sync::mpsc::channel(1);
    let mut sagas = api.sagas.clone();
    let mut answers = notes.timed("KeepAlive", sagas.keep_alive(ReceiverStream::new(items))).await.into_inner();
    while notes.is_running() {
        send.send(key.keep_alive()).await.unwrap();
        let answer = notes.timed("an item of KeepAlive", answers.message()).await.expect("the stream stays open");
        assert_eq!(answer.code, 0, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    notes.timed("complete", api.complete(key.complete())).await;
}

/// Rounds of work, each with a call on a new connection.
async fn work(api: Api, address: std::net::SocketAddr, notes: Arc<CallTimes>) {
    let mut round = 0;
    while notes.is_running() {
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
