//! Operators' calls: decisions, cancel requests, quarantine, annotations, revocations.

use sagad::domain::{
    command::{Holder, RecoveryDecision},
    compensation::CompensationState,
    event::{EventType, StaleMark},
    ids::FencingToken,
    lease::{StaleCause, Standing},
    policy::{Policy, StaleAction},
    rejection::Rejection,
    saga::State,
    time::Span,
    transition::TransitionEffect,
};

use super::{
    operations::*,
    situation::{Situation, running, stale, undoing},
    test_saga::{START, TTL, TestSaga, UNKNOWN_TOKEN, kinds, secs, text, us},
};

const DECISIONS: [RecoveryDecision; 3] =
    [RecoveryDecision::Requeue, RecoveryDecision::Compensate, RecoveryDecision::Quarantine];

#[test]
fn a_decision_applies_only_to_the_lease_it_names() {
    for decision in DECISIONS {
        let mut w = stale();
        let token = w.holder().token;
        let last = Some(token);
        let not_under_that = Rejection::NotStale { token: last, stale: true, state: State::Running };
        assert_eq!(w.refused(recover_lease(decision, Some(UNKNOWN_TOKEN), false)), not_under_that);
        w.ok(recover_lease(decision, Some(token), false));
        assert_eq!(w.lease().standing, Standing::EndedByOther);
        // Stale again under another lease: a decision on the first lease does not apply.
        let mut w = stale();
        let first = w.holder().token;
        w.claim("x");
        w.wait(TTL);
        assert_eq!(w.refusal(recover_lease(decision, Some(first), false)), "NOT_STALE");
    }
}

#[test]
fn a_decision_does_not_apply_to_a_renewed_lease() {
    let mut w = running();
    w.now = w.now.plus(TTL);
    let mut w = w.after_absence(secs(10));
    w.ok(heartbeat(&w.holder()));
    for decision in DECISIONS {
        assert_eq!(w.refusal(recover(decision)), "NOT_STALE");
    }
    w.ok(complete(&w.holder(), "done"));
}

#[test]
fn validate_only_reports_the_outcome_and_changes_nothing() {
    for decision in DECISIONS {
        let mut w = stale();
        let before = w.saga.clone();
        assert_eq!(w.attempt(&recover_lease(decision, None, true)), Ok(TransitionEffect::Unchanged));
        assert_eq!(w.saga, before);
        assert_eq!(running().refusal(recover_lease(decision, None, true)), "NOT_STALE");
    }
    assert_eq!(undoing().refusal(recover_lease(RecoveryDecision::Requeue, None, true)), "WRONG_STATE");
}

#[test]
fn a_decision_to_compensate_applies_even_without_compensations() {
    let mut w = TestSaga::bare(Policy::default());
    w.claim("w");
    w.wait(TTL);
    let mut cancelled = w.clone();
    w.ok(recover(RecoveryDecision::Compensate));
    cancelled.ok(cancel(false));
    assert_eq!((w.state(), cancelled.state()), (State::Compensating, State::Compensating));
    let h = w.claim_undo("x");
    w.ok(compensate(&h));
}

#[test]
fn m12_cancelling_a_saga_that_was_never_claimed_compensates_it_at_once() {
    for delay in [Span::ZERO, secs(60)] {
        for dispatched in [false, true] {
            let mut w = TestSaga::with(Policy::default(), &["worktree", "branch"], delay);
            if dispatched {
                w.ok(dispatch("x", TTL));
            }
            w.ok(cancel(false));
            assert_eq!((w.state(), w.saga.end_time), (State::Compensated, Some(START)));
            assert_eq!((&w.saga.reservation, w.saga.not_before), (&None, None));
            assert_eq!(w.saga.terminal_reason, Some(text("no longer wanted")));
            for compensation in &w.saga.compensations {
                assert_eq!(compensation.state, CompensationState::Waived);
                assert_eq!(compensation.settled_by.as_deref(), Some("ann"));
            }
        }
    }
    let mut w = TestSaga::bare(Policy::default());
    assert_eq!(kinds(&w.ok(cancel(false))), [EventType::CancelRequested, EventType::Compensated]);
}

#[test]
fn a_cancel_request_under_a_live_lease_waits_for_the_worker() {
    let mut w = running();
    let h = w.holder();
    assert_eq!(kinds(&w.ok(cancel(false))), [EventType::CancelRequested]);
    let request = w.saga.cancel.clone().unwrap();
    assert_eq!((request.actor.as_str(), request.reason), ("ann", text("no longer wanted")));
    let mut completed = w.clone();
    completed.ok(complete(&h, "still in time"));
    assert_eq!(completed.state(), State::Completed);
    let events = w.ok(cancel(true));
    assert_eq!(kinds(&events), [EventType::CancelRequested, EventType::Compensating]);
    assert_eq!((w.state(), w.lease().standing), (State::Compensating, Standing::EndedByOther));
    assert_eq!(w.refusal(complete(&h, "too late")), "LEASE_SUPERSEDED");
}

#[test]
fn an_operator_can_quarantine_any_open_saga_or_revoke_its_lease() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        let live = w.saga.live_lease(w.now, &w.grace).is_some();
        let open = !w.state().is_terminal();
        assert_eq!(w.clone().attempt(&quarantine_by_operator(false)).is_ok(), open && !live, "{situation:?}");
        let mut revoked = w.clone();
        assert_eq!(revoked.attempt(&quarantine_by_operator(true)).is_ok(), open, "{situation:?}");
        assert!(revoked.state() == State::Quarantined || !open);
        assert_eq!(revoked.saga.live_lease(w.now, &w.grace), None);
    }
}

#[test]
fn m7_a_saga_in_any_state_can_be_annotated_and_nothing_else_changes() {
    for situation in Situation::ALL {
        let mut w = situation.test_saga();
        let before = w.saga.clone();
        let events = w.ok(annotate_with("note", &[("ticket", "42")], None));
        assert_eq!(kinds(&events), [EventType::Annotated]);
        assert_eq!((&*events[0].reason, events[0].details["ticket"].as_str()), ("note", "42"));
        w.saga.revision = before.revision;
        w.saga.update_time = before.update_time;
        assert_eq!(w.saga, before, "{situation:?}");
    }
}

#[test]
fn m7_an_amended_reason_keeps_the_old_one_in_the_history() {
    let mut w = Situation::QuarantinedByHolder.test_saga();
    let end_time = w.saga.end_time;
    w.wait(secs(60));
    let events = w.ok(annotate_with("looked into", &[("previous_terminal_reason", "forged")], Some("disk full")));
    assert_eq!(w.saga.terminal_reason, Some(text("disk full")));
    assert_eq!(events[0].details["previous_terminal_reason"], "beyond me");
    assert_eq!(events[0].details["terminal_reason"], "disk full");
    assert_eq!((w.state(), w.saga.end_time), (State::Quarantined, end_time));
    let events = w.ok(amend(""));
    assert_eq!(events[0].details["previous_terminal_reason"], "disk full");
    assert_eq!(w.saga.terminal_reason, Some(text("QUARANTINED")), "an empty reason becomes the state's name");
}

#[test]
fn a_second_dispatch_replaces_the_first() {
    let mut w = TestSaga::new(Policy::default());
    w.ok(dispatch("x", TTL));
    let events = w.ok(dispatch("w", secs(5)));
    assert_eq!(kinds(&events), [EventType::Dispatched]);
    assert_eq!((events[0].from_state, events[0].to_state), (Some(State::Dispatched), State::Dispatched));
    assert_eq!(w.refusal(claim("x")), "DISPATCHED_ELSEWHERE");
    w.ok(claim("w"));
    assert_eq!(w.saga.reservation, None);
}

#[test]
fn a_revoked_lease_makes_its_saga_stale_at_once_and_ends_for_its_holder() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        let live = w.saga.live_lease(w.now, &w.grace).cloned();
        let mut revoked = w.clone();
        let Some(lease) = live else {
            if w.saga.lease.is_some() {
                let refused = revoked.refusal(revoke(&w.holder()));
                assert!(["LEASE_SUPERSEDED", "SAGA_TERMINAL"].contains(&refused), "{situation:?}: {refused}");
            }
            continue;
        };
        let h = w.holder();
        let events = revoked.ok(revoke(&h));
        assert_eq!(events[0].kind, EventType::LeaseExpired, "{situation:?}");
        assert_eq!((events[0].actor.as_ref().unwrap().as_str(), &*events[0].reason), ("ann", "its token leaked"));
        let cause = StaleMark::Stale {
            owner: lease.owner.clone(),
            token: lease.token,
            expire_time: w.now,
            cause: StaleCause::Revoked,
        };
        assert_eq!((&events[0].mark, events[0].details["cause"].as_str()), (&Some(cause), "REVOKED"));
        // A requested cancellation applies at once.
        let goes_on = revoked.state() != w.state();
        assert_eq!(goes_on, w.saga.cancel.is_some() && w.state() == State::Running, "{situation:?}");
        assert_eq!(revoked.saga.is_stale(w.now, &w.grace), !goes_on, "{situation:?}");
        for operation in [
            heartbeat(&h),
            complete(&h, "late"),
            fail_with(&h, &["k"]),
            compensate(&h),
            quarantine_held(&h),
            release(&h),
        ] {
            assert_eq!(revoked.clone().refusal(operation), "LEASE_SUPERSEDED", "{situation:?}");
        }
        // A second revocation is refused, and a decision applies.
        assert_eq!(revoked.clone().refusal(revoke(&h)), "LEASE_SUPERSEDED");
        let decided = revoked.at(w.now.plus(us(1))).attempt(&recover(RecoveryDecision::Quarantine));
        assert_eq!(decided.is_ok(), !goes_on, "{situation:?}");
    }
    // A revocation that names another lease is refused.
    let mut w = running();
    let other = Holder { token: FencingToken(w.holder().token.0 + 1), ..w.holder() };
    assert_eq!(w.refusal(revoke(&other)), "LEASE_SUPERSEDED");
}

#[test]
fn a_revoked_lease_differs_from_an_expired_one_even_in_the_grace() {
    let w = running();
    let end = w.lease().expire_time;
    let mut back = w.at(end.plus(secs(1))).after_absence(secs(10));
    assert!(back.saga.live_lease(back.now, &back.grace).is_some(), "it is live because of the grace");
    let h = back.holder();
    back.ok(revoke(&h));
    assert!(back.lease().is_revoked());
    assert_eq!(back.lease().end(), (back.now, StaleCause::Revoked));
    let mut ran_out = w.at(end);
    ran_out.due();
    assert!(!ran_out.lease().is_revoked());
    assert_eq!(ran_out.lease().end(), (end, StaleCause::Ttl));
}

#[test]
fn the_policy_applies_to_a_revoked_lease_as_to_an_expired_one() {
    for (on_stale, state) in [
        (StaleAction::Hold, State::Running),
        (StaleAction::Requeue, State::Planned),
        (StaleAction::Compensate, State::Compensating),
        (StaleAction::Quarantine, State::Quarantined),
    ] {
        let mut w = TestSaga::new(Policy { on_stale, settle: secs(5), ..Policy::default() });
        let h = w.claim("w");
        w.ok(revoke(&h));
        assert_eq!((w.state(), w.saga.expirations), (state, 1), "{on_stale:?}");
        let settles = [State::Running, State::Planned, State::Compensating].contains(&state);
        assert_eq!(w.saga.settle_until.is_some(), settles, "{on_stale:?}");
        assert_eq!(w.refusal(complete(&h, "late")), "LEASE_SUPERSEDED", "{on_stale:?}");
    }
}
