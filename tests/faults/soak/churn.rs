//! [`ChurnLoad`]: sagas that end in every way, and watchers, connections and reads that come and go.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sagad::proto::*;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{self, Sagas, now, reason};

/// The number of workers.
const WORKERS: u64 = 6;
/// The kind of end of a compensated saga.
const UNDONE: u32 = 3;
/// The approximate number of calls in the life of a saga.
const CALLS: f64 = 5.0;

#[derive(Default)]
struct CallCounts {
    ended: AtomicBool,
    done: AtomicU64,
    /// Unexpected failures, by call and status.
    failures: Mutex<BTreeMap<String, u64>>,
}

impl CallCounts {
    fn is_running(&self) -> bool {
        !self.ended.load(Relaxed)
    }

    /// Counts a call; returns none if it failed.
    fn take<T>(&self, call: &str, outcome: Result<T, Status>) -> Option<T> {
        self.done.fetch_add(1, Relaxed);
        match outcome {
            Ok(answer) => Some(answer),
            Err(status) if is_allowed(&status) => None,
            Err(status) => {
                let told = format!("{call}: {:?} {}", status.code(), reason(&status));
                *self.failures.lock().unwrap().entry(told).or_default() += 1;
                None
            }
        }
    }
}

/// Failures that are allowed for a slow client on a busy machine: an expired lease, or a full queue.
fn is_allowed(status: &Status) -> bool {
    let reasons = ["LEASE_EXPIRED", "LEASE_SUPERSEDED", "OVERLOADED", "REVISION_COMPACTED"];
    reasons.contains(&reason(status).as_str()) || status.code() == Code::Cancelled
}

pub struct ChurnLoad {
    tally: Arc<CallCounts>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl ChurnLoad {
    pub fn begin(address: SocketAddr, rate: f64) -> Self {
        let tally = Arc::new(CallCounts::default());
        let pause = Duration::from_secs_f64(WORKERS as f64 * CALLS / rate);
        let mut tasks = Vec::new();
        for number in 0..WORKERS {
            tasks.push(tokio::spawn(work(address, tally.clone(), number, pause)));
        }
        tasks.push(tokio::spawn(watch(address, tally.clone())));
        tasks.push(tokio::spawn(watch_stale(address, tally.clone())));
        tasks.push(tokio::spawn(come_and_go(address, tally.clone())));
        ChurnLoad { tally, tasks: Mutex::new(tasks) }
    }

    pub fn done(&self) -> u64 {
        self.tally.done.load(Relaxed)
    }

    /// The number of stored sagas.
    pub async fn stored(&self, address: SocketAddr) -> i64 {
        let stats = support::sagas(address).await.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
        stats.queues.iter().flat_map(|queue| &queue.states).map(|state| state.count).sum()
    }

    /// Stops it; returns the unexpected failures.
    pub async fn end(&self) -> BTreeMap<String, u64> {
        self.tally.ended.store(true, Relaxed);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        for task in tasks {
            task.await.expect("a client runs until it is stopped");
        }
        self.tally.failures.lock().unwrap().clone()
    }
}

/// Runs sagas one after the other, with a pause.
async fn work(address: SocketAddr, tally: Arc<CallCounts>, number: u64, pause: Duration) {
    let mut rng = StdRng::seed_from_u64(number);
    let mut sagas = support::sagas(address).await;
    for serial in 0u64.. {
        if !tally.is_running() {
            return;
        }
        let begun = now();
        if serial % 200 == 199 {
            sagas = support::sagas(address).await;
        }
        run_saga(&mut sagas, &tally, &mut rng, &format!("w{number}-{serial}")).await;
        tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
    }
}

/// The life of one saga: it ends completed, failed, compensated or quarantined.
async fn run_saga(sagas: &mut Sagas, tally: &CallCounts, rng: &mut StdRng, task_id: &str) -> Option<()> {
    let mut payload = vec![0; rng.random_range(0..2000)];
    rng.fill(&mut payload[..]);
    let compensation =
        |kind: &str| CompensationSpec { kind: kind.into(), target: task_id.into(), ..Default::default() };
    let end = rng.random_range(0..5);
    let on_failure = if end == UNDONE { FailureAction::Compensate } else { FailureAction::Fail };
    let create = CreateSagaRequest {
        task_id: task_id.into(),
        policy: Some(Policy { on_failure: on_failure.into(), ..Default::default() }),
        queue: format!("q{}", rng.random_range(0..3)),
        payload: payload.into(),
        compensations: vec![compensation("branch"), compensation("worktree")],
        ..Default::default()
    };
    tally.take("CreateSaga", sagas.create_saga(create).await)?;
    let owner_id = format!("worker-{task_id}");
    let claim = ClaimRequest { task_id: task_id.into(), owner_id: owner_id.clone(), ..Default::default() };
    let claimed = tally.take("Claim", sagas.claim(claim).await)?.into_inner().saga?;
    let fencing_token = claimed.lease?.fencing_token;
    for _ in 0..rng.random_range(1..4) {
        let heartbeat = HeartbeatRequest {
            task_id: task_id.into(),
            owner_id: owner_id.clone(),
            fencing_token,
            ..Default::default()
        };
        tally.take("Heartbeat", sagas.heartbeat(heartbeat).await)?;
    }
    let (task_id, owner) = (task_id.to_owned(), owner_id.clone());
    match end {
        0 | 1 => {
            let complete = CompleteRequest { task_id, owner_id, fencing_token, ..Default::default() };
            tally.take("Complete", sagas.complete(complete).await)?;
        }
        2 => {
            let reason = "it can't be done".to_owned();
            let fail = FailRequest { task_id, owner_id, fencing_token, reason, ..Default::default() };
            tally.take("Fail", sagas.fail(fail).await)?;
        }
        UNDONE => {
            let reason = "it has to be undone".to_owned();
            let fail = FailRequest { task_id: task_id.clone(), owner_id, fencing_token, reason, ..Default::default() };
            tally.take("Fail", sagas.fail(fail).await)?;
            undo(sagas, tally, &task_id, &owner).await?;
        }
        _ => {
            let reason = "somebody has to look".to_owned();
            let park = QuarantineRequest { task_id, owner_id, fencing_token, reason, ..Default::default() };
            tally.take("Quarantine", sagas.quarantine(park).await)?;
        }
    }
    Some(())
}

/// Compensates a saga.
async fn undo(sagas: &mut Sagas, tally: &CallCounts, task_id: &str, owner_id: &str) -> Option<()> {
    let (task_id, owner_id) = (task_id.to_owned(), owner_id.to_owned());
    let claim = ClaimRequest {
        task_id: task_id.clone(),
        owner_id: owner_id.clone(),
        purpose: LeasePurpose::Compensate.into(),
        ..Default::default()
    };
    let claimed = tally.take("Claim", sagas.claim(claim).await)?.into_inner().saga?;
    let fencing_token = claimed.lease?.fencing_token;
    for position in [2, 1] {
        let record = RecordCompensationRequest {
            task_id: task_id.clone(),
            owner_id: owner_id.clone(),
            fencing_token,
            position,
            outcome: CompensationOutcome::Done.into(),
            ..Default::default()
        };
        tally.take("RecordCompensation", sagas.record_compensation(record).await)?;
    }
    let compensate = CompensateRequest { task_id, owner_id, fencing_token, ..Default::default() };
    tally.take("Compensate", sagas.compensate(compensate).await)?;
    Some(())
}

/// A watcher that reads for a while, disconnects, and resumes, or starts again if its position is compacted.
async fn watch(address: SocketAddr, tally: Arc<CallCounts>) {
    let mut after = None;
    while tally.is_running() {
        let mut sagas = support::sagas(address).await;
        let request = WatchEventsRequest { after_revision: after, ..Default::default() };
        let Some(stream) = tally.take("WatchEvents", sagas.watch_events(request).await) else { continue };
        let mut stream = stream.into_inner();
        let until = now() + Duration::from_millis(1500);
        while now() < until {
            match tokio::time::timeout(Duration::from_millis(300), stream.message()).await {
                Ok(Ok(Some(item))) => after = Some(item.revision),
                Ok(Ok(None)) => break,
                Ok(Err(status)) => {
                    tally.take::<()>("WatchEvents", Err(status));
                    after = None;
                    break;
                }
                Err(_) => {}
            }
        }
        drop(stream);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn watch_stale(address: SocketAddr, tally: Arc<CallCounts>) {
    while tally.is_running() {
        let mut sagas = support::sagas(address).await;
        if let Some(stream) = tally.take("WatchStale", sagas.watch_stale(WatchStaleRequest::default()).await) {
            let mut stream = stream.into_inner();
            let _ = tokio::time::timeout(Duration::from_millis(700), stream.message()).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Opens connections, makes a read, and closes them.
async fn come_and_go(address: SocketAddr, tally: Arc<CallCounts>) {
    while tally.is_running() {
        let mut sagas = support::sagas(address).await;
        tally.take("ListSagas", sagas.list_sagas(ListSagasRequest { page_size: 100, ..Default::default() }).await);
        tally.take("GetStats", sagas.get_stats(GetStatsRequest {}).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
