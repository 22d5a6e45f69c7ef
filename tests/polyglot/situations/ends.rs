//! Work that ends early: by a cancel, by a revocation, or because the worker is ended.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    program::Program,
    situation_run::SituationRun,
    support::{eventually, now},
};

fn cancel(task_id: &str, revoke_lease: bool) -> RequestCancelRequest {
    RequestCancelRequest {
        task_id: task_id.into(),
        actor: "a person".into(),
        reason: "not needed".into(),
        revoke_lease,
        ..Default::default()
    }
}

/// Asserts that no line was written after the work stopped, and that every line in the report has an event.
fn assert_stopped(run: &SituationRun, worker: &Program) {
    let events = worker.events();
    let stopped = events.iter().position(|event| event["event"] == "stopped").unwrap();
    let line = |event: &serde_json::Value| event["event"] == "line" && event["task_id"] == "t";
    assert!(!events[stopped..].iter().any(line), "a line after it had stopped{}", worker.all_output());
    if run.path("t").exists() {
        assert_eq!(run.text("t").lines().count(), worker.of("line", "t").len());
    }
}

/// A heartbeat returns the cancel; the work stops, fails, and is compensated.
pub async fn cancelled(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let mut compensator = run.ready(Role::Compensator, "c", &[]).await;
    let mut worker = run.worker("w", "6").await;
    run.create(run.long("t", 600, 100)).await;
    worker.until_line("t", 1).await;
    run.api.request_cancel(cancel("t", false)).await.unwrap();
    assert_eq!(worker.until_of("cancelled", "t").await["reason"], "not needed");
    worker.until_of("stopped", "t").await;
    assert_eq!(worker.until_of("failed", "t").await["state"], "SAGA_STATE_COMPENSATING");
    compensator.until_of("compensated", "t").await;
    assert!(!run.path("t").exists());
    let reason = run.event("t", EventType::Compensating).await.reason;
    assert_eq!(reason, "cancelled: not needed");
    assert_eq!(run.api.get("t").await.expirations, 0, "the lease was kept while the work stopped");
    worker.drain().await;
    assert_stopped(&run, &worker);
    assert_eq!((worker.all("lost").len(), worker.all("refused").len()), (0, 0));
    compensator.drain().await;
}

/// The next heartbeat is refused: the work stops at once, and no outcome is reported.
pub async fn revoked(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let mut worker = run.worker("w", "9").await;
    run.create(run.long("t", 600, 100)).await;
    worker.until_line("t", 1).await;
    run.api.request_cancel(cancel("t", true)).await.unwrap();
    let lost = worker.until_of("lost", "t").await;
    assert_eq!(lost["reason"], "LEASE_SUPERSEDED", "long before its own deadline{}", worker.all_output());
    worker.until_of("stopped", "t").await;
    // The worker is free for the next saga.
    run.create(run.report("next", &["one"], 0)).await;
    worker.until_of("completed", "next").await;
    assert_stopped(&run, &worker);
    worker.drain().await;
    for report in ["completed", "failed", "released", "quarantined", "refused"] {
        assert_eq!(worker.of(report, "t").len(), 0, "nothing is reported: {report}");
    }
    let saga = run.api.get("t").await;
    assert_eq!((saga.state(), saga.compensations.len()), (SagaState::Compensating, 1));
}

/// After SIGTERM the running work ends and nothing more is claimed; a second SIGTERM releases the running saga.
pub async fn drained(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let lines = ["word"; 10];
    let mut worker = run.worker("first", "10").await;
    run.create(run.report("t", &lines, 150)).await;
    worker.until_line("t", 1).await;
    run.create(run.long("waits", 600, 100)).await;
    worker.signal(Signal::TERM);
    worker.drained().await;
    run.assert_completed("t", &lines, 1).await;
    let waits = run.api.get("waits").await;
    assert_eq!((waits.state(), waits.attempt), (SagaState::Planned, 0), "nothing more was claimed");

    let mut worker = run.worker("second", "10").await;
    worker.until_line("waits", 1).await;
    worker.signal(Signal::TERM);
    let written = worker.of("line", "waits").len() as u64;
    worker.until_line("waits", written + 3).await;
    worker.signal(Signal::INT);
    assert_eq!(worker.until_of("released", "waits").await["state"], "SAGA_STATE_PLANNED");
    worker.drained().await;
    let saga = run.api.get("waits").await;
    assert_eq!((saga.state(), saga.failures, saga.expirations), (SagaState::Planned, 0, 0));

    // Both signals come while it is suspended, so that it gets them when it continues.
    let mut worker = run.worker("third", "120").await;
    worker.until_line("waits", 1).await;
    for signal in [Signal::STOP, Signal::TERM, Signal::INT, Signal::CONT] {
        worker.signal(signal);
    }
    worker.until_of("released", "waits").await;
    worker.drained().await;

    // An idle worker ends long before its waiting claim would return.
    let mut idle = run.ready(Role::Worker, "fourth", &[("SAGAD_TTL", "120"), ("SAGAD_QUEUES", "empty,void")]).await;
    let waits = || async { (run.api.stats().await.waiting > 0).then_some(()) };
    eventually("it waits", waits).await;
    let begun = now();
    idle.drain().await;
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited {:?}", begun.elapsed());
}
