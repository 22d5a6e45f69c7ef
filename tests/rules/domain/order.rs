//! The order of errors: where two apply, the one that the contract names first is the answer.
//!
//! Some pairs can't meet in a saga that the rules made; their situation is put together by hand, and says so.

use sagad::domain::{
    command::{Holder, RecoveryDecision},
    ids::FencingToken,
    lease::{HolderEnd, Standing},
    policy::{Policy, StaleAction},
    saga::{Reservation, State},
    time::Span,
};

use super::{
    situations::{Situation, compensating, released, requeued, running, settled, stale, undoing},
    verbs::*,
    world::{NEVER_GIVEN, TTL, World, owner, secs},
};

fn other_owner(h: &Holder) -> Holder {
    Holder { owner: owner("x"), token: h.token }
}

fn never_given(h: &Holder) -> Holder {
    Holder { owner: h.owner.clone(), token: NEVER_GIVEN }
}

#[test]
fn an_accepted_repeat_comes_before_lease_superseded() {
    let mut w = released();
    let first = w.holder();
    w.claim("x");
    w.repeated(release(&first));
    assert_eq!(w.why(heartbeat(&first)), "LEASE_SUPERSEDED");
}

#[test]
fn an_accepted_repeat_comes_before_saga_terminal_and_no_lease() {
    let mut w = Situation::CompletedByHolder.world();
    let h = w.holder();
    w.repeated(complete(&h, "result"));
    assert_eq!(w.why(complete(&h, "another")), "SAGA_TERMINAL");
    let mut w = released();
    let h = w.holder();
    w.repeated(release(&h));
    assert_eq!(w.why(complete(&h, "result")), "NO_LEASE");
}

#[test]
fn an_accepted_repeat_comes_before_lease_expired_and_wrong_state() {
    let mut w = running();
    let h = w.holder();
    w.ok(register(&h, &["bucket"]));
    w.wait(TTL);
    w.repeated(register(&h, &["bucket"]));
    assert_eq!(w.why(register(&h, &["volume"])), "LEASE_EXPIRED");
    let mut w = settled();
    let h = w.holder();
    w.repeated(done(&h, 2));
    assert_eq!(w.why(failed(&h, 2)), "WRONG_STATE");
}

#[test]
fn lease_superseded_comes_before_no_lease_never_given() {
    // A token below the last that this saga never gave: whether it did is not asked.
    let mut w = running();
    let below = Holder { owner: owner("w"), token: FencingToken(1) };
    assert_eq!(w.why(heartbeat(&below)), "LEASE_SUPERSEDED");
}

#[test]
fn lease_superseded_comes_before_not_owner() {
    let mut w = requeued();
    let h = w.holder();
    assert_eq!(w.why(heartbeat(&other_owner(&h))), "LEASE_SUPERSEDED");
}

#[test]
fn lease_superseded_comes_before_saga_terminal() {
    let mut w = Situation::QuarantinedByPerson.world();
    let h = w.holder();
    assert_eq!(w.why(complete(&h, "result")), "LEASE_SUPERSEDED");
    let mut w = requeued();
    let first = w.holder();
    let second = w.claim("x");
    w.ok(complete(&second, ""));
    assert_eq!(w.why(complete(&first, "")), "LEASE_SUPERSEDED");
}

#[test]
fn no_lease_never_given_comes_before_not_owner() {
    let mut w = running();
    let h = w.holder();
    assert_eq!(w.why(heartbeat(&other_owner(&never_given(&h)))), "NO_LEASE");
}

#[test]
fn no_lease_never_given_comes_before_saga_terminal() {
    let mut w = Situation::CompletedByHolder.world();
    let h = w.holder();
    assert_eq!(w.why(heartbeat(&never_given(&h))), "NO_LEASE");
    let mut w = Situation::CompensatedUnclaimed.world();
    let h = w.holder();
    assert_eq!(w.why(heartbeat(&h)), "NO_LEASE");
}

#[test]
fn not_owner_comes_before_saga_terminal() {
    let mut w = Situation::CompletedByHolder.world();
    let h = w.holder();
    assert_eq!(w.why(complete(&other_owner(&h), "result")), "NOT_OWNER");
}

#[test]
fn not_owner_comes_before_given_back_and_expired_and_wrong_state() {
    let mut w = released();
    let h = w.holder();
    assert_eq!(w.why(release(&other_owner(&h))), "NOT_OWNER");
    let mut w = stale();
    let h = w.holder();
    assert_eq!(w.why(heartbeat(&other_owner(&h))), "NOT_OWNER");
    let mut w = running();
    let h = w.holder();
    assert_eq!(w.why(compensate(&other_owner(&h))), "NOT_OWNER");
}

#[test]
fn saga_terminal_comes_before_no_lease_given_back() {
    // Completing gives the lease back, too: both apply.
    let mut w = Situation::CompletedByHolder.world();
    let h = w.holder();
    assert_eq!(w.why(heartbeat(&h)), "SAGA_TERMINAL");
    // Given back first, terminal by another's decision afterwards.
    let mut w = released();
    let h = w.holder();
    w.ok(park(false));
    assert_eq!(w.why(heartbeat(&h)), "SAGA_TERMINAL");
}

#[test]
fn no_lease_given_back_comes_before_lease_expired_and_wrong_state() {
    let mut w = released();
    let h = w.holder();
    w.wait(TTL);
    assert_eq!(w.why(heartbeat(&h)), "NO_LEASE");
    let mut w = compensating();
    let h = w.holder();
    assert_eq!(w.why(complete(&h, "")), "NO_LEASE");
}

#[test]
fn lease_expired_comes_before_wrong_state() {
    let mut w = undoing();
    let h = w.holder();
    w.wait(TTL);
    assert_eq!(w.why(register(&h, &["bucket"])), "LEASE_EXPIRED");
}

#[test]
fn wrong_state_comes_before_the_rest() {
    // Executing: nothing can be recorded, at whatever position.
    let mut w = running();
    let h = w.holder();
    assert_eq!(w.why(done(&h, 99)), "WRONG_STATE");
    assert_eq!(w.why(compensate(&h)), "WRONG_STATE");
    // Undoing: failing is out of place, not short of a compensation; registering is, not too much.
    let many: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut w = undoing();
    let h = w.holder();
    assert_eq!(w.why(register(&h, &many)), "WRONG_STATE");
    let mut w = World::bare(Policy::default());
    let h = w.claim_undo("w");
    assert_eq!(w.why(fail(&h)), "WRONG_STATE");
}

#[test]
fn a_settled_position_comes_before_the_order_of_undoing() {
    let mut w = undoing();
    let h = w.holder();
    w.ok(waive(1));
    assert_eq!(w.why(done(&h, 1)), "WRONG_STATE");
}

#[test]
fn others_saga_terminal_comes_before_wrong_state() {
    let mut w = Situation::CompletedByHolder.world();
    assert_eq!(w.why(dispatch("w", TTL)), "SAGA_TERMINAL");
    assert_eq!(w.why(waive(1)), "SAGA_TERMINAL");
    assert_eq!(w.why(recover(RecoveryDecision::Requeue)), "SAGA_TERMINAL");
}

#[test]
fn others_wrong_state_comes_before_lease_held() {
    let mut w = Situation::RunningCancelled.world();
    assert_eq!(w.why(claim("x")), "WRONG_STATE");
    let mut w = undoing();
    assert_eq!(w.why(claim("x")), "WRONG_STATE");
    let mut w = running();
    assert_eq!(w.why(dispatch("x", TTL)), "WRONG_STATE");
}

/// By hand: a reservation, delay and settling beside whatever the saga has.
fn with_everything(mut w: World) -> World {
    let until = w.now.plus(secs(60));
    w.saga.reservation = Some(Reservation { assignee: owner("y"), expire_time: until });
    w.saga.not_before = Some(until);
    w.saga.settle_until = Some(until);
    w
}

#[test]
fn others_lease_held_comes_before_dispatched_elsewhere() {
    let mut w = with_everything(running());
    assert_eq!(w.why(claim("x")), "LEASE_HELD");
    assert_eq!(w.why(claim_undo("x")), "LEASE_HELD");
}

#[test]
fn others_dispatched_elsewhere_comes_before_not_ready() {
    let mut w = World::with(Policy::default(), &[], secs(60));
    w.ok(dispatch("x", TTL));
    assert_eq!(w.why(claim("w")), "DISPATCHED_ELSEWHERE");
    assert_eq!(w.why(claim("x")), "NOT_READY");
}

#[test]
fn others_dispatched_elsewhere_comes_before_settling() {
    let mut w = Situation::PlannedSettling.world();
    w.ok(dispatch("w", TTL));
    assert_eq!(w.why(claim_undo("w")), "DISPATCHED_ELSEWHERE");
}

#[test]
fn others_not_ready_comes_before_settling() {
    let mut w = with_everything(compensating());
    w.saga.reservation = None;
    assert_eq!(w.why(claim_undo("w")), "NOT_READY");
    w.saga.not_before = None;
    assert_eq!(w.why(claim_undo("w")), "SETTLING");
}

#[test]
fn others_wrong_state_comes_before_not_stale() {
    let mut w = undoing();
    assert_eq!(w.why(recover(RecoveryDecision::Requeue)), "WRONG_STATE");
    assert_eq!(w.why(recover(RecoveryDecision::Compensate)), "NOT_STALE");
}

#[test]
fn what_is_due_is_applied_before_anything_is_judged() {
    // Nothing was noticed in between: each call meets the saga as it is by now.
    let mut w = World::new(Policy { on_stale: StaleAction::Quarantine, ..Policy::default() });
    let h = w.claim("w");
    w.now = w.now.plus(TTL);
    assert_eq!(w.why(heartbeat(&h)), "LEASE_SUPERSEDED");
    assert_eq!(w.why(claim("x")), "SAGA_TERMINAL");
    assert_eq!(w.state(), State::Quarantined, "what was due is kept though the commands were refused");
}

#[test]
fn a_repeat_needs_the_owner_and_a_lease_of_this_saga() {
    let mut w = released();
    let h = w.holder();
    assert_eq!(w.why(release(&never_given(&h))), "NO_LEASE");
    assert_eq!(w.lease().standing, Standing::EndedByHolder(HolderEnd::Released));
    w.claim("x");
    assert_eq!(w.why(release(&other_owner(&h))), "LEASE_SUPERSEDED");
    w.wait(Span::ZERO);
}
