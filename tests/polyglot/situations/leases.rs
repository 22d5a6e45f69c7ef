//! Leases: workers that are killed, suspended, busy, or compete.

use std::collections::BTreeSet;

use rustix::process::Signal;
use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    situation_run::SituationRun,
    support::{ExpectRefusal, key},
};

/// A worker is killed: its saga becomes stale, the watcher decides to compensate it, and the compensator does so.
pub async fn killed(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let mut watcher = run.ready(Role::Watcher, "the-watcher", &[]).await;
    let mut compensator = run.ready(Role::Compensator, "the-compensator", &[("SAGAD_TTL", "10")]).await;
    let mut worker = run.worker("the-worker", "5").await;
    run.create(run.long("t", 600, 100)).await;
    worker.until_line("t", 2).await;
    let token = worker.of("claimed", "t")[0]["fencing_token"].clone();
    worker.kill();
    assert!(run.path("t").exists());

    let stale = watcher.until_of("stale", "t").await;
    assert_eq!((&stale["fencing_token"], &stale["cause"]), (&token, &"STALE_CAUSE_TTL".into()));
    assert_eq!(watcher.until_of("decided", "t").await["decision"], "COMPENSATE");
    assert_eq!(watcher.until_of("resolved", "t").await["resolution"], "RESOLUTION_COMPENSATING");
    assert_eq!(compensator.until_of("claimed", "t").await["purpose"], "COMPENSATE");
    let settled = compensator.until_of("settled", "t").await;
    assert_eq!((&settled["position"], &settled["outcome"]), (&1.into(), &"DONE".into()));
    assert_eq!(compensator.until_of("compensated", "t").await["state"], "SAGA_STATE_COMPENSATED");
    assert!(!run.path("t").exists(), "what the work left behind is gone");

    let saga = run.api.get("t").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    let expired = run.event("t", EventType::LeaseExpired).await;
    assert_eq!(stale["revision"], expired.revision);
    let decided = run.event("t", EventType::RecoveryDecided).await;
    assert_eq!(decided.actor, "the-watcher");
    assert!(!decided.reason.is_empty());
    assert_eq!(run.event("t", EventType::CompensationSettled).await.actor, "the-compensator");
    compensator.drain().await;
    watcher.drain().await;
}

/// A worker is suspended past its lease while another one does the work. When it continues it is refused and changes nothing.
pub async fn suspended(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let lines = ["word"; 60];
    let mut suspended = run.worker("suspended", "5").await;
    run.create(run.report("t", &lines, 50)).await;
    suspended.until_line("t", 2).await;
    suspended.signal(Signal::STOP);
    let stale = run.api.until_stale("t").await;
    let old = key(&stale);
    let decision = RecoverRequest {
        task_id: "t".into(),
        decision: RecoveryDecision::Requeue.into(),
        actor: "a person".into(),
        reason: "it hangs".into(),
        fencing_token: old.fencing_token,
        ..Default::default()
    };
    run.api.recover(decision).await.unwrap();

    let mut other = run.worker("other", "15").await;
    other.until_line("t", 3).await;
    // It continues while the other one writes: any line of it would be in the other's report.
    suspended.signal(Signal::CONT);
    let lost = suspended.until_of("lost", "t").await;
    let reason = lost["reason"].as_str().unwrap();
    assert!(["DEADLINE", "LEASE_SUPERSEDED"].contains(&reason), "{lost}");
    suspended.until_of("stopped", "t").await;
    other.until_of("completed", "t").await;
    run.assert_completed("t", &lines, 2).await;
    assert_eq!(run.api.heartbeat(old.heartbeat()).await.reason(), "LEASE_SUPERSEDED");

    suspended.drain().await;
    assert_eq!(suspended.events().iter().filter(|event| event["event"] == "completed").count(), 0);
    assert_eq!((suspended.all("failed").len(), suspended.all("released").len()), (0, 0), "it reported nothing");
    // It wrote no line between continuing and stopping.
    let written = suspended.of("line", "t").len();
    let lost_at = suspended.events().iter().position(|event| event["event"] == "lost").unwrap();
    let before = suspended.events()[..lost_at].iter().filter(|event| event["event"] == "line").count();
    assert_eq!(written, before, "a line after the lease was lost");
    other.drain().await;
}

/// A worker is busy for longer than its lease; heartbeats come from another thread.
pub async fn busy(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let lines = ["one", "!spin 8000", "three"];
    let mut worker = run.worker("w", "6").await;
    run.create(run.report("t", &lines, 0)).await;
    worker.until_of("completed", "t").await;
    run.assert_completed("t", &lines, 1).await;
    assert_eq!(run.api.get("t").await.expirations, 0);
    let events = worker.events();
    let line = |n| events.iter().position(|event| event["event"] == "line" && event["n"] == n).unwrap();
    let beats = events[line(1)..line(2)].iter().filter(|event| event["event"] == "heartbeat").count();
    assert!(beats >= 2, "{beats} heartbeats while it was busy{}", worker.all_output());
    worker.drain().await;
    assert_eq!(worker.all("lost").len(), 0);
}

/// Two workers, many sagas: each is worked on once, and both get some.
pub async fn racing(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let mut workers = [run.worker("left", "15").await, run.worker("right", "15").await];
    let names: Vec<_> = (0..24).map(|n| format!("t-{n}")).collect();
    let requests = names.iter().map(|name| run.report(name, &["one", "two"], 10)).collect();
    run.api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    for name in &names {
        run.api.until(name, "is completed", |saga| saga.state() == SagaState::Completed).await;
        run.assert_completed(name, &["one", "two"], 1).await;
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
