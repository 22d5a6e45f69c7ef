//! Claims: one lease at a time, and each with a larger token.

use sagad::domain::{
    command::RecoveryDecision,
    event::EventType,
    ids::FencingToken,
    lease::{LeasePurpose, Standing},
    policy::Policy,
    rejection::Rejection,
    saga::State,
};

use super::{
    operations::*,
    situation::{Situation, running, stale},
    test_saga::{START, TTL, TestSaga, secs},
};

#[test]
fn m3_of_many_claims_one_is_accepted_and_the_others_change_nothing() {
    let mut w = TestSaga::new(Policy::default());
    let h = w.claim("w");
    let before = w.saga.clone();
    for other in ["x", "y", "w"] {
        let Rejection::LeaseHeld { owner, token, expire_time, retry_after } = w.refused(claim(other)) else {
            panic!("not held")
        };
        assert_eq!((owner.as_str(), token), ("w", h.token));
        assert_eq!((expire_time, retry_after), (START.plus(TTL), TTL));
    }
    assert_eq!(w.saga, before);
}

#[test]
fn p9_a_token_is_the_revision_of_its_claimed_event_and_only_grows() {
    let mut w = TestSaga::new(Policy::default());
    let mut last = FencingToken(0);
    for _ in 0..5 {
        let events = w.ok(claim("w"));
        let claimed = events.iter().find(|event| event.kind == EventType::Claimed).unwrap();
        let token = w.holder().token;
        assert_eq!((token, claimed.token), (FencingToken::from(claimed.revision), Some(token)));
        assert!(token > last, "{token} after {last}");
        last = token;
        // The claim that follows writes the expiry first, so its own event is not the first of the command.
        w.now = w.now.plus(TTL);
    }
    assert_eq!((w.saga.attempt, w.saga.expirations), (5, 4));
}

#[test]
fn m5_a_stale_saga_is_claimable_by_another_worker() {
    let mut w = stale();
    let first = w.holder();
    w.ok(claim("x"));
    assert_eq!((w.state(), w.lease().owner.as_str(), w.saga.attempt), (State::Running, "x", 2));
    assert_eq!(w.refusal(complete(&first, "")), "LEASE_SUPERSEDED");
}

#[test]
fn m5_a_terminal_saga_is_never_stale() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        if w.state().is_terminal() {
            let later = w.now.plus(secs(1_000_000));
            assert!(!w.saga.is_stale(later, &w.grace), "{situation:?}");
            assert_eq!(w.saga.reported_stale(), None, "{situation:?}");
            assert!(w.at(later).due().is_empty(), "{situation:?}");
        }
    }
}

#[test]
fn claims_for_compensation_take_planned_and_stale_sagas_too() {
    for situation in [Situation::PlannedNew, Situation::PlannedDelayed, Situation::RunningStale] {
        let mut w = situation.test_saga();
        let attempt = w.saga.attempt;
        w.ok(claim_undo("x"));
        assert_eq!((w.state(), w.lease().purpose), (State::Compensating, LeasePurpose::Compensate));
        assert_eq!(
            (w.saga.attempt, w.saga.not_before),
            (attempt, None),
            "it does not count as an attempt at execution"
        );
    }
}

#[test]
fn a_compensating_saga_cannot_be_executed_again() {
    let mut w = running();
    w.ok(cancel(true));
    assert_eq!(w.refusal(claim("w")), "WRONG_STATE");
    let h = w.claim_undo("w");
    w.ok(release(&h));
    assert_eq!(w.state(), State::Compensating);
    let h = w.claim_undo("w");
    w.wait(TTL);
    assert_eq!((w.state(), w.lease().token), (State::Compensating, h.token));
    assert!(matches!(w.lease().standing, Standing::Expired { .. }));
    assert_eq!(w.refusal(recover(RecoveryDecision::Requeue)), "WRONG_STATE");
}

#[test]
fn m9_only_operations_meant_to_end_a_lease_end_it() {
    let mut w = running();
    let lease = w.saga.lease.clone();
    w.ok(annotate("note"));
    w.ok(register(&w.holder(), &["bucket"]));
    w.ok(cancel(false));
    w.refused(claim("x"));
    w.refused(dispatch("x", TTL));
    w.refused(quarantine_by_operator(false));
    w.refused(recover(RecoveryDecision::Quarantine));
    assert_eq!(w.saga.lease, lease);
}

#[test]
fn claim_next_returns_exactly_what_a_claim_by_id_would_get() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        let accepted = match w.state() {
            State::Planned => w.clone().attempt(&claim("z")).is_ok().then_some(LeasePurpose::Execute),
            State::Compensating => w.clone().attempt(&claim_undo("z")).is_ok().then_some(LeasePurpose::Compensate),
            State::Dispatched
            | State::Running
            | State::Completed
            | State::Failed
            | State::Compensated
            | State::Quarantined => None,
        };
        assert_eq!(w.saga.ready_for(w.now, &w.grace), accepted, "{situation:?}");
    }
}
