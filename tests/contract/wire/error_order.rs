//! The order of errors over the wire: which of two errors a caller gets.

use sagad::proto::*;

use crate::support::*;

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
async fn errors_come_in_the_order_malformed_then_repeated_then_not_found() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let first = ClaimRequest { request_id: named("claim"), ..claim("t", "w", 60_000) };
    let saga = api.claim(first.clone()).await.unwrap();

    // Malformed before repeated: the same request_id with a malformed request.
    let malformed = ClaimRequest { ttl: ms(1), ..first.clone() };
    assert_eq!(api.claim(malformed).await.refused().fields, ["ttl"]);
    // Malformed before not found.
    assert_eq!(api.claim(ClaimRequest { ttl: ms(1), ..claim("nobody", "w", 1) }).await.refused().fields, ["ttl"]);
    // Repeated before not found: other content is refused although its saga does not exist.
    let other = ClaimRequest { request_id: named("claim"), ..claim("nobody", "w", 60_000) };
    assert_eq!(api.claim(other).await.reason(), "REQUEST_ID_REUSED");
    // Repeated before the rules: the saga is held by this claim itself.
    assert_eq!(api.claim(first).await.unwrap(), saga);
    assert_eq!(api.claim(claim("nobody", "w", 1000)).await.reason(), "SAGA_NOT_FOUND");
}

#[tokio::test]
async fn under_a_lease_the_token_and_owner_are_checked_before_the_state() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let first = key(&api.stale(held("t", &["a"]), "first").await);
    let second = key(&api.claim(claim("t", "second", 60_000)).await.unwrap());

    // A token below the last one is superseded, whatever the owner is.
    let superseded = Key { owner_id: "other".into(), ..first.clone() };
    assert_eq!(api.complete(superseded.complete()).await.reason(), "LEASE_SUPERSEDED");
    // A token that was never assigned is NO_LEASE, whatever the owner is.
    let unknown = Key { fencing_token: second.fencing_token + 1000, owner_id: "other".into(), ..second.clone() };
    assert_eq!(api.complete(unknown.complete()).await.reason(), "NO_LEASE");
    // Another owner is checked before the state and the later errors.
    let other_owner = Key { owner_id: "other".into(), ..second.clone() };
    assert_eq!(api.compensate(other_owner.compensate()).await.reason(), "NOT_OWNER");

    // SAGA_TERMINAL comes after these three and before the other errors about the lease.
    api.complete(second.complete()).await.unwrap();
    assert_eq!(api.release(superseded.release()).await.reason(), "LEASE_SUPERSEDED");
    assert_eq!(api.release(unknown.release()).await.reason(), "NO_LEASE");
    assert_eq!(api.release(other_owner.release()).await.reason(), "NOT_OWNER");
    assert_eq!(api.release(second.release()).await.reason(), "SAGA_TERMINAL");
    assert_eq!(api.compensate(second.compensate()).await.reason(), "SAGA_TERMINAL", "before the state");
    api.complete(second.complete()).await.expect("an accepted repeat comes before all errors");
}

#[tokio::test]
async fn under_an_ended_lease_the_expiry_is_checked_before_the_state() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    // Expired and in the wrong state: LEASE_EXPIRED for calls that are not accepted late.
    api.create_saga(held("t", &["a"])).await.unwrap();
    let short = ClaimRequest { ttl: ms(100), ..claim_undo("t", "u", 60_000) };
    let expired = key(&api.claim(short).await.unwrap());
    api.until_stale("t").await;
    assert_eq!(api.register_compensation(expired.register(&["b"])).await.reason(), "LEASE_EXPIRED");
    // For calls that are accepted late, the state is next.
    assert_eq!(api.complete(expired.complete()).await.reason(), "WRONG_STATE");
    // Then the later errors.
    assert_eq!(api.compensate(expired.compensate()).await.reason(), "COMPENSATION_PENDING");

    // A released lease is checked before the state.
    let again = key(&api.claim(claim_undo("t", "u", 60_000)).await.unwrap());
    api.release(again.release()).await.unwrap();
    assert_eq!(api.complete(again.complete()).await.reason(), "NO_LEASE");
}

#[tokio::test]
async fn without_a_lease_the_state_is_checked_before_the_holder() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    // The state is checked before the live lease.
    api.create_saga(held("undone", &["a"])).await.unwrap();
    let undoing = key(&api.claim(claim_undo("undone", "u", 60_000)).await.unwrap());
    assert_eq!(api.claim(claim("undone", "w", 1000)).await.reason(), "WRONG_STATE");
    assert_eq!(api.claim(claim_undo("undone", "other", 60_000)).await.reason(), "LEASE_HELD");
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
    // SAGA_TERMINAL comes before WRONG_STATE.
    api.quarantine(undoing.quarantine("odd")).await.unwrap();
    assert_eq!(api.claim(claim("undone", "w", 1000)).await.reason(), "SAGA_TERMINAL");
    assert_eq!(api.dispatch(dispatch("undone", "w")).await.reason(), "SAGA_TERMINAL");

    // The live lease is checked before the reservation, and the reservation before the delay.
    api.create_saga(CreateSagaRequest { delay: secs(60), ..create("later") }).await.unwrap();
    api.dispatch(dispatch("later", "chosen")).await.unwrap();
    assert_eq!(api.claim(claim("later", "other", 1000)).await.reason(), "DISPATCHED_ELSEWHERE");
    assert_eq!(api.claim(claim("later", "chosen", 1000)).await.reason(), "NOT_READY");
    assert_eq!(
        api.claim(claim_undo("later", "chosen", 60_000)).await.reason(),
        "DISPATCHED_ELSEWHERE",
        "a claim for compensation, too"
    );
}

#[tokio::test]
async fn not_ready_is_checked_before_settling() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let policy = Some(Policy { settle: secs(3600), ..Default::default() });
    let stale = api.stale(CreateSagaRequest { policy, ..held("t", &["a"]) }, "w").await;
    assert_eq!(api.claim(claim_undo("t", "u", 60_000)).await.reason(), "SETTLING");
    // A late failure that leads to compensation keeps the settling.
    let cancel =
        RequestCancelRequest { task_id: "t".into(), actor: "ada".into(), reason: "why".into(), ..Default::default() };
    let saga = api.request_cancel(cancel).await.unwrap();
    assert_eq!(saga.state(), SagaState::Compensating, "it is compensating at once");
    assert_eq!(api.claim(claim_undo("t", "u", 60_000)).await.reason(), "SETTLING");
    assert_eq!(api.fail(key(&stale).fail("late")).await.reason(), "LEASE_SUPERSEDED");
}
