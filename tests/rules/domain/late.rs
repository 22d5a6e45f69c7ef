//! Results that arrive after the lease ran out, and before anything ended it.

use sagad::domain::{
    command::{Operation, RecoveryDecision},
    event::{EventType, Resolution, StaleMark},
    lease::{HolderEnd, Standing},
    policy::{FailureAction, Policy, StaleAction},
    saga::State,
};

use super::{
    situations::{settled, stale, undoing},
    verbs::*,
    world::{TTL, World, blob, kinds, marks, secs},
};

#[test]
fn late_results_are_accepted_and_resolve_the_staleness() {
    let resolution = |mut w: World, operation: Operation| {
        let events = w.ok(operation);
        let Some(Some(StaleMark::Resolved(resolution))) = marks(&events).pop() else { panic!("{events:?}") };
        (w.state(), resolution)
    };
    let late = || {
        let mut w = stale();
        w.wait(secs(3600));
        w
    };
    let h = late().holder();
    assert_eq!(resolution(late(), complete(&h, "done")), (State::Completed, Resolution::Terminal));
    assert_eq!(resolution(late(), fail(&h)), (State::Failed, Resolution::Terminal));
    assert_eq!(resolution(late(), retry(&h)), (State::Planned, Resolution::Requeued));
    assert_eq!(resolution(late(), park_held(&h)), (State::Quarantined, Resolution::Terminal));

    let mut w = World::new(Policy { on_failure: FailureAction::Compensate, ..Policy::default() });
    let h = w.claim("w");
    w.wait(TTL);
    assert_eq!(resolution(w, fail(&h)), (State::Compensating, Resolution::Compensating));

    let mut w = settled();
    let h = w.holder();
    w.wait(secs(3600));
    assert_eq!(resolution(w, compensate(&h)), (State::Compensated, Resolution::Terminal));
}

#[test]
fn a_late_record_is_kept_and_the_saga_stays_stale() {
    let mut w = undoing();
    w.wait(TTL);
    let h = w.holder();
    assert_eq!(marks(&w.ok(done(&h, 2))), [None]);
    assert!(w.saga.is_stale(w.now, &w.grace));
    w.ok(failed(&h, 1));
    w.ok(failed(&h, 1));
    assert_eq!(w.saga.compensations[0].attempts, 2, "each is counted while the lease can still report");
    w.ok(done(&h, 1));
    w.ok(compensate(&h));
    assert_eq!(w.lease().standing, Standing::EndedByHolder(HolderEnd::Compensated));
}

#[test]
fn heartbeats_releases_and_registrations_are_never_accepted_late() {
    let mut w = stale();
    let h = w.holder();
    assert_eq!(w.why(heartbeat_for(&h, secs(3600))), "LEASE_EXPIRED");
    assert_eq!(w.why(release(&h)), "LEASE_EXPIRED");
    assert_eq!(w.why(register(&h, &["bucket"])), "LEASE_EXPIRED");
    assert_eq!(w.why(register(&h, &["branch"])), "LEASE_EXPIRED", "known, but not this lease's");
    assert_eq!(w.why(register(&h, &[])), "LEASE_EXPIRED");
}

#[test]
fn p5_nothing_is_accepted_late_once_the_lease_was_ended() {
    let enders: [fn(&mut World); 6] = [
        |w| drop(w.ok(claim("x"))),
        |w| drop(w.ok(claim_undo("x"))),
        |w| drop(w.ok(recover(RecoveryDecision::Requeue))),
        |w| drop(w.ok(recover(RecoveryDecision::Compensate))),
        |w| drop(w.ok(cancel(false))),
        |w| drop(w.ok(park(false))),
    ];
    for (n, end) in enders.into_iter().enumerate() {
        let mut w = stale();
        let h = w.holder();
        end(&mut w);
        for operation in [complete(&h, ""), fail(&h), retry(&h), park_held(&h), heartbeat(&h), release(&h)] {
            assert_eq!(w.why(operation), "LEASE_SUPERSEDED", "ender {n}");
        }
    }
    for on_stale in [StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine] {
        let mut w = World::new(Policy { on_stale, ..Policy::default() });
        let h = w.claim("w");
        w.now = w.now.plus(TTL);
        assert_eq!(w.why(complete(&h, "")), "LEASE_SUPERSEDED", "{on_stale:?}, not noticed before");
    }
}

#[test]
fn a_late_result_under_the_very_command_that_notices_the_expiry() {
    let mut w = super::situations::running();
    let h = w.holder();
    w.now = w.now.plus(secs(3600));
    let events = w.ok(complete(&h, "done"));
    assert_eq!(kinds(&events), [EventType::LeaseExpired, EventType::Completed]);
    assert!(matches!(
        marks(&events)[..],
        [Some(StaleMark::Stale { .. }), Some(StaleMark::Resolved(Resolution::Terminal))]
    ));
    assert_eq!((w.saga.expirations, &w.saga.result), (1, &blob("done")));
}
