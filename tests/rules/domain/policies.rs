//! Policies: what happens when an execution lease expires.

use sagad::domain::{
    due::ReadyPurposes,
    event::{EventType, Resolution, StaleMark},
    lease::{LeasePurpose, Standing},
    policy::{Policy, StaleAction},
    saga::State,
};

use super::{
    operations::*,
    situation::undoing,
    test_saga::{START, TTL, TestSaga, kinds, marks, secs, text},
};

fn policy(on_stale: StaleAction) -> Policy {
    Policy { on_stale, max_expirations: 3, ..Policy::default() }
}

/// A saga whose lease has expired, with or without compensations.
fn expired(on_stale: StaleAction, with_compensations: bool) -> TestSaga {
    let mut w = if with_compensations { TestSaga::new(policy(on_stale)) } else { TestSaga::bare(policy(on_stale)) };
    w.claim("w");
    w.wait(TTL);
    w
}

fn resolved(w: &TestSaga) -> Option<Resolution> {
    match marks(&w.events).into_iter().flatten().next_back() {
        Some(StaleMark::Resolved(resolution)) => Some(resolution),
        Some(StaleMark::Stale { .. }) | None => None,
    }
}

#[test]
fn m13_each_policy_with_and_without_compensations() {
    use {Resolution as R, StaleAction as A, State as S};
    let cases = [
        (A::Hold, true, S::Running, None),
        (A::Hold, false, S::Running, None),
        (A::Requeue, true, S::Planned, Some(R::Requeued)),
        (A::Requeue, false, S::Planned, Some(R::Requeued)),
        (A::Compensate, true, S::Compensating, Some(R::Compensating)),
        (A::Compensate, false, S::Compensated, Some(R::Compensating)),
        (A::Quarantine, true, S::Quarantined, Some(R::Terminal)),
        (A::Quarantine, false, S::Quarantined, Some(R::Terminal)),
    ];
    for (action, with, state, resolution) in cases {
        let w = expired(action, with);
        assert_eq!((w.state(), resolved(&w)), (state, resolution), "{action:?}, compensations: {with}");
        assert_eq!((w.saga.expirations, w.saga.failures), (1, 0));
        let stands = matches!(w.lease().standing, Standing::Expired { .. });
        assert_eq!(stands, action == A::Hold, "every action but HOLD ends the lease");
        assert_eq!(w.saga.is_stale(w.now, &w.grace), stands);
    }
}

#[test]
fn m14_each_decision_of_a_policy_is_stored_with_who_when_what_and_why() {
    for (action, decision, last) in [
        (StaleAction::Requeue, "REQUEUE", EventType::Requeued),
        (StaleAction::Compensate, "COMPENSATE", EventType::Compensating),
        (StaleAction::Quarantine, "QUARANTINE", EventType::Quarantined),
    ] {
        let w = expired(action, true);
        let [expiry, decided, named] = &w.events[2..] else { panic!("{:?}", w.events) };
        assert_eq!(kinds(&w.events[2..]), [EventType::LeaseExpired, EventType::RecoveryDecided, last]);
        assert_eq!(decided.details["decision"], decision);
        assert_eq!(expiry.details["cause"], "TTL");
        for event in [expiry, decided, named] {
            assert_eq!(event.actor.as_ref().unwrap().as_str(), "sagad");
            assert_eq!((event.time, event.token), (START.plus(TTL), Some(w.lease().token)));
            assert!(!event.reason.is_empty());
        }
        assert_eq!(
            (decided.to_state, named.from_state, named.to_state),
            (State::Running, Some(State::Running), w.state())
        );
    }
}

#[test]
fn the_expiry_that_reaches_max_expirations_does_not_requeue() {
    for (with, end) in [(true, State::Compensating), (false, State::Compensated)] {
        let mut w = expired(StaleAction::Requeue, with);
        assert_eq!((w.state(), w.saga.expirations), (State::Planned, 1));
        w.claim("w");
        w.wait(TTL);
        assert_eq!((w.state(), w.saga.expirations), (State::Planned, 2));
        w.claim("w");
        w.wait(TTL);
        assert_eq!((w.state(), w.saga.expirations), (end, 3));
    }
    let mut w = TestSaga::new(Policy { max_expirations: 1, ..policy(StaleAction::Requeue) });
    w.claim("w");
    w.wait(TTL);
    assert_eq!(w.state(), State::Compensating);
}

#[test]
fn a_saga_without_compensations_is_compensated_at_once() {
    let mut w = expired(StaleAction::Compensate, false);
    let events = &w.events[2..];
    let expected =
        [EventType::LeaseExpired, EventType::RecoveryDecided, EventType::Compensating, EventType::Compensated];
    assert_eq!(kinds(events), expected);
    let last = events.last().unwrap();
    assert_eq!((w.state(), last.to_state), (State::Compensated, State::Compensated));
    assert_eq!((&*last.reason, last.from_state), ("nothing to undo", Some(State::Compensating)));
    assert_eq!(last.actor.as_ref().unwrap().as_str(), "sagad");
    assert_eq!(w.saga.terminal_reason, Some(text("nothing to undo")));
    assert_eq!((w.saga.end_time, w.saga.idle_since), (Some(w.now), None));
    assert_eq!(w.refusal(claim_undo("x")), "SAGA_TERMINAL");
    // With a registered compensation it waits for a handler.
    let mut w = TestSaga::new(policy(StaleAction::Compensate));
    w.claim("w");
    w.wait(TTL);
    assert_eq!((w.state(), w.saga.terminal_reason), (State::Compensating, None));
}

#[test]
fn releases_and_failures_do_not_count_as_expirations() {
    let mut w = TestSaga::new(Policy { max_expirations: 1, max_attempts: 9, ..policy(StaleAction::Requeue) });
    w.ok(claim("w"));
    w.ok(release(&w.holder()));
    w.ok(claim("w"));
    w.ok(retry(&w.holder()));
    assert_eq!((w.saga.attempt, w.saga.expirations, w.saga.failures), (2, 0, 1));
}

#[test]
fn a_compensating_saga_stays_compensating_when_its_lease_expires() {
    for action in [StaleAction::Hold, StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine] {
        let mut w = TestSaga::new(Policy { max_expirations: 1, ..policy(action) });
        w.claim_undo("w");
        w.wait(TTL);
        assert_eq!((w.state(), w.saga.expirations), (State::Compensating, 0), "{action:?}");
        assert!(w.saga.is_stale(w.now, &w.grace));
        assert!(matches!(w.lease().standing, Standing::Expired { .. }));
    }
}

#[test]
fn a_cancellation_takes_precedence_over_the_policy() {
    for action in [StaleAction::Hold, StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine] {
        for kinds_left in [&["worktree"][..], &[]] {
            let mut w = TestSaga::with(policy(action), kinds_left, secs(0));
            w.claim("w");
            w.ok(cancel(false));
            let events = w.wait(TTL);
            // It is an operator's decision, so it leads to compensating even without compensations.
            assert_eq!(w.state(), State::Compensating, "{action:?} {kinds_left:?}");
            assert_eq!(kinds(&events), [EventType::LeaseExpired, EventType::RecoveryDecided, EventType::Compensating]);
            assert_eq!(w.lease().standing, Standing::EndedByOther);
        }
    }
}

#[test]
fn m12_a_kind_without_a_handler_quarantines_the_saga_with_the_kind_named() {
    let mut w = undoing();
    w.ok(done(&w.holder(), 2));
    let events = w.wait(secs(48 * 3600));
    assert_eq!(w.state(), State::Quarantined);
    assert_eq!(kinds(&events), [EventType::LeaseExpired, EventType::Quarantined]);
    let why = w.saga.terminal_reason.clone().unwrap();
    assert!(why.as_str().contains("worktree") && !why.as_str().contains("branch"), "{why}");
    assert_eq!(resolved(&w), Some(Resolution::Terminal));
}

#[test]
fn the_cause_of_an_expiry_is_the_limit_that_ended_the_lease() {
    let cause = |policy: Policy| {
        let mut w = TestSaga::new(policy);
        w.claim("w");
        w.wait(TTL)[0].details["cause"].clone()
    };
    assert_eq!(cause(Policy::default()), "TTL");
    assert_eq!(cause(Policy { execution_timeout: Some(secs(3)), ..Policy::default() }), "EXECUTION_TIMEOUT");
    assert_eq!(cause(Policy { progress_timeout: Some(secs(3)), ..Policy::default() }), "PROGRESS_TIMEOUT");
}

/// Sagas are indexed by the purposes for which they may become ready. A missing purpose would hide a claimable saga.
#[test]
fn ready_purposes_include_everything_that_becomes_ready() {
    let mut seen = [0; 2];
    for on_stale in [StaleAction::Hold, StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine] {
        for (with, cancelled, settle, expirations) in [true, false]
            .into_iter()
            .flat_map(|with| [true, false].map(|cancelled| (with, cancelled)))
            .flat_map(|(with, cancelled)| [0, 1].map(|settle| (with, cancelled, settle)))
            .flat_map(|(with, cancelled, settle)| (0..4).map(move |n| (with, cancelled, settle, n)))
        {
            let policy = Policy { settle: secs(settle), ..policy(on_stale) };
            let mut w = if with { TestSaga::new(policy) } else { TestSaga::bare(policy) };
            w.claim("w");
            w.saga.expirations = expirations;
            if cancelled {
                w.ok(cancel(false));
            }
            let before = w.saga.clone();
            for later in [TTL, secs(7200)] {
                let mut w = w.at(START.plus(later));
                w.due();
                let Some(purpose) = w.saga.ready_for(w.now, &w.grace) else { continue };
                seen[usize::from(purpose == LeasePurpose::Compensate)] += 1;
                assert!(ReadyPurposes::of(&before).includes(purpose), "{purpose:?}: {before:#?}");
                assert!(ReadyPurposes::of_state(before.state).includes(purpose), "{purpose:?}: {before:#?}");
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
