//! The history: which events are written, in which order, and how they mark staleness.

use sagad::domain::{
    command::RecoveryDecision,
    event::{Event, EventType as E, Resolution as R, StaleMark},
    lease::StaleCause,
    policy::{Policy, StaleAction},
    saga::State,
};

use super::{
    operations::*,
    situation::{Situation, running, stale, undoing},
    test_saga::{START, TTL, TestSaga, actor, kinds, marks, secs, text},
};

/// For each event, whether the saga becomes stale (`Some(None)`), is resolved (`Some(Some(_))`), or neither.
fn stale_changes(events: &[Event]) -> Vec<Option<Option<R>>> {
    marks(events)
        .into_iter()
        .map(|mark| {
            mark.map(|mark| match mark {
                StaleMark::Stale { .. } => None,
                StaleMark::Resolved(resolution) => Some(resolution),
            })
        })
        .collect()
}

const BEGINS: Option<Option<R>> = Some(None);
const fn ends(resolution: R) -> Option<Option<R>> {
    Some(Some(resolution))
}

/// A claimed saga whose lease has expired, without the expiry being applied.
fn expired_but_not_applied(on_stale: StaleAction) -> TestSaga {
    let mut w = TestSaga::new(Policy { on_stale, ..Policy::default() });
    w.claim("w");
    w.now = w.now.plus(TTL);
    w
}

#[test]
fn the_events_of_one_command_come_in_the_documented_order() {
    let held = || expired_but_not_applied(StaleAction::Hold);
    assert_eq!(kinds(&held().ok(claim("x"))), [E::LeaseExpired, E::Claimed]);
    assert_eq!(
        kinds(&held().ok(recover(RecoveryDecision::Quarantine))),
        [E::LeaseExpired, E::RecoveryDecided, E::Quarantined]
    );
    assert_eq!(kinds(&held().ok(cancel(false))), [E::LeaseExpired, E::CancelRequested, E::Compensating]);
    let mut w = held();
    let h = w.holder();
    assert_eq!(kinds(&w.ok(fail_with(&h, &["bucket"]))), [E::LeaseExpired, E::CompensationRegistered, E::Failed]);
    assert_eq!(
        kinds(&expired_but_not_applied(StaleAction::Requeue).ok(claim("x"))),
        [E::LeaseExpired, E::RecoveryDecided, E::Requeued, E::Claimed]
    );
    let mut w = TestSaga::new(Policy::default());
    let events = w.ok(cancel(false));
    assert_eq!(kinds(&events), [E::CancelRequested, E::CompensationSettled, E::CompensationSettled, E::Compensated]);
    assert_eq!([&events[1].details["position"], &events[2].details["position"]], ["2", "1"], "latest first");
}

#[test]
fn the_last_event_has_the_sagas_state_and_revisions_are_consecutive() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        let last = w.events.last().unwrap();
        assert_eq!((last.to_state, last.revision), (w.state(), w.saga.revision), "{situation:?}");
        assert_eq!(last.time, w.saga.update_time);
        for pair in w.events.windows(2) {
            assert!(pair[0].revision < pair[1].revision && pair[0].time <= pair[1].time);
            assert_eq!(pair[1].from_state, Some(pair[0].to_state), "{situation:?}: {pair:?}");
        }
    }
}

#[test]
fn a_saga_becomes_stale_once_and_is_resolved_once_on_every_path() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        let mut stale = false;
        for event in &w.events {
            match &event.mark {
                Some(StaleMark::Stale { .. }) => {
                    assert!(!stale && event.kind == E::LeaseExpired);
                    stale = true;
                }
                Some(StaleMark::Resolved(_)) => {
                    assert!(stale, "{event:?}");
                    stale = false;
                }
                None => {}
            }
        }
        assert_eq!(stale, w.saga.reported_stale().is_some(), "{situation:?}");
        assert_eq!(stale, w.saga.is_stale(w.now, &w.grace), "{situation:?}");
    }
}

#[test]
fn m5_the_expiry_event_has_the_owner_time_and_cause() {
    let w = stale();
    let event = w.events.last().unwrap();
    let expected = StaleMark::Stale {
        owner: w.lease().owner.clone(),
        token: w.lease().token,
        expire_time: START.plus(TTL),
        cause: StaleCause::Ttl,
    };
    assert_eq!(event.mark, Some(expected));
    assert_eq!(w.saga.reported_stale(), Some(event.revision));
}

#[test]
fn each_way_of_resolving_a_stale_saga_has_its_resolution() {
    let told = |operation| stale_changes(&stale().ok(operation));
    assert_eq!(told(claim("x")), [ends(R::Reclaimed)]);
    assert_eq!(told(claim_undo("x")), [ends(R::Reclaimed)]);
    assert_eq!(told(quarantine_by_operator(false)), [ends(R::Terminal)]);
    assert_eq!(told(cancel(false)), [None, ends(R::Compensating)]);
    assert_eq!(told(recover(RecoveryDecision::Requeue)), [None, ends(R::Requeued)]);
    assert_eq!(told(recover(RecoveryDecision::Compensate)), [None, ends(R::Compensating)]);
    assert_eq!(told(recover(RecoveryDecision::Quarantine)), [None, ends(R::Terminal)]);
    assert_eq!(told(annotate("note")), [None]);

    let policy = |on_stale| stale_changes(&expired_but_not_applied(on_stale).due());
    assert_eq!(policy(StaleAction::Hold), [BEGINS]);
    assert_eq!(policy(StaleAction::Requeue), [BEGINS, None, ends(R::Requeued)]);
    assert_eq!(policy(StaleAction::Compensate), [BEGINS, None, ends(R::Compensating)]);
    assert_eq!(policy(StaleAction::Quarantine), [BEGINS, None, ends(R::Terminal)]);

    let mut w = undoing();
    assert_eq!(stale_changes(&w.wait(TTL)), [BEGINS]);
    assert_eq!(stale_changes(&w.clone().ok(claim_undo("x"))), [ends(R::Reclaimed)]);
    assert_eq!(stale_changes(&w.clone().ok(recover(RecoveryDecision::Compensate))), [None, ends(R::Compensating)]);
    assert_eq!(stale_changes(&w.wait(secs(48 * 3600))), [ends(R::Terminal)]);
}

#[test]
fn m14_an_operators_decision_is_stored_with_who_when_what_and_why() {
    let mut w = stale();
    let events = w.ok(recover(RecoveryDecision::Requeue));
    let decided = &events[0];
    assert_eq!((decided.kind, decided.actor.clone()), (E::RecoveryDecided, Some(actor("ann"))));
    assert_eq!((&*decided.reason, decided.details["decision"].as_str()), ("decided", "REQUEUE"));
    assert_eq!((decided.time, decided.token), (w.now, Some(w.lease().token)));
}

#[test]
fn m6_every_terminal_saga_has_a_reason_by_default_its_states_name() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        let terminal = w.state().is_terminal();
        assert_eq!(w.saga.terminal_reason.is_some(), terminal, "{situation:?}");
        assert_eq!(w.saga.end_time.is_some(), terminal, "{situation:?}");
        assert!(w.saga.terminal_reason.is_none_or(|reason| !reason.is_empty()));
    }
    let w = Situation::CompletedByHolder.test_saga();
    assert_eq!((w.saga.terminal_reason.clone(), w.saga.end_time), (Some(text("COMPLETED")), Some(START)));
    assert_eq!(Situation::CompensatedByHolder.test_saga().saga.terminal_reason, Some(text("COMPENSATED")));
    assert_eq!(Situation::FailedByHolder.test_saga().saga.terminal_reason, Some(text("broken")));
    assert_eq!(Situation::QuarantinedByOperator.test_saga().saga.terminal_reason, Some(text("look at it")));
}

#[test]
fn the_event_time_is_when_the_change_was_applied() {
    let mut w = running();
    let events = w.wait(secs(3600));
    assert_eq!(events[0].time, START.plus(secs(3600)));
    assert_eq!(events[0].to_state, State::Running);
    assert_eq!(events[0].details["expire_time"], START.plus(TTL).to_string());
}
