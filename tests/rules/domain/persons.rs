//! What people do: decide, cancel, park, annotate.

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
    situations::{Situation, running, stale, undoing},
    verbs::*,
    world::{NEVER_GIVEN, START, TTL, World, kinds, secs, text, us},
};

const DECISIONS: [RecoveryDecision; 3] =
    [RecoveryDecision::Requeue, RecoveryDecision::Compensate, RecoveryDecision::Quarantine];

#[test]
fn a_decision_is_about_the_lease_that_it_names() {
    for decision in DECISIONS {
        let mut w = stale();
        let token = w.holder().token;
        let last = Some(token);
        let not_under_that = Rejection::NotStale { token: last, stale: true, state: State::Running };
        assert_eq!(w.refused(recover_lease(decision, Some(NEVER_GIVEN), false)), not_under_that);
        w.ok(recover_lease(decision, Some(token), false));
        assert_eq!(w.lease().standing, Standing::EndedByOther);
        // Stale again under another lease: the decision on the first is not run over the second.
        let mut w = stale();
        let first = w.holder().token;
        w.claim("x");
        w.wait(TTL);
        assert_eq!(w.why(recover_lease(decision, Some(first), false)), "NOT_STALE");
    }
}

#[test]
fn a_worker_that_came_back_is_not_run_over() {
    let mut w = running();
    w.now = w.now.plus(TTL);
    let mut w = w.after_absence(secs(10));
    w.ok(heartbeat(&w.holder()));
    for decision in DECISIONS {
        assert_eq!(w.why(recover(decision)), "NOT_STALE");
    }
    w.ok(complete(&w.holder(), "done"));
}

#[test]
fn validate_only_judges_and_changes_nothing() {
    for decision in DECISIONS {
        let mut w = stale();
        let before = w.saga.clone();
        assert_eq!(w.attempt(&recover_lease(decision, None, true)), Ok(TransitionEffect::Unchanged));
        assert_eq!(w.saga, before);
        assert_eq!(running().why(recover_lease(decision, None, true)), "NOT_STALE");
    }
    assert_eq!(undoing().why(recover_lease(RecoveryDecision::Requeue, None, true)), "WRONG_STATE");
}

#[test]
fn a_decision_may_lead_to_compensating_although_there_is_nothing_to_undo() {
    let mut w = World::bare(Policy::default());
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
fn m12_cancelling_what_was_never_claimed_compensates_at_once() {
    for delay in [Span::ZERO, secs(60)] {
        for dispatched in [false, true] {
            let mut w = World::with(Policy::default(), &["worktree", "branch"], delay);
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
    let mut w = World::bare(Policy::default());
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
    assert_eq!(w.why(complete(&h, "too late")), "LEASE_SUPERSEDED");
}

#[test]
fn a_person_parks_any_saga_without_a_live_lease_or_revokes_it() {
    for situation in Situation::ALL {
        let w = situation.world();
        let live = w.saga.live_lease(w.now, &w.grace).is_some();
        let open = !w.state().is_terminal();
        assert_eq!(w.clone().attempt(&park(false)).is_ok(), open && !live, "{situation:?}");
        let mut revoked = w.clone();
        assert_eq!(revoked.attempt(&park(true)).is_ok(), open, "{situation:?}");
        assert!(revoked.state() == State::Quarantined || !open);
        assert_eq!(revoked.saga.live_lease(w.now, &w.grace), None);
    }
}

#[test]
fn m7_a_note_may_be_added_in_any_state_and_changes_nothing_else() {
    for situation in Situation::ALL {
        let mut w = situation.world();
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
    let mut w = Situation::QuarantinedByHolder.world();
    let end_time = w.saga.end_time;
    w.wait(secs(60));
    let events = w.ok(annotate_with("looked into", &[("previous_terminal_reason", "forged")], Some("disk full")));
    assert_eq!(w.saga.terminal_reason, Some(text("disk full")));
    assert_eq!(events[0].details["previous_terminal_reason"], "beyond me");
    assert_eq!(events[0].details["terminal_reason"], "disk full");
    assert_eq!((w.state(), w.saga.end_time), (State::Quarantined, end_time));
    let events = w.ok(amend(""));
    assert_eq!(events[0].details["previous_terminal_reason"], "disk full");
    assert_eq!(w.saga.terminal_reason, Some(text("QUARANTINED")), "a reason is never empty");
}

#[test]
fn dispatching_again_replaces_and_may_take_back_what_was_released() {
    let mut w = World::new(Policy::default());
    w.ok(dispatch("x", TTL));
    let events = w.ok(dispatch("w", secs(5)));
    assert_eq!(kinds(&events), [EventType::Dispatched]);
    assert_eq!((events[0].from_state, events[0].to_state), (Some(State::Dispatched), State::Dispatched));
    assert_eq!(w.why(claim("x")), "DISPATCHED_ELSEWHERE");
    w.ok(claim("w"));
    assert_eq!(w.saga.reservation, None);
}

#[test]
fn a_revoked_lease_makes_its_saga_stale_at_once_and_ends_for_its_holder() {
    for situation in Situation::ALL {
        let w = situation.world();
        let live = w.saga.live_lease(w.now, &w.grace).cloned();
        let mut revoked = w.clone();
        let Some(lease) = live else {
            if w.saga.lease.is_some() {
                let refused = revoked.why(revoke(&w.holder()));
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
        // A cancellation that was asked for applies at once.
        let goes_on = revoked.state() != w.state();
        assert_eq!(goes_on, w.saga.cancel.is_some() && w.state() == State::Running, "{situation:?}");
        assert_eq!(revoked.saga.is_stale(w.now, &w.grace), !goes_on, "{situation:?}");
        for operation in
            [heartbeat(&h), complete(&h, "late"), fail_with(&h, &["k"]), compensate(&h), park_held(&h), release(&h)]
        {
            assert_eq!(revoked.clone().why(operation), "LEASE_SUPERSEDED", "{situation:?}");
        }
        // Twice is once, and the next lease is another's.
        assert_eq!(revoked.clone().why(revoke(&h)), "LEASE_SUPERSEDED");
        let decided = revoked.at(w.now.plus(us(1))).attempt(&recover(RecoveryDecision::Quarantine));
        assert_eq!(decided.is_ok(), !goes_on, "{situation:?}");
    }
    // Whoever names another lease revokes none.
    let mut w = running();
    let other = Holder { token: FencingToken(w.holder().token.0 + 1), ..w.holder() };
    assert_eq!(w.why(revoke(&other)), "LEASE_SUPERSEDED");
}

#[test]
fn a_revoked_lease_is_told_from_one_that_ran_out_even_in_its_grace() {
    let w = running();
    let end = w.lease().expire_time;
    let mut back = w.at(end.plus(secs(1))).after_absence(secs(10));
    assert!(back.saga.live_lease(back.now, &back.grace).is_some(), "it lives on by the grace");
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
fn the_policy_applies_to_a_revoked_lease_as_to_one_that_ran_out() {
    for (on_stale, state) in [
        (StaleAction::Hold, State::Running),
        (StaleAction::Requeue, State::Planned),
        (StaleAction::Compensate, State::Compensating),
        (StaleAction::Quarantine, State::Quarantined),
    ] {
        let mut w = World::new(Policy { on_stale, settle: secs(5), ..Policy::default() });
        let h = w.claim("w");
        w.ok(revoke(&h));
        assert_eq!((w.state(), w.saga.expirations), (state, 1), "{on_stale:?}");
        let settles = [State::Running, State::Planned, State::Compensating].contains(&state);
        assert_eq!(w.saga.settle_until.is_some(), settles, "{on_stale:?}");
        assert_eq!(w.why(complete(&h, "late")), "LEASE_SUPERSEDED", "{on_stale:?}");
    }
}
