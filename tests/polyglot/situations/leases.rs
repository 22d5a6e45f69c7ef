//! Leases that run out, or must not: workers killed, suspended, busy, and at odds.

use std::collections::BTreeSet;

use rustix::process::Signal;
use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    scene::Scene,
    support::{ExpectRefusal, key},
};

/// Killed in the middle: it goes stale, the watcher decides that it is undone, the compensator undoes it.
pub async fn killed(language: &'static Language) {
    let scene = Scene::new(language).await;
    let mut watcher = scene.ready(Role::Watcher, "the-watcher", &[]).await;
    let mut compensator = scene.ready(Role::Compensator, "the-compensator", &[("SAGAD_TTL", "10")]).await;
    let mut worker = scene.worker("the-worker", "5").await;
    scene.make(scene.long("t", 600, 100)).await;
    worker.until_line("t", 2).await;
    let token = worker.of("claimed", "t")[0]["fencing_token"].clone();
    worker.kill();
    assert!(scene.path("t").exists());

    let stale = watcher.until_of("stale", "t").await;
    assert_eq!((&stale["fencing_token"], &stale["cause"]), (&token, &"STALE_CAUSE_TTL".into()));
    assert_eq!(watcher.until_of("decided", "t").await["decision"], "COMPENSATE");
    assert_eq!(watcher.until_of("resolved", "t").await["resolution"], "RESOLUTION_COMPENSATING");
    assert_eq!(compensator.until_of("claimed", "t").await["purpose"], "COMPENSATE");
    let settled = compensator.until_of("settled", "t").await;
    assert_eq!((&settled["position"], &settled["outcome"]), (&1.into(), &"DONE".into()));
    assert_eq!(compensator.until_of("compensated", "t").await["state"], "SAGA_STATE_COMPENSATED");
    assert!(!scene.path("t").exists(), "what the work left behind is gone");

    let saga = scene.api.get("t").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    let expired = scene.event("t", EventType::LeaseExpired).await;
    assert_eq!(stale["revision"], expired.revision);
    let decided = scene.event("t", EventType::RecoveryDecided).await;
    assert_eq!(decided.actor, "the-watcher");
    assert!(!decided.reason.is_empty());
    assert_eq!(scene.event("t", EventType::CompensationSettled).await.actor, "the-compensator");
    compensator.drain().await;
    watcher.drain().await;
}

/// Suspended past its lease, while another worker does the work. When it wakes up it is refused, and changes nothing.
pub async fn suspended(language: &'static Language) {
    let scene = Scene::new(language).await;
    let lines = ["word"; 60];
    let mut zombie = scene.worker("zombie", "5").await;
    scene.make(scene.report("t", &lines, 50)).await;
    zombie.until_line("t", 2).await;
    zombie.signal(Signal::STOP);
    let stale = scene.api.until_stale("t").await;
    let old = key(&stale);
    let decision = RecoverRequest {
        task_id: "t".into(),
        decision: RecoveryDecision::Requeue.into(),
        actor: "a person".into(),
        reason: "it hangs".into(),
        fencing_token: old.fencing_token,
        ..Default::default()
    };
    scene.api.recover(decision).await.unwrap();

    let mut other = scene.worker("other", "15").await;
    other.until_line("t", 3).await;
    // It wakes up while the other is at it: a line of its own now would be in the other's report.
    zombie.signal(Signal::CONT);
    let lost = zombie.until_of("lost", "t").await;
    let reason = lost["reason"].as_str().unwrap();
    assert!(["DEADLINE", "LEASE_SUPERSEDED"].contains(&reason), "{lost}");
    zombie.until_of("stopped", "t").await;
    other.until_of("completed", "t").await;
    scene.assert_completed("t", &lines, 2).await;
    assert_eq!(scene.api.heartbeat(old.heartbeat()).await.reason(), "LEASE_SUPERSEDED");

    zombie.drain().await;
    assert_eq!(zombie.events().iter().filter(|event| event["event"] == "completed").count(), 0);
    assert_eq!((zombie.all("failed").len(), zombie.all("released").len()), (0, 0), "it reported nothing");
    // Not one line between waking up and stopping: both wrote them all, but for those which the other was spared.
    let written = zombie.of("line", "t").len();
    let lost_at = zombie.events().iter().position(|event| event["event"] == "lost").unwrap();
    let before = zombie.events()[..lost_at].iter().filter(|event| event["event"] == "line").count();
    assert_eq!(written, before, "a line after the lease was lost");
    other.drain().await;
}

/// Busy for longer than its lease: heartbeats come from elsewhere.
pub async fn busy(language: &'static Language) {
    let scene = Scene::new(language).await;
    let lines = ["one", "!spin 8000", "three"];
    let mut worker = scene.worker("w", "6").await;
    scene.make(scene.report("t", &lines, 0)).await;
    worker.until_of("completed", "t").await;
    scene.assert_completed("t", &lines, 1).await;
    assert_eq!(scene.api.get("t").await.expirations, 0);
    let events = worker.events();
    let line = |n| events.iter().position(|event| event["event"] == "line" && event["n"] == n).unwrap();
    let beats = events[line(1)..line(2)].iter().filter(|event| event["event"] == "heartbeat").count();
    assert!(beats >= 2, "{beats} heartbeats while it was busy{}", worker.story());
    worker.drain().await;
    assert_eq!(worker.all("lost").len(), 0);
}

/// Two workers, many sagas: each is worked on once, and both get some.
pub async fn racing(language: &'static Language) {
    let scene = Scene::new(language).await;
    let mut workers = [scene.worker("left", "15").await, scene.worker("right", "15").await];
    let names: Vec<_> = (0..24).map(|n| format!("t-{n}")).collect();
    let requests = names.iter().map(|name| scene.report(name, &["one", "two"], 10)).collect();
    scene.api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    for name in &names {
        scene.api.until(name, "is completed", |saga| saga.state() == SagaState::Completed).await;
        scene.assert_completed(name, &["one", "two"], 1).await;
    }
    for worker in &mut workers {
        worker.drain().await;
        assert_eq!((worker.all("lost").len(), worker.all("refused").len()), (0, 0));
    }
    let done: Vec<_> = workers.iter().map(|worker| worker.all("completed")).collect();
    assert!(done.iter().all(|done| !done.is_empty()), "both got some: {}, {}", done[0].len(), done[1].len());
    let all: Vec<_> = done.iter().flatten().map(|event| event["task_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((all.len(), BTreeSet::from_iter(all)), (24, BTreeSet::from_iter(names)));
    assert_eq!(workers.iter().map(|worker| worker.all("claimed").len()).sum::<usize>(), 24);
}
