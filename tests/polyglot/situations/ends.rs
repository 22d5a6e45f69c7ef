//! Work that is to end before it is done: cancelled, revoked, or because the worker has to go.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    program::Program,
    scene::Scene,
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

/// No line was written after the work had stopped; nor is one in the report that was not told.
fn assert_stopped(scene: &Scene, worker: &Program) {
    let events = worker.events();
    let stopped = events.iter().position(|event| event["event"] == "stopped").unwrap();
    let line = |event: &serde_json::Value| event["event"] == "line" && event["task_id"] == "t";
    assert!(!events[stopped..].iter().any(line), "a line after it had stopped{}", worker.story());
    if scene.path("t").exists() {
        assert_eq!(scene.text("t").lines().count(), worker.of("line", "t").len());
    }
}

/// The heartbeat brings the order, the work stops, fails, and is undone.
pub async fn cancelled(language: &'static Language) {
    let scene = Scene::new(language).await;
    let mut compensator = scene.ready(Role::Compensator, "c", &[]).await;
    let mut worker = scene.worker("w", "6").await;
    scene.make(scene.long("t", 600, 100)).await;
    worker.until_line("t", 1).await;
    scene.api.request_cancel(cancel("t", false)).await.unwrap();
    assert_eq!(worker.until_of("cancelled", "t").await["reason"], "not needed");
    worker.until_of("stopped", "t").await;
    assert_eq!(worker.until_of("failed", "t").await["state"], "SAGA_STATE_COMPENSATING");
    compensator.until_of("compensated", "t").await;
    assert!(!scene.path("t").exists());
    let reason = scene.event("t", EventType::Compensating).await.reason;
    assert_eq!(reason, "cancelled: not needed");
    assert_eq!(scene.api.get("t").await.expirations, 0, "the lease was kept while the work stopped");
    worker.drain().await;
    assert_stopped(&scene, &worker);
    assert_eq!((worker.all("lost").len(), worker.all("refused").len()), (0, 0));
    compensator.drain().await;
}

/// The next heartbeat is refused: the work stops at once, and nothing is reported.
pub async fn revoked(language: &'static Language) {
    let scene = Scene::new(language).await;
    let mut worker = scene.worker("w", "9").await;
    scene.make(scene.long("t", 600, 100)).await;
    worker.until_line("t", 1).await;
    scene.api.request_cancel(cancel("t", true)).await.unwrap();
    let lost = worker.until_of("lost", "t").await;
    assert_eq!(lost["reason"], "LEASE_SUPERSEDED", "long before its own deadline{}", worker.story());
    worker.until_of("stopped", "t").await;
    // It is free for the next.
    scene.make(scene.report("next", &["one"], 0)).await;
    worker.until_of("completed", "next").await;
    assert_stopped(&scene, &worker);
    worker.drain().await;
    for report in ["completed", "failed", "released", "quarantined", "refused"] {
        assert_eq!(worker.of(report, "t").len(), 0, "nothing is reported: {report}");
    }
    let saga = scene.api.get("t").await;
    assert_eq!((saga.state(), saga.compensations.len()), (SagaState::Compensating, 1));
}

/// SIGTERM lets what runs end, and claims nothing more; a second signal gives back what runs.
pub async fn drained(language: &'static Language) {
    let scene = Scene::new(language).await;
    let lines = ["word"; 10];
    let mut worker = scene.worker("first", "10").await;
    scene.make(scene.report("t", &lines, 150)).await;
    worker.until_line("t", 1).await;
    scene.make(scene.long("waits", 600, 100)).await;
    worker.signal(Signal::TERM);
    worker.drained().await;
    scene.assert_completed("t", &lines, 1).await;
    let waits = scene.api.get("waits").await;
    assert_eq!((waits.state(), waits.attempt), (SagaState::Planned, 0), "nothing more was claimed");

    let mut worker = scene.worker("second", "10").await;
    worker.until_line("waits", 1).await;
    worker.signal(Signal::TERM);
    let written = worker.of("line", "waits").len() as u64;
    worker.until_line("waits", written + 3).await;
    worker.signal(Signal::INT);
    assert_eq!(worker.until_of("released", "waits").await["state"], "SAGA_STATE_PLANNED");
    worker.drained().await;
    let saga = scene.api.get("waits").await;
    assert_eq!((saga.state(), saga.failures, saga.expirations), (SagaState::Planned, 0, 0));

    // Both while it is suspended, so that it finds them when it wakes up.
    let mut worker = scene.worker("third", "120").await;
    worker.until_line("waits", 1).await;
    for signal in [Signal::STOP, Signal::TERM, Signal::INT, Signal::CONT] {
        worker.signal(signal);
    }
    worker.until_of("released", "waits").await;
    worker.drained().await;

    // One that has nothing to do is gone long before its wait in the coordinator would be over.
    let mut idle = scene.ready(Role::Worker, "fourth", &[("SAGAD_TTL", "120"), ("SAGAD_QUEUES", "empty,void")]).await;
    let waits = || async { (scene.api.stats().await.waiting > 0).then_some(()) };
    eventually("it waits", waits).await;
    let begun = now();
    idle.drain().await;
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited {:?}", begun.elapsed());
}
