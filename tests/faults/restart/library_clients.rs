//! The library's worker, recovery worker, lease keeper and watches, and the process `sagad work`, over restarts. They retry by
//! themselves, so their users don't notice a restart.

use std::{
    future::Future,
    io::Read,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sagad::{
    client::{
        LeaseStatus, Shutdown, WorkerError,
        follow::Follow,
        recovery,
        worker::{self, WorkerOptions},
    },
    proto::*,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    ARGS,
    acknowledged_events::{AcknowledgedEvents, list},
    library_parts::{
        CONCURRENCY, TTL, TestWork, WorkerNotes, clean_up, client, follow, kept, produce, recovery_options,
        work_process,
    },
    restart_again_and_again,
    retrying_caller::{CallFigures, RetryingCaller},
};
use crate::support::{Daemon, WAIT_MAX, daemon::ShutdownSignal, eventually, now};

const PRODUCERS: usize = 8;
const WORKERS: usize = 12;
const RECOVERERS: usize = 2;
const PROCESSES: usize = 2;
const WATCHERS: usize = 2;

/// Sends SIGTERM; it must end with exit code 0, without a lost lease or an unreported outcome.
async fn end_process(mut process: Child) {
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    let status = eventually("`sagad work` ends", || {
        let ended = process.try_wait().unwrap();
        async move { ended }
    })
    .await;
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!said.contains("lost ") && !said.contains("not reported"), "{said}");
}

/// Spawns a task that must not fail.
fn spawn(tasks: &mut JoinSet<()>, task: impl Future<Output = Result<(), WorkerError>> + Send + 'static) {
    tasks.spawn(async move { task.await.expect("a worker does not fail") });
}

/// Runs workers, recovery workers, a lease keeper and watches over restarts.
pub async fn workers_go_on(how: ShutdownSignal) {
    let mut daemon = Daemon::start_with(ARGS);
    let address = daemon.address();
    let (acknowledged, told, calls) =
        (AcknowledgedEvents::default(), WorkerNotes::default(), Arc::new(AtomicU64::new(0)));
    let (stop, shutdown) = (CancellationToken::new(), Shutdown::default());
    let caller = RetryingCaller::new(address, &CallFigures::new());
    let kept_saga = CreateSagaRequest { task_id: "kept".into(), queue: "kept".into(), ..Default::default() };
    caller.must(kept_saga, |api, r| async move { api.create_saga(r).await }).await;
    let keeper = kept(&client(address)).await;

    let (set_head, head) = watch::channel(i64::MAX);
    let (mut watchers, mut producers, mut workers) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for _ in 0..WATCHERS {
        let request = WatchEventsRequest { after_revision: Some(0), ..Default::default() };
        watchers.spawn(follow(Follow::events(&client(address), request), head.clone()));
    }
    for _ in 0..PRODUCERS {
        producers.spawn(produce(client(address), acknowledged.clone(), calls.clone(), stop.clone()));
    }
    for n in 0..WORKERS {
        let options = WorkerOptions {
            queues: vec!["work".into()],
            owner_id: format!("worker-{n}"),
            ttl: TTL,
            concurrency: CONCURRENCY,
            drain: false,
        };
        spawn(&mut workers, worker::run(client(address), options, Arc::new(TestWork), shutdown.clone(), told.notes()));
    }
    for n in 0..RECOVERERS {
        let options = recovery_options(&format!("recoverer-{n}"), false);
        spawn(&mut workers, recovery::run(client(address), options, TestWork, shutdown.clone(), told.notes()));
    }
    let cleaning = tokio::spawn(clean_up(client(address), told.notes(), stop.clone()));
    let processes: Vec<Child> = (0..PROCESSES).map(|_| work_process(address)).collect();

    let restarts = restart_again_and_again(&mut daemon, how).await;
    stop.cancel();
    while producers.join_next().await.transpose().expect("no producer panics").is_some() {}
    let rounds = cleaning.await.expect("no cleaner panics");
    let begun = now();
    while !list(&caller, ListSagasRequest { in_flight_only: true, ..Default::default() })
        .await
        .iter()
        .all(|saga| saga.task_id == "kept")
    {
        assert!(begun.elapsed() < WAIT_MAX, "the sagas are not finished: {:?}", told.counts.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(*keeper.status().borrow(), LeaseStatus::Held, "the lease was kept over all restarts");
    drop(keeper);
    shutdown.drain.cancel();
    while workers.join_next().await.transpose().expect("no worker panics").is_some() {}
    for process in processes {
        end_process(process).await;
    }
    let trouble = told.trouble.lock().unwrap().clone();
    assert!(trouble.is_empty(), "{trouble:#?}");

    let sagas = list(&caller, ListSagasRequest { page_size: 1000, ..Default::default() }).await;
    let history = each_once(&caller, &acknowledged, &sagas).await;
    set_head.send_replace(history.last().unwrap().revision);
    while let Some(record) = watchers.join_next().await.transpose().expect("no watcher panics") {
        let seen = record.into_iter().filter_map(|answer| match answer.item.expect("an answer has an item") {
            watch_events_response::Item::Event(event) => Some(event),
            watch_events_response::Item::Bookmark(_) => None,
        });
        assert!(seen.collect::<Vec<_>>() == history, "a watcher's record differs from the history");
    }
    println!("the library's workers, {how:?}: {restarts:?}");
    let counts = told.counts.lock().unwrap();
    println!("{} sagas, {} events; workers told {counts:?}; {rounds} clean-ups", sagas.len(), history.len());
    assert!(calls.load(Ordering::Relaxed) > u64::from(restarts.count) * 2, "too few calls");
}

/// Asserts that no lease expired and that nothing was claimed, reported or compensated twice. Returns the history.
async fn each_once(caller: &RetryingCaller, acknowledged: &AcknowledgedEvents, sagas: &[Saga]) -> Vec<SagaEvent> {
    use EventType::{Claimed, Compensated, Compensating, CompensationSettled, Completed};
    for saga in sagas {
        let events = caller.api.history(&saga.task_id).await;
        let mut claims = events.iter().filter(|event| event.r#type() == Claimed).map(|event| event.fencing_token);
        let expected = match saga.state() {
            SagaState::Running if saga.task_id == "kept" => vec![Claimed],
            SagaState::Completed => vec![Claimed, Completed],
            SagaState::Compensated => vec![Claimed, Compensating, Claimed, CompensationSettled, Compensated],
            _ => panic!("it is not finished: {saga:?}"),
        };
        if saga.task_id == "kept" {
            acknowledged.created(&saga.task_id);
        }
        let mut token = 0;
        for kind in expected {
            if kind == Claimed {
                token = claims.next().unwrap_or(0);
            }
            acknowledged.add(&saga.task_id, kind, token);
        }
    }
    acknowledged.compare(caller).await
}
