//! Results that arrive after the lease expired, and before anything ended it.

use sagad::domain::{
    command::{Operation, RecoveryDecision},
    event::{EventType, Resolution, StaleMark},
    lease::{HolderEnd, Standing},
    policy::{FailureAction, Policy, StaleAction},
    saga::State,
};

use super::{
    operations::*,
    situation::{settled, stale, undoing},
    test_saga::{TTL, TestSaga, blob, kinds, marks, secs},
};

#[test]
fn a_late_result_is_accepted_and_resolves_the_stale_saga() {
    let resolution = |mut w: TestSaga, operation: Operation| {
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
    assert_eq!(resolution(late(), quarantine_held(&h)), (State::Quarantined, Resolution::Terminal));

    let mut w = TestSaga::new(Policy { on_failure: FailureAction::Compensate, ..Policy::default() });
    let h = w.claim("w");
    w.wait(TTL);
    assert_eq!(resolution(w, fail(&h)), (State::Compensating, Resolution::Compensating));

    let mut w = settled();
    let h = w.holder();
    w.wait(secs(3600));
    assert_eq!(resolution(w, compensate(&h)), (State::Compensated, Resolution::Terminal));
}

#[test]
fn a_late_compensation_outcome_is_kept_and_the_saga_stays_stale() {
    let mut w = undoing();
    w.wait(TTL);
    let h = w.holder();
    assert_eq!(marks(&w.ok(done(&h, 2))), [None]);
    assert!(w.saga.is_stale(w.now, &w.grace));
    w.ok(failed(&h, 1));
    w.ok(failed(&h, 1));
    assert_eq!(w.saga.compensations[0].attempts, 2, "each report counts while the lease can still report");
    w.ok(done(&h, 1));
    w.ok(compensate(&h));
    assert_eq!(w.lease().standing, Standing::EndedByHolder(HolderEnd::Compensated));
}

#[test]
fn heartbeats_releases_and_registrations_are_never_accepted_late() {
    let mut w = stale();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat_for(&h, secs(3600))), "LEASE_EXPIRED");
    assert_eq!(w.refusal(release(&h)), "LEASE_EXPIRED");
    assert_eq!(w.refusal(register(&h, &["bucket"])), "LEASE_EXPIRED");
    assert_eq!(w.refusal(register(&h, &["branch"])), "LEASE_EXPIRED", "it is registered, but not by this lease");
    assert_eq!(w.refusal(register(&h, &[])), "LEASE_EXPIRED");
}

#[test]
fn p5_nothing_is_accepted_late_once_the_lease_was_ended() {
    let enders: [fn(&mut TestSaga); 6] = [
        |w| drop(w.ok(claim("x"))),
        |w| drop(w.ok(claim_undo("x"))),
        |w| drop(w.ok(recover(RecoveryDecision::Requeue))),
        |w| drop(w.ok(recover(RecoveryDecision::Compensate))),
        |w| drop(w.ok(cancel(false))),
        |w| drop(w.ok(quarantine_by_operator(false))),
    ];
    for (n, end) in enders.into_iter().enumerate() {
        let mut w = stale();
        let h = w.holder();
        end(&mut w);
        for operation in [complete(&h, ""), fail(&h), retry(&h), quarantine_held(&h), heartbeat(&h), release(&h)] {
            assert_eq!(w.refusal(operation), "LEASE_SUPERSEDED", "ender {n}");
        }
    }
    for on_stale in [StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine] {
        let mut w = TestSaga::new(Policy { on_stale, ..Policy::default() });
        let h = w.claim("w");
        w.now = w.now.plus(TTL);
        assert_eq!(w.refusal(complete(&h, "")), "LEASE_SUPERSEDED", "{on_stale:?}, not applied before");
    }
}

#[test]
fn a_late_result_is_accepted_by_the_command_that_applies_the_expiry() {
    let mut w = super::situation::running();
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
