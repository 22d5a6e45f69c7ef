//! Which of two errors a caller sees.

use sagad::proto::*;

use crate::support::*;

fn undo(task_id: &str, owner_id: &str) -> ClaimRequest {
    ClaimRequest { purpose: LeasePurpose::Compensate.into(), ..claim(task_id, owner_id, 60_000) }
}

fn dispatch(task_id: &str, assignee: &str) -> DispatchRequest {
    DispatchRequest {
        task_id: task_id.into(),
        assignee: assignee.into(),
        ttl: secs(60),
        actor: "ada".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn malformed_then_replayed_then_found() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let first = ClaimRequest { request_id: named("claim"), ..claim("t", "w", 60_000) };
    let saga = api.claim(first.clone()).await.unwrap();

    // Malformed before replayed: the same request_id with content that can't be read.
    let malformed = ClaimRequest { ttl: ms(1), ..first.clone() };
    assert_eq!(api.claim(malformed).await.refused().fields, ["ttl"]);
    // Malformed before found.
    assert_eq!(api.claim(ClaimRequest { ttl: ms(1), ..claim("nobody", "w", 1) }).await.refused().fields, ["ttl"]);
    // Replayed before found: other content is refused though its saga is not there.
    let other = ClaimRequest { request_id: named("claim"), ..claim("nobody", "w", 60_000) };
    assert_eq!(api.claim(other).await.reason(), "REQUEST_ID_REUSED");
    // Replayed before the rules: the lease is held, by this very claim.
    assert_eq!(api.claim(first).await.unwrap(), saga);
    assert_eq!(api.claim(claim("nobody", "w", 1000)).await.reason(), "SAGA_NOT_FOUND");
}

#[tokio::test]
async fn under_a_lease_whose_lease_it_is_comes_before_what_it_asks() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let first = key(&api.stale(held("t", &["a"]), "first").await);
    let second = key(&api.claim(claim("t", "second", 60_000)).await.unwrap());

    // A token below the last: superseded, whoever names it.
    let zombie = Key { owner_id: "thief".into(), ..first.clone() };
    assert_eq!(api.complete(zombie.complete()).await.reason(), "LEASE_SUPERSEDED");
    // Never given: no lease, before whose it is.
    let unknown = Key { fencing_token: second.fencing_token + 1000, owner_id: "thief".into(), ..second.clone() };
    assert_eq!(api.complete(unknown.complete()).await.reason(), "NO_LEASE");
    // Somebody else's: before the state, and before the rest.
    let thief = Key { owner_id: "thief".into(), ..second.clone() };
    assert_eq!(api.compensate(thief.compensate()).await.reason(), "NOT_OWNER");

    // Terminal comes behind these three, and before what is left of the lease.
    api.complete(second.complete()).await.unwrap();
    assert_eq!(api.release(zombie.release()).await.reason(), "LEASE_SUPERSEDED");
    assert_eq!(api.release(unknown.release()).await.reason(), "NO_LEASE");
    assert_eq!(api.release(thief.release()).await.reason(), "NOT_OWNER");
    assert_eq!(api.release(second.release()).await.reason(), "SAGA_TERMINAL");
    assert_eq!(api.compensate(second.compensate()).await.reason(), "SAGA_TERMINAL", "before the state");
    api.complete(second.complete()).await.expect("the accepted repeat comes first of all");
}

#[tokio::test]
async fn under_a_lease_that_is_over_the_state_comes_later() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    // Expired, and the wrong verb for the state: expired, where late calls are not accepted.
    api.create_saga(held("t", &["a"])).await.unwrap();
    let short = ClaimRequest { ttl: ms(100), ..undo("t", "u") };
    let expired = key(&api.claim(short).await.unwrap());
    api.until_stale("t").await;
    assert_eq!(api.register_compensation(expired.register(&["b"])).await.reason(), "LEASE_EXPIRED");
    // Where they are, the state is next.
    assert_eq!(api.complete(expired.complete()).await.reason(), "WRONG_STATE");
    // Then the rest.
    assert_eq!(api.compensate(expired.compensate()).await.reason(), "COMPENSATION_PENDING");

    // Given back: before the state.
    let again = key(&api.claim(undo("t", "u")).await.unwrap());
    api.release(again.release()).await.unwrap();
    assert_eq!(api.complete(again.complete()).await.reason(), "NO_LEASE");
}

#[tokio::test]
async fn without_a_lease_the_state_comes_before_who_holds_it() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    // The state before the live lease.
    api.create_saga(held("undone", &["a"])).await.unwrap();
    let undoing = key(&api.claim(undo("undone", "u")).await.unwrap());
    assert_eq!(api.claim(claim("undone", "w", 1000)).await.reason(), "WRONG_STATE");
    assert_eq!(api.claim(undo("undone", "other")).await.reason(), "LEASE_HELD");
    assert_eq!(api.dispatch(dispatch("undone", "w")).await.reason(), "WRONG_STATE");
    let decide = |decision: RecoveryDecision| RecoverRequest {
        task_id: "undone".into(),
        decision: decision.into(),
        actor: "ada".into(),
        reason: "why".into(),
        ..Default::default()
    };
    assert_eq!(api.recover(decide(RecoveryDecision::Requeue)).await.reason(), "WRONG_STATE");
    assert_eq!(api.recover(decide(RecoveryDecision::Compensate)).await.reason(), "NOT_STALE");
    // Terminal before the state.
    api.quarantine(undoing.quarantine("odd")).await.unwrap();
    assert_eq!(api.claim(claim("undone", "w", 1000)).await.reason(), "SAGA_TERMINAL");
    assert_eq!(api.dispatch(dispatch("undone", "w")).await.reason(), "SAGA_TERMINAL");

    // The live lease before the reservation's and the delay's refusals; the reservation before the delay.
    api.create_saga(CreateSagaRequest { delay: secs(60), ..create("later") }).await.unwrap();
    api.dispatch(dispatch("later", "chosen")).await.unwrap();
    assert_eq!(api.claim(claim("later", "other", 1000)).await.reason(), "DISPATCHED_ELSEWHERE");
    assert_eq!(api.claim(claim("later", "chosen", 1000)).await.reason(), "NOT_READY");
    assert_eq!(api.claim(undo("later", "chosen")).await.reason(), "DISPATCHED_ELSEWHERE", "for undoing, whoever asks");
}

#[tokio::test]
async fn a_delay_comes_before_settling() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let policy = Some(Policy { settle: secs(3600), ..Default::default() });
    let stale = api.stale(CreateSagaRequest { policy, ..held("t", &["a"]) }, "w").await;
    assert_eq!(api.claim(undo("t", "u")).await.reason(), "SETTLING");
    // A late failure that leads nowhere but to undoing keeps the settling.
    let cancel =
        RequestCancelRequest { task_id: "t".into(), actor: "ada".into(), reason: "why".into(), ..Default::default() };
    let saga = api.request_cancel(cancel).await.unwrap();
    assert_eq!(saga.state(), SagaState::Compensating, "planned again or stale: at once");
    assert_eq!(api.claim(undo("t", "u")).await.reason(), "SETTLING");
    assert_eq!(api.fail(key(&stale).fail("late")).await.reason(), "LEASE_SUPERSEDED");
}
