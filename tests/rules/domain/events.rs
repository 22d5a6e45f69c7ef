//! The history: what is written, in which order, and what it means to watchers.

use sagad::domain::{
    command::RecoveryDecision,
    event::{Event, EventType as E, Resolution as R, StaleMark},
    lease::StaleCause,
    policy::{Policy, StaleAction},
    saga::State,
};

use super::{
    situations::{Situation, running, stale, undoing},
    verbs::*,
    world::{START, TTL, World, actor, kinds, marks, secs, text},
};

/// `Some(None)`: begins; `Some(Some(_))`: ends; `None`: neither.
fn stories(events: &[Event]) -> Vec<Option<Option<R>>> {
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

/// Claimed, run out, and nobody noticed yet.
fn unnoticed(on_stale: StaleAction) -> World {
    let mut w = World::new(Policy { on_stale, ..Policy::default() });
    w.claim("w");
    w.now = w.now.plus(TTL);
    w
}

#[test]
fn the_events_of_one_command_come_in_the_documented_order() {
    let held = || unnoticed(StaleAction::Hold);
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
        kinds(&unnoticed(StaleAction::Requeue).ok(claim("x"))),
        [E::LeaseExpired, E::RecoveryDecided, E::Requeued, E::Claimed]
    );
    let mut w = World::new(Policy::default());
    let events = w.ok(cancel(false));
    assert_eq!(kinds(&events), [E::CancelRequested, E::CompensationSettled, E::CompensationSettled, E::Compensated]);
    assert_eq!([&events[1].details["position"], &events[2].details["position"]], ["2", "1"], "latest first");
}

#[test]
fn the_last_event_names_the_new_state_and_revisions_are_consecutive_and_owned() {
    for situation in Situation::ALL {
        let w = situation.world();
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
fn staleness_begins_once_and_ends_once_on_every_path() {
    for situation in Situation::ALL {
        let w = situation.world();
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
fn m5_the_expiry_tells_whose_lease_ended_when_and_why() {
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
fn how_each_way_out_of_staleness_is_told() {
    let told = |operation| stories(&stale().ok(operation));
    assert_eq!(told(claim("x")), [ends(R::Reclaimed)]);
    assert_eq!(told(claim_undo("x")), [ends(R::Reclaimed)]);
    assert_eq!(told(park(false)), [ends(R::Terminal)]);
    assert_eq!(told(cancel(false)), [None, ends(R::Compensating)]);
    assert_eq!(told(recover(RecoveryDecision::Requeue)), [None, ends(R::Requeued)]);
    assert_eq!(told(recover(RecoveryDecision::Compensate)), [None, ends(R::Compensating)]);
    assert_eq!(told(recover(RecoveryDecision::Quarantine)), [None, ends(R::Terminal)]);
    assert_eq!(told(annotate("note")), [None]);

    let policy = |on_stale| stories(&unnoticed(on_stale).due());
    assert_eq!(policy(StaleAction::Hold), [BEGINS]);
    assert_eq!(policy(StaleAction::Requeue), [BEGINS, None, ends(R::Requeued)]);
    assert_eq!(policy(StaleAction::Compensate), [BEGINS, None, ends(R::Compensating)]);
    assert_eq!(policy(StaleAction::Quarantine), [BEGINS, None, ends(R::Terminal)]);

    let mut w = undoing();
    assert_eq!(stories(&w.wait(TTL)), [BEGINS]);
    assert_eq!(stories(&w.clone().ok(claim_undo("x"))), [ends(R::Reclaimed)]);
    assert_eq!(stories(&w.clone().ok(recover(RecoveryDecision::Compensate))), [None, ends(R::Compensating)]);
    assert_eq!(stories(&w.wait(secs(48 * 3600))), [ends(R::Terminal)]);
}

#[test]
fn m14_a_persons_decision_is_stored_with_who_when_what_and_why() {
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
        let w = situation.world();
        let terminal = w.state().is_terminal();
        assert_eq!(w.saga.terminal_reason.is_some(), terminal, "{situation:?}");
        assert_eq!(w.saga.end_time.is_some(), terminal, "{situation:?}");
        assert!(w.saga.terminal_reason.is_none_or(|reason| !reason.is_empty()));
    }
    let w = Situation::CompletedByHolder.world();
    assert_eq!((w.saga.terminal_reason.clone(), w.saga.end_time), (Some(text("COMPLETED")), Some(START)));
    assert_eq!(Situation::CompensatedByHolder.world().saga.terminal_reason, Some(text("COMPENSATED")));
    assert_eq!(Situation::FailedByHolder.world().saga.terminal_reason, Some(text("broken")));
    assert_eq!(Situation::QuarantinedByPerson.world().saga.terminal_reason, Some(text("look at it")));
}

#[test]
fn event_time_is_when_it_was_noticed() {
    let mut w = running();
    let events = w.wait(secs(3600));
    assert_eq!(events[0].time, START.plus(secs(3600)));
    assert_eq!(events[0].to_state, State::Running);
    assert_eq!(events[0].details["expire_time"], START.plus(TTL).to_string());
}
