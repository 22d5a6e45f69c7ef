//! A call repeated under the lease that made it is accepted and changes nothing.

use sagad::domain::{
    command::{Holder, HolderOperation, Operation, UnleasedOperation},
    lease::HolderEnd,
    saga::State,
    transition::EarlierLease,
};

use super::{
    operations::*,
    situation::{Situation, compensating, running, settled, undoing},
    test_saga::{TTL, TestSaga, blob, owner, secs, text},
};

/// An operation with which a holder ends its lease.
type LeaseEnd = fn(&Holder) -> Operation;

#[test]
fn the_end_of_a_lease_is_repeated_by_its_own_rpc_only() {
    let ends: [(fn() -> TestSaga, LeaseEnd); 5] = [
        (running, release),
        (running, |h| complete(h, "result")),
        (running, fail),
        (settled, compensate),
        (running, quarantine_held),
    ];
    for (n, (test_saga, end)) in ends.into_iter().enumerate() {
        let mut w = test_saga();
        let h = w.holder();
        w.ok(end(&h));
        for (m, (_, again)) in ends.into_iter().enumerate() {
            if m == n {
                w.repeated(again(&h));
                w.wait(secs(3600));
                w.repeated(again(&h));
            } else {
                w.refused(again(&h));
            }
        }
    }
}

#[test]
fn a_repeat_compares_results_but_not_reasons() {
    let mut w = running();
    let h = w.holder();
    w.ok(complete(&h, "result"));
    let other_reason =
        HolderOperation::Complete { result: blob("result"), reason: text("said differently"), progress: None };
    w.repeated(Operation::ByHolder(h.clone(), other_reason));
    assert_eq!(w.refusal(complete(&h, "other")), "SAGA_TERMINAL");
    assert_eq!(w.saga.result, blob("result"));
}

#[test]
fn repeats_are_accepted_after_a_later_lease_and_after_the_end() {
    let mut w = running();
    let first = w.holder();
    w.ok(register(&first, &["bucket"]));
    w.ok(release(&first));
    let second = w.claim("x");
    w.repeated(release(&first));
    w.repeated(register(&first, &["bucket"]));
    assert_eq!(w.refusal(register(&first, &["volume"])), "LEASE_SUPERSEDED");
    w.ok(complete(&second, "result"));
    w.repeated(release(&first));
    w.repeated(register(&first, &["bucket"]));
    assert_eq!(w.refusal(complete(&first, "result")), "LEASE_SUPERSEDED", "the same result, but another lease's");
}

#[test]
fn a_failure_is_repeated_after_a_later_lease_and_after_the_end() {
    let mut w = compensating();
    let first = w.holder();
    let second = w.claim_undo("x");
    w.repeated(fail(&first));
    w.repeated(retry(&first));
    assert_eq!(w.refusal(release(&first)), "LEASE_SUPERSEDED");
    w.ok(failed(&second, 2));
    w.ok(done(&second, 2));
    w.ok(release(&second));
    let third = w.claim_undo("y");
    w.repeated(done(&second, 2));
    assert_eq!(w.refusal(failed(&second, 2)), "LEASE_SUPERSEDED");
    assert_eq!(w.refusal(done(&second, 1)), "LEASE_SUPERSEDED");
    assert_eq!(w.refusal(done(&third, 2)), "WRONG_STATE", "another lease's");
    w.ok(failed(&third, 1));
    w.ok(quarantine_held(&third));
    w.repeated(done(&second, 2));
    w.repeated(failed(&third, 1));
    w.repeated(fail(&first));
    w.repeated(quarantine_held(&third));
    assert_eq!(w.saga.compensations[0].attempts, 1);
}

#[test]
fn a_failed_undo_counts_each_time_while_the_lease_can_report() {
    let mut w = undoing();
    let h = w.holder();
    w.ok(failed(&h, 2));
    w.ok(failed(&h, 2));
    w.ok(release(&h));
    w.repeated(failed(&h, 2));
    assert_eq!(w.saga.compensations[1].attempts, 2);
}

#[test]
fn a_registration_is_repeated_while_live_late_and_after_the_end() {
    let mut w = running();
    let h = w.holder();
    w.ok(register(&h, &["bucket"]));
    w.repeated(register(&h, &["bucket"]));
    // Registering what came with the creation is no change.
    w.repeated(register(&h, &["branch", "bucket"]));
    w.repeated(register(&h, &["branch"]));
    w.wait(TTL);
    w.repeated(register(&h, &["branch", "bucket"]));
    assert_eq!(w.refusal(register(&h, &["branch"])), "LEASE_EXPIRED");
    assert_eq!(w.refusal(register(&h, &["bucket", "volume"])), "LEASE_EXPIRED");
    w.ok(complete(&h, ""));
    w.repeated(register(&h, &["bucket"]));
    assert_eq!(w.saga.compensations.len(), 3);
}

#[test]
fn a_heartbeat_is_never_a_repeat() {
    let mut w = Situation::CompletedByHolder.test_saga();
    let h = w.holder();
    assert_eq!(w.refusal(heartbeat(&h)), "SAGA_TERMINAL");
}

#[test]
fn a_repeated_cancel_request_changes_nothing() {
    let mut w = running();
    w.ok(cancel(false));
    w.repeated(cancel(false));
    w.ok(cancel(true));
    w.repeated(cancel(true));
    w.repeated(cancel(false));
    assert_eq!(w.state(), State::Compensating);
}

#[test]
fn an_earlier_lease_is_read_from_its_events() {
    let mut w = running();
    let released = w.holder();
    w.ok(release(&released));
    let expired = w.claim("x");
    w.wait(TTL);
    let failed_lease = w.claim("y");
    w.ok(retry(&failed_lease));
    // An annotation belongs to no lease, whatever its details say.
    w.ok(annotate_with("note", &[("ended_by", "COMPLETE")], None));
    let read = |h: &Holder| EarlierLease::from_events(&w.events, h.token);
    let lease = |by: &str, end| Some(EarlierLease { owner: owner(by), end });
    assert_eq!(read(&released), lease("w", Some(HolderEnd::Released)));
    assert_eq!(read(&expired), lease("x", None));
    assert_eq!(read(&failed_lease), lease("y", Some(HolderEnd::Failed)));
    assert_eq!(read(&Holder { token: super::test_saga::UNKNOWN_TOKEN, ..released.clone() }), None);
    let foreign = Operation::Unleased(UnleasedOperation::Claim {
        owner: owner("z"),
        ttl: TTL,
        purpose: Default::default(),
        reason: text(""),
    });
    assert_eq!(w.earlier(&foreign), None);
}
