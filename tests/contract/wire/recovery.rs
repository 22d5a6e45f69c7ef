//! Recovery of sagas whose worker has died.

use std::time::Duration;

use sagad::proto::*;

use crate::support::*;

fn on_stale(action: StaleAction) -> Option<Policy> {
    Some(Policy { on_stale: action.into(), ..Default::default() })
}

#[tokio::test]
async fn m12_compensated_means_that_each_is_done_or_waived_by_a_named_person() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(held("t", &["worktree", "branch", "ticket"])).await.unwrap();
    let lease = key(&api.claim(claim_undo("t", "u", 60_000)).await.unwrap());
    let done = |position| lease.record(position, CompensationOutcome::Done);
    assert_eq!(api.compensate(lease.compensate()).await.refused().fact("kinds"), "worktree,branch,ticket");

    let failed =
        RecordCompensationRequest { detail: "no answer".into(), ..lease.record(3, CompensationOutcome::Failed) };
    api.record_compensation(failed.clone()).await.unwrap();
    let saga = api.record_compensation(failed).await.unwrap();
    assert_eq!((saga.compensations[2].attempts, saga.compensations[2].last_error.as_str()), (2, "no answer"));
    assert_eq!(api.record_compensation(done(2)).await.reason(), "COMPENSATION_ORDER");

    let waive = WaiveCompensationRequest {
        task_id: "t".into(),
        position: 3,
        actor: "ada".into(),
        reason: "closed by hand".into(),
        ..Default::default()
    };
    let nameless = WaiveCompensationRequest { actor: String::new(), reason: String::new(), ..waive.clone() };
    assert_eq!(api.waive_compensation(nameless).await.refused().fields, ["actor", "reason"]);
    api.waive_compensation(waive).await.unwrap();
    api.record_compensation(done(2)).await.unwrap();
    assert_eq!(api.compensate(lease.compensate()).await.refused().fact("kinds"), "worktree");
    api.record_compensation(done(1)).await.unwrap();
    let saga = api.compensate(lease.compensate()).await.unwrap();
    assert_eq!(saga.state(), SagaState::Compensated);
    let settled: Vec<_> = saga.compensations.iter().map(|c| (c.state(), c.settled_by.as_str())).collect();
    let expected = [(CompensationState::Done, "u"), (CompensationState::Done, "u"), (CompensationState::Waived, "ada")];
    assert_eq!(settled, expected);
    assert!(saga.compensations.iter().all(|c| c.settle_time.is_some()));
}

#[tokio::test]
async fn m12_a_kind_without_a_handler_quarantines_the_saga_and_is_named() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let policy =
        Some(Policy { compensation_timeout: ms(600), on_stale: StaleAction::Compensate.into(), ..Default::default() });
    api.create_saga(CreateSagaRequest { policy, ..held("t", &["worktree", "moonbase"]) }).await.unwrap();
    api.claim(claim("t", "w", 100)).await.unwrap();
    let quarantined = api.until("t", "is quarantined", |saga| saga.state() == SagaState::Quarantined).await;
    assert!(quarantined.terminal_reason.contains("moonbase"), "{}", quarantined.terminal_reason);
    assert!(quarantined.compensations.iter().all(|c| c.state() == CompensationState::Pending), "they stay pending");

    // A handler that names its kinds gets no saga with other kinds.
    api.create_saga(held("u", &["worktree", "moonbase"])).await.unwrap();
    let lease = key(&api.claim(claim_undo("u", "first", 60_000)).await.unwrap());
    api.release(lease.release()).await.unwrap();
    let next = |kinds: &[&str]| ClaimNextRequest {
        queues: vec!["default".into()],
        owner_id: "u".into(),
        purpose: LeasePurpose::Compensate.into(),
        compensation_kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        ..Default::default()
    };
    assert_eq!(api.claim_next(next(&["worktree"])).await.unwrap(), []);
    assert_eq!(api.claim_next(next(&["worktree", "moonbase"])).await.unwrap().len(), 1);
}

#[tokio::test]
async fn m12_a_policy_compensates_at_once_where_nothing_is_registered() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(CreateSagaRequest { policy: on_stale(StaleAction::Compensate), ..create("t") }).await.unwrap();
    api.claim(claim("t", "w", 100)).await.unwrap();
    let ended = api.until("t", "has ended", |saga| saga.end_time.is_some()).await;
    assert_eq!((ended.state(), ended.terminal_reason.as_str()), (SagaState::Compensated, "nothing to undo"));
}

/// How long after the end of its lease a dead worker's saga was claimed by another.
async fn back_after(api: &Api, round: u32) -> Duration {
    let task_id = format!("t-{round}");
    let queue = format!("q-{round}");
    let policy = on_stale(StaleAction::Requeue);
    api.create_saga(CreateSagaRequest { policy, queue: queue.clone(), ..create(&task_id) }).await.unwrap();
    let begun = now();
    api.claim(claim(&task_id, "dead", 500)).await.unwrap();
    let request =
        ClaimNextRequest { queues: vec![queue], owner_id: "next".into(), wait: secs(30), ..Default::default() };
    let sagas = api.claim_next(request).await.unwrap();
    assert_eq!((sagas.len(), sagas[0].attempt, sagas[0].expirations), (1, 2, 1));
    begun.elapsed().saturating_sub(Duration::from_millis(500))
}

#[tokio::test]
async fn m13_a_dead_workers_saga_is_claimable_within_its_ttl_and_a_second() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let mut best = Duration::MAX;
    for round in 0..5 {
        best = best.min(back_after(&api, round).await);
        if best < Duration::from_secs(1) {
            return;
        }
    }
    panic!("it took {best:?} at best");
}

#[tokio::test]
async fn m13_policies_apply_without_any_call() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let cases = [
        ("hold", StaleAction::Hold, SagaState::Running),
        ("requeue", StaleAction::Requeue, SagaState::Planned),
        ("compensate", StaleAction::Compensate, SagaState::Compensating),
        ("quarantine", StaleAction::Quarantine, SagaState::Quarantined),
    ];
    let mut watch = api.watch_events(WatchEventsRequest::default()).await.unwrap();
    for (task_id, action, _) in cases {
        api.create_saga(CreateSagaRequest { policy: on_stale(action), ..held(task_id, &["a"]) }).await.unwrap();
        api.claim(claim(task_id, "w", 100)).await.unwrap();
    }
    // Only reads: the coordinator applies the policies by itself.
    let mut expired = 0;
    while expired < cases.len() {
        let answer = tokio::time::timeout(WAIT_MAX, watch.message()).await.unwrap().unwrap().unwrap();
        if let Some(watch_events_response::Item::Event(event)) = answer.item {
            expired += usize::from(event.r#type() == EventType::LeaseExpired);
        }
    }
    for (task_id, _, state) in cases {
        api.until(task_id, &format!("is {state:?}"), |saga| saga.state() == state).await;
    }
}

#[tokio::test]
async fn m13_requeueing_stops_at_max_expirations() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let policy = Policy { on_stale: StaleAction::Requeue.into(), max_expirations: 2, ..Default::default() };
    api.create_saga(CreateSagaRequest { policy: Some(policy), ..held("t", &["a"]) }).await.unwrap();
    api.claim(claim("t", "w", 100)).await.unwrap();
    api.until("t", "is planned again", |saga| saga.state() == SagaState::Planned).await;
    api.claim(claim("t", "w", 100)).await.unwrap();
    let saga = api.until("t", "is to be undone", |saga| saga.state() == SagaState::Compensating).await;
    assert_eq!((saga.expirations, saga.attempt), (2, 2));
}

#[tokio::test]
async fn m14_each_decision_is_stored_with_who_when_what_and_why() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let decisions = [
        ("again", RecoveryDecision::Requeue, "REQUEUE", EventType::Requeued, SagaState::Planned),
        ("undo", RecoveryDecision::Compensate, "COMPENSATE", EventType::Compensating, SagaState::Compensating),
        ("park", RecoveryDecision::Quarantine, "QUARANTINE", EventType::Quarantined, SagaState::Quarantined),
    ];
    for (task_id, decision, name, last, state) in decisions {
        let stale = api.stale(held(task_id, &["a"]), "w").await;
        let request = RecoverRequest {
            task_id: task_id.into(),
            decision: decision.into(),
            actor: "ada@example.org".into(),
            reason: format!("because of {name}"),
            fencing_token: key(&stale).fencing_token,
            ..Default::default()
        };
        let judged = RecoverRequest { validate_only: true, ..request.clone() };
        assert_eq!(api.recover(judged).await.unwrap(), stale, "validate_only changes nothing");
        assert_eq!(api.recover(request).await.unwrap().state(), state);

        let history = api.history(task_id).await;
        let [.., decided, then] = history.as_slice() else { panic!("{history:?}") };
        assert_eq!((decided.r#type(), then.r#type()), (EventType::RecoveryDecided, last));
        assert_eq!(
            (decided.actor.as_str(), decided.reason.as_str()),
            ("ada@example.org", &*format!("because of {name}"))
        );
        assert_eq!(decided.details.get("decision").map(String::as_str), Some(name));
        assert_eq!(decided.fencing_token, key(&stale).fencing_token);
        assert!(micros(decided.time.as_ref()) >= micros(stale.lease.unwrap().expire_time.as_ref()));
    }
    // A policy's decision is stored in the same way.
    api.create_saga(CreateSagaRequest { policy: on_stale(StaleAction::Requeue), ..create("policy") }).await.unwrap();
    api.claim(claim("policy", "w", 100)).await.unwrap();
    api.until("policy", "is planned again", |saga| saga.state() == SagaState::Planned).await;
    let history = api.history("policy").await;
    let decided = history.iter().find(|event| event.r#type() == EventType::RecoveryDecided).unwrap();
    assert_eq!((decided.actor.as_str(), decided.details.get("decision").unwrap().as_str()), ("sagad", "REQUEUE"));
    assert!(decided.reason.contains("on_stale"), "{}", decided.reason);
}

#[tokio::test]
async fn m14_a_decision_does_not_apply_once_the_worker_has_reported() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let stale = api.stale(create("t"), "w").await;
    let request = RecoverRequest {
        task_id: "t".into(),
        decision: RecoveryDecision::Quarantine.into(),
        actor: "ada".into(),
        reason: "it looked dead".into(),
        fencing_token: key(&stale).fencing_token,
        ..Default::default()
    };
    let done = api.complete(key(&stale).complete()).await.unwrap();
    assert_eq!(api.recover(request.clone()).await.reason(), "SAGA_TERMINAL");
    assert_eq!(api.get("t").await, done);

    let stale = api.stale(create("u"), "w").await;
    let again = api.claim(claim("u", "w", 60_000)).await.unwrap();
    let late = RecoverRequest { task_id: "u".into(), fencing_token: key(&stale).fencing_token, ..request };
    assert_eq!(api.recover(late).await.reason(), "NOT_STALE");
    assert_eq!(api.get("u").await, again);
}
