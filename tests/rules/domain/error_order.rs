//! The order of errors: where two apply, the caller gets the one that the contract names first.
//!
//! Some pairs never meet in a saga that the rules made. Their tests build the saga by hand and say so.

use sagad::domain::{
    command::{Holder, RecoveryDecision},
    ids::FencingToken,
    lease::{HolderEnd, Standing},
    policy::{Policy, StaleAction},
    saga::{Reservation, State},
    time::Span,
};

use super::{
    operations::*,
    situation::{Situation, compensating, released, requeued, running, settled, stale, undoing},
    test_saga::{TTL, TestSaga, UNKNOWN_TOKEN, owner, secs},
};

fn other_owner(h: &Holder) -> Holder {
    Holder { owner: owner("x"), token: h.token }
}

fn unknown_token(h: &Holder) -> Holder {
    Holder { owner: h.owner.clone(), token: UNKNOWN_TOKEN }
}

#[test]
fn an_accepted_repeat_comes_before_lease_superseded() {
    let mut w = released();
    let first = w.holder();
    w.claim("x");
    w.repeated(release(&first));
    assert_eq!(w.refusal(heartbeat(&first)), "LEASE_SUPERSEDED");
}

#[test]
fn an_accepted_repeat_comes_before_saga_terminal_and_no_lease() {
    let mut w = Situation::CompletedByHolder.test_saga();
    let h = w.holder();
    w.repeated(complete(&h, "result"));
    assert_eq!(w.refusal(complete(&h, "another")), "SAGA_TERMINAL");
    let mut w = released();
    let h = w.holder();
    w.repeated(release(&h));
    assert_eq!(w.refusal(complete(&h, "result")), "NO_LEASE");
}

#[test]
fn an_accepted_repeat_comes_before_lease_expired_and_wrong_state() {
    let mut w = running();
    let h = w.holder();
    w.ok(register(&h, &["bucket"]));
    w.wait(TTL);
    w.repeated(register(&h, &["bucket"]));
    assert_eq!(w.refusal(register(&h, &["volume"])), "LEASE_EXPIRED");
    let mut w = settled();
    let h = w.holder();
    w.repeated(done(&h, 2));
    assert_eq!(w.refusal(failed(&h, 2)), "WRONG_STATE");
}

#[test]
fn lease_superseded_comes_before_no_lease_of_an_unknown_token() {
    // A token below the last one is superseded, even if this saga never had it.
    let mut w = running();
    let below = Holder { owner: owner("w"), token: FencingToken(1) };
    assert_eq!(w.refusal(heartbeat(&below)), "LEASE_SUPERSEDED");
}

#[test]
fn lease_superseded_comes_before_not_owner() {
    let mut w = requeued();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat(&other_owner(&h))), "LEASE_SUPERSEDED");
}

#[test]
fn lease_superseded_comes_before_saga_terminal() {
    let mut w = Situation::QuarantinedByOperator.test_saga();
    let h = w.holder();
    assert_eq!(w.refusal(complete(&h, "result")), "LEASE_SUPERSEDED");
    let mut w = requeued();
    let first = w.holder();
    let second = w.claim("x");
    w.ok(complete(&second, ""));
    assert_eq!(w.refusal(complete(&first, "")), "LEASE_SUPERSEDED");
}

#[test]
fn no_lease_of_an_unknown_token_comes_before_not_owner() {
    let mut w = running();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat(&other_owner(&unknown_token(&h)))), "NO_LEASE");
}

#[test]
fn no_lease_of_an_unknown_token_comes_before_saga_terminal() {
    let mut w = Situation::CompletedByHolder.test_saga();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat(&unknown_token(&h))), "NO_LEASE");
    let mut w = Situation::CompensatedUnclaimed.test_saga();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat(&h)), "NO_LEASE");
}

#[test]
fn not_owner_comes_before_saga_terminal() {
    let mut w = Situation::CompletedByHolder.test_saga();
    let h = w.holder();
    assert_eq!(w.refusal(complete(&other_owner(&h), "result")), "NOT_OWNER");
}

#[test]
fn not_owner_comes_before_no_lease_and_expired_and_wrong_state() {
    let mut w = released();
    let h = w.holder();
    assert_eq!(w.refusal(release(&other_owner(&h))), "NOT_OWNER");
    let mut w = stale();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat(&other_owner(&h))), "NOT_OWNER");
    let mut w = running();
    let h = w.holder();
    assert_eq!(w.refusal(compensate(&other_owner(&h))), "NOT_OWNER");
}

#[test]
fn saga_terminal_comes_before_no_lease_of_a_released_lease() {
    // Completing also releases the lease: both errors apply.
    let mut w = Situation::CompletedByHolder.test_saga();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat(&h)), "SAGA_TERMINAL");
    // Released first, then ended by a decision.
    let mut w = released();
    let h = w.holder();
    w.ok(quarantine_by_operator(false));
    assert_eq!(w.refusal(heartbeat(&h)), "SAGA_TERMINAL");
}

#[test]
fn no_lease_of_a_released_lease_comes_before_lease_expired_and_wrong_state() {
    let mut w = released();
    let h = w.holder();
    w.wait(TTL);
    assert_eq!(w.refusal(heartbeat(&h)), "NO_LEASE");
    let mut w = compensating();
    let h = w.holder();
    assert_eq!(w.refusal(complete(&h, "")), "NO_LEASE");
}

#[test]
fn lease_expired_comes_before_wrong_state() {
    let mut w = undoing();
    let h = w.holder();
    w.wait(TTL);
    assert_eq!(w.refusal(register(&h, &["bucket"])), "LEASE_EXPIRED");
}

#[test]
fn wrong_state_comes_before_all_later_errors() {
    // While executing, no outcome can be recorded, at any position.
    let mut w = running();
    let h = w.holder();
    assert_eq!(w.refusal(done(&h, 99)), "WRONG_STATE");
    assert_eq!(w.refusal(compensate(&h)), "WRONG_STATE");
    // While compensating, failing and registering are refused because of the state, before other errors.
    let many: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut w = undoing();
    let h = w.holder();
    assert_eq!(w.refusal(register(&h, &many)), "WRONG_STATE");
    let mut w = TestSaga::bare(Policy::default());
    let h = w.claim_undo("w");
    assert_eq!(w.refusal(fail(&h)), "WRONG_STATE");
}

#[test]
fn wrong_state_of_a_settled_compensation_comes_before_compensation_order() {
    let mut w = undoing();
    let h = w.holder();
    w.ok(waive(1));
    assert_eq!(w.refusal(done(&h, 1)), "WRONG_STATE");
}

#[test]
fn without_a_lease_saga_terminal_comes_before_wrong_state() {
    let mut w = Situation::CompletedByHolder.test_saga();
    assert_eq!(w.refusal(dispatch("w", TTL)), "SAGA_TERMINAL");
    assert_eq!(w.refusal(waive(1)), "SAGA_TERMINAL");
    assert_eq!(w.refusal(recover(RecoveryDecision::Requeue)), "SAGA_TERMINAL");
}

#[test]
fn without_a_lease_wrong_state_comes_before_lease_held() {
    let mut w = Situation::RunningCancelled.test_saga();
    assert_eq!(w.refusal(claim("x")), "WRONG_STATE");
    let mut w = undoing();
    assert_eq!(w.refusal(claim("x")), "WRONG_STATE");
    let mut w = running();
    assert_eq!(w.refusal(dispatch("x", TTL)), "WRONG_STATE");
}

/// Adds a reservation, a delay and settling by hand.
fn with_everything(mut w: TestSaga) -> TestSaga {
    let until = w.now.plus(secs(60));
    w.saga.reservation = Some(Reservation { assignee: owner("y"), expire_time: until });
    w.saga.not_before = Some(until);
    w.saga.settle_until = Some(until);
    w
}

#[test]
fn without_a_lease_lease_held_comes_before_dispatched_elsewhere() {
    let mut w = with_everything(running());
    assert_eq!(w.refusal(claim("x")), "LEASE_HELD");
    assert_eq!(w.refusal(claim_undo("x")), "LEASE_HELD");
}

#[test]
fn without_a_lease_dispatched_elsewhere_comes_before_not_ready() {
    let mut w = TestSaga::with(Policy::default(), &[], secs(60));
    w.ok(dispatch("x", TTL));
    assert_eq!(w.refusal(claim("w")), "DISPATCHED_ELSEWHERE");
    assert_eq!(w.refusal(claim("x")), "NOT_READY");
}

#[test]
fn without_a_lease_dispatched_elsewhere_comes_before_settling() {
    let mut w = Situation::PlannedSettling.test_saga();
    w.ok(dispatch("w", TTL));
    assert_eq!(w.refusal(claim_undo("w")), "DISPATCHED_ELSEWHERE");
}

#[test]
fn without_a_lease_not_ready_comes_before_settling() {
    let mut w = with_everything(compensating());
    w.saga.reservation = None;
    assert_eq!(w.refusal(claim_undo("w")), "NOT_READY");
    w.saga.not_before = None;
    assert_eq!(w.refusal(claim_undo("w")), "SETTLING");
}

#[test]
fn without_a_lease_wrong_state_comes_before_not_stale() {
    let mut w = undoing();
    assert_eq!(w.refusal(recover(RecoveryDecision::Requeue)), "WRONG_STATE");
    assert_eq!(w.refusal(recover(RecoveryDecision::Compensate)), "NOT_STALE");
}

#[test]
fn due_changes_are_applied_before_a_command_is_checked() {
    // No sweep ran in between: each call applies what is due first.
    let mut w = TestSaga::new(Policy { on_stale: StaleAction::Quarantine, ..Policy::default() });
    let h = w.claim("w");
    w.now = w.now.plus(TTL);
    assert_eq!(w.refusal(heartbeat(&h)), "LEASE_SUPERSEDED");
    assert_eq!(w.refusal(claim("x")), "SAGA_TERMINAL");
    assert_eq!(w.state(), State::Quarantined, "due changes are kept although the commands were refused");
}

#[test]
fn a_repeat_is_accepted_only_from_the_owner_of_a_lease_of_this_saga() {
    let mut w = released();
    let h = w.holder();
    assert_eq!(w.refusal(release(&unknown_token(&h))), "NO_LEASE");
    assert_eq!(w.lease().standing, Standing::EndedByHolder(HolderEnd::Released));
    w.claim("x");
    assert_eq!(w.refusal(release(&other_owner(&h))), "LEASE_SUPERSEDED");
    w.wait(Span::ZERO);
}
