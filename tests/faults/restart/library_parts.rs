//! Helpers for `library_clients`: a worker, a compensation handler, a lease, watches, and a process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::random_range;
use sagad::{
    client::{
        Client, LeaseKeeper, LeaseStatus, Note, Notes, Shutdown,
        follow::{Follow, FollowItem, Revisioned},
        recovery::{self, CompensationHandler, CompensationResult, CompensationRun, RecoveryOptions},
        retry::RetryOn,
        time,
        worker::{Handler, Task, WorkOutcome},
    },
    proto::*,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{OUTAGE, acknowledged_events::AcknowledgedEvents, retrying_caller::fresh};
use crate::support::{WAIT_MAX, binary, claim, compensation};

/// The number of sagas that a worker executes at once.
pub const CONCURRENCY: usize = 4;

pub fn client(address: SocketAddr) -> Client {
    Client::new(&format!("http://{address}"), Duration::from_secs(10)).unwrap()
}

/// The library's workers stop at their own deadline, even if the coordinator would still accept a heartbeat. So their leases are
/// longer than the longest outage.
pub const TTL: Duration = OUTAGE.saturating_mul(2);

/// Executes a saga for a moment, and fails those that should be compensated.
pub struct TestWork;

impl Handler for TestWork {
    async fn run(&self, task: &Task) -> WorkOutcome {
        tokio::time::sleep(Duration::from_millis(random_range(10..300))).await;
        assert_eq!(*task.lease.status().borrow(), LeaseStatus::Held);
        let reason = String::from("so it is");
        if task.saga.labels.contains_key("fails") {
            return WorkOutcome::Failed { reason, retryable: false, compensations: Vec::new() };
        }
        WorkOutcome::Completed { result: task.saga.task_id.clone().into(), reason }
    }
}

impl CompensationHandler for TestWork {
    fn handles(&self, _: &str) -> bool {
        true
    }

    async fn undo(&self, undo: CompensationRun<'_>) -> CompensationResult {
        tokio::time::sleep(Duration::from_millis(random_range(10..100))).await;
        assert_eq!(*undo.lease.status().borrow(), LeaseStatus::Held);
        CompensationResult::Done("it is gone".into())
    }
}

/// Counts the workers' notes, and keeps those that must not occur.
#[derive(Clone, Default)]
pub struct WorkerNotes {
    pub counts: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    pub trouble: Arc<Mutex<Vec<String>>>,
}

impl WorkerNotes {
    pub fn notes(&self) -> Notes {
        let told = self.clone();
        Arc::new(move |note| {
            let kind = match &note {
                Note::Claimed { .. } => "claimed",
                Note::Finished { .. } => "finished",
                Note::Compensation { error: None, .. } => "undone",
                Note::Unreachable { .. } => "unreachable",
                Note::Reachable => "reachable",
                Note::Skipped { .. } => "skipped",
                Note::Compensation { .. } | Note::Lost { .. } | Note::NotReported { .. } => {
                    told.trouble.lock().unwrap().push(note.to_string());
                    "trouble"
                }
            };
            *told.counts.lock().unwrap().entry(kind).or_default() += 1;
        })
    }
}

/// Creates sagas, each with one call of the library.
pub async fn produce(client: Client, acknowledged: AcknowledgedEvents, calls: Arc<AtomicU64>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let fails = random_range(0..4) == 0;
        let policy = Policy { on_failure: FailureAction::Compensate.into(), ..Default::default() };
        let request = CreateSagaRequest {
            queue: if random_range(0..5) == 0 { "shell" } else { "work" }.into(),
            labels: if fails { [("fails".to_owned(), String::new())].into() } else { Default::default() },
            compensations: vec![compensation("a")],
            policy: Some(policy),
            request_id: fresh(),
            ..Default::default()
        };
        let give_up = time::now() + WAIT_MAX;
        let send = |mut c: saga_service_client::SagaServiceClient<_>, r| async move { c.create_saga(r).await };
        let answer = client.call(request, RetryOn::Unknown, || give_up, send).await.expect("no call fails finally");
        acknowledged.created(&answer.saga.unwrap().task_id);
        calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(random_range(20..120))).await;
    }
}

/// Runs a draining compensator again and again; it must never fail.
pub async fn clean_up(client: Client, notes: Notes, stop: CancellationToken) -> u64 {
    let mut rounds = 0;
    while !stop.is_cancelled() {
        let options = recovery_options("cleaner", true);
        let done = recovery::run(client.clone(), options, TestWork, Shutdown::default(), notes.clone()).await;
        done.expect("it ends without an error when nothing is left");
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rounds
}

pub fn recovery_options(owner: &str, drain: bool) -> RecoveryOptions {
    RecoveryOptions {
        queues: vec!["work".into()],
        owner_id: owner.into(),
        ttl: TTL,
        concurrency: CONCURRENCY,
        stale: true,
        drain,
        kinds: Vec::new(),
        attempts: 1,
    }
}

/// Follows a stream until `head` is set and reached.
pub async fn follow<T: Revisioned>(mut follow: Follow<T>, mut head: watch::Receiver<i64>) -> Vec<T> {
    let mut record = Vec::new();
    while follow.after() < Some(*head.borrow()) {
        let followed = tokio::select! {
            followed = follow.next() => followed,
            _ = head.changed() => continue,
        };
        match followed.expect("the watch continues") {
            FollowItem::Item(item) => record.push(item),
            FollowItem::Broken(_) => {}
            FollowItem::End => panic!("it ended"),
        }
    }
    record
}

/// A lease that is kept during the whole test.
pub async fn kept(client: &Client) -> LeaseKeeper {
    let asked = time::now();
    let send = |request| async { client.sagas().claim(client.unary(request)).await.map(tonic::Response::into_inner) };
    let saga = send(ClaimRequest { request_id: fresh(), ..claim("kept", "keeper", TTL.as_millis() as u64) })
        .await
        .unwrap()
        .saga;
    LeaseKeeper::start(client, &saga.unwrap(), asked).await.unwrap()
}

/// A process of `sagad work`.
pub fn work_process(address: SocketAddr) -> Child {
    binary::sagad()
        .args(["work", "--queue", "shell", "--ttl", "12s", "--concurrency", "2", "--", "sleep", "0.05"])
        .env("SAGAD_SERVER", format!("http://{address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
