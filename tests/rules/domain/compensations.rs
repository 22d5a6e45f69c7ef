//! Compensations: registered once, undone in reverse, and done only when they are done or waived.

use sagad::domain::{
    bounds::COMPENSATIONS, compensation::CompensationState, event::EventType, policy::Policy, rejection::Rejection,
    saga::State, time::Span,
};

use super::{
    operations::*,
    situation::{Situation, running, settled, undoing},
    test_saga::{START, TestSaga, kinds, secs, specs, text},
};

/// The kinds `k0`, `k1`, …
fn many(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("k{i}")).collect()
}

fn strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[test]
fn m1_a_saga_is_created_planned_with_its_compensations_in_order() {
    let w = TestSaga::with(Policy::default(), &["worktree", "branch"], secs(5));
    assert_eq!((w.state(), w.saga.lease.clone()), (State::Planned, None));
    assert_eq!(w.saga.not_before, Some(START.plus(secs(5))));
    let found: Vec<_> = w.saga.compensations.iter().map(|c| (c.position, c.spec.clone(), c.state)).collect();
    let [a, b] = specs(&["worktree", "branch"]).try_into().unwrap();
    assert_eq!(found, [(1, a, CompensationState::Pending), (2, b, CompensationState::Pending)]);
    assert_eq!(kinds(&w.events), [EventType::Created]);
    assert_eq!(TestSaga::with(Policy::default(), &[], Span::ZERO).saga.not_before, None);
}

#[test]
fn the_same_kind_and_target_is_registered_once() {
    let mut w = running();
    let h = w.holder();
    let events = w.ok(register(&h, &["branch", "bucket"]));
    assert_eq!(kinds(&events), [EventType::CompensationRegistered]);
    assert_eq!(events[0].details["position"], "3");
    assert_eq!(w.saga.compensations[2].registered_under, Some(h.token));
    assert_eq!(w.saga.compensations[1].registered_under, None);
    let before = w.saga.clone();
    w.repeated(register(&h, &["worktree", "branch", "bucket"]));
    assert_eq!(w.saga, before);
}

#[test]
fn a_saga_has_at_most_128_compensations() {
    let names = many(COMPENSATIONS + 1);
    let all = strs(&names);
    let mut w = TestSaga::bare(Policy::default());
    let h = w.claim("w");
    assert_eq!(w.refusal(register(&h, &all)), "COMPENSATION_LIMIT");
    w.ok(register(&h, &all[..COMPENSATIONS]));
    assert_eq!(w.refusal(register(&h, &all[COMPENSATIONS..])), "COMPENSATION_LIMIT");
    assert_eq!(w.refusal(fail_with(&h, &all[COMPENSATIONS..])), "COMPENSATION_LIMIT");
    w.repeated(register(&h, &all[..COMPENSATIONS]));
    w.ok(fail_with(&h, &all[..COMPENSATIONS]));
    assert_eq!((w.state(), w.saga.compensations.len()), (State::Failed, COMPENSATIONS));
}

#[test]
fn compensations_are_undone_in_reverse_order() {
    let mut w = TestSaga::with(Policy::default(), &["a", "b", "c"], Span::ZERO);
    let h = w.claim_undo("w");
    assert_eq!(w.refused(done(&h, 1)), Rejection::CompensationOrder { first: 3 });
    assert_eq!(w.refused(failed(&h, 2)), Rejection::CompensationOrder { first: 3 });
    w.ok(failed(&h, 3));
    assert_eq!(
        w.refused(done(&h, 2)),
        Rejection::CompensationOrder { first: 3 },
        "a failed attempt does not settle it"
    );
    w.ok(waive(3));
    assert_eq!(w.refused(done(&h, 1)), Rejection::CompensationOrder { first: 2 });
    w.ok(done(&h, 2));
    w.ok(done(&h, 1));
    w.ok(compensate(&h));
    assert_eq!(w.state(), State::Compensated);
}

#[test]
fn m12_a_saga_is_compensated_only_when_every_compensation_is_done_or_waived() {
    let mut w = undoing();
    let h = w.holder();
    assert_eq!(w.refused(compensate(&h)), Rejection::CompensationPending { kinds: "worktree,branch".into() });
    w.ok(done(&h, 2));
    w.ok(failed(&h, 1));
    assert_eq!(w.refused(compensate(&h)), Rejection::CompensationPending { kinds: "worktree".into() });
    w.ok(waive(1));
    w.ok(compensate(&h));
    let [first, second] = &w.saga.compensations[..] else { panic!("two") };
    assert_eq!((first.state, first.settled_by.as_deref()), (CompensationState::Waived, Some("ann")));
    assert_eq!((second.state, second.settled_by.as_deref()), (CompensationState::Done, Some("w")));
    assert_eq!((first.attempts, &first.last_error), (1, &text("as it went")));
    assert_eq!((first.settle_time, second.settle_time), (Some(START), Some(START)));
    let waived = w.events.iter().find(|event| event.details.get("outcome").is_some_and(|o| o == "WAIVED")).unwrap();
    assert_eq!((waived.actor.as_ref().unwrap().as_str(), &*waived.reason), ("ann", "not needed"));
}

#[test]
fn a_done_or_waived_compensation_is_final() {
    let mut w = undoing();
    let h = w.holder();
    w.ok(done(&h, 2));
    assert_eq!(w.refusal(failed(&h, 2)), "WRONG_STATE");
    assert_eq!(w.refusal(waive(2)), "WRONG_STATE");
    w.ok(waive(1));
    assert_eq!(w.refusal(waive(1)), "WRONG_STATE");
    assert_eq!(w.refusal(done(&h, 1)), "WRONG_STATE");
    assert_eq!(w.refusal(failed(&h, 1)), "WRONG_STATE");
}

#[test]
fn an_unknown_position_is_not_found() {
    let mut w = undoing();
    let h = w.holder();
    for position in [0, 3, u32::MAX] {
        assert_eq!(w.refused(done(&h, position)), Rejection::CompensationNotFound { position });
        assert_eq!(w.refused(waive(position)), Rejection::CompensationNotFound { position });
    }
}

#[test]
fn waiving_needs_a_compensating_saga_but_no_order_and_no_lease() {
    for situation in Situation::ALL {
        let mut w = situation.test_saga();
        let accepted = w.state() == State::Compensating && w.saga.compensations[0].state == CompensationState::Pending;
        assert_eq!(w.attempt(&waive(1)).is_ok(), accepted, "{situation:?}");
    }
}

#[test]
fn compensating_without_compensations_ends_at_once() {
    let mut w = TestSaga::bare(Policy::default());
    let h = w.claim_undo("w");
    w.ok(compensate(&h));
    assert_eq!((w.state(), w.saga.terminal_reason.clone()), (State::Compensated, Some(text("COMPENSATED"))));
    let mut w = settled();
    w.ok(compensate(&w.holder()));
}
