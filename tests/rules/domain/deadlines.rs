//! Every deadline: one microsecond before it, at it, and one after.

use sagad::domain::{
    command::{Operation, RecoveryDecision},
    lease::StaleCause,
    policy::{Policy, StaleAction},
    saga::State,
    time::{Span, Timestamp},
    transition::next_due,
};

use super::{
    operations::*,
    situation::{compensating, running, undoing},
    test_saga::{START, TTL, TestSaga, reason, secs, us},
};

/// The outcome of a command one microsecond before a deadline, at it, and one after.
fn around(w: &TestSaga, deadline: Timestamp, operation: &Operation) -> [&'static str; 3] {
    [deadline.minus(us(1)), deadline, deadline.plus(us(1))].map(|now| match w.at(now).attempt(operation) {
        Ok(_) => "ok",
        Err(rejection) => reason(&rejection),
    })
}

/// The state one microsecond before a deadline, at it, and one after.
fn states(w: &TestSaga, deadline: Timestamp) -> [State; 3] {
    [deadline.minus(us(1)), deadline, deadline.plus(us(1))].map(|now| {
        let mut w = w.at(now);
        w.due();
        w.state()
    })
}

/// The next deadline, as the coordinator computes it.
fn due(w: &TestSaga) -> Option<Timestamp> {
    next_due(&w.saga, w.now, &w.grace).map(|due| due.effective(&w.grace))
}

#[test]
fn m4_a_lease_ends_at_its_expiry() {
    let w = running();
    let (h, end) = (w.holder(), START.plus(TTL));
    assert_eq!(w.lease().expire_time, end);
    assert_eq!(due(&w), Some(end));
    assert_eq!(around(&w, end, &heartbeat(&h)), ["ok", "LEASE_EXPIRED", "LEASE_EXPIRED"]);
    assert_eq!(around(&w, end, &release(&h)), ["ok", "LEASE_EXPIRED", "LEASE_EXPIRED"]);
    assert_eq!(around(&w, end, &register(&h, &["bucket"])), ["ok", "LEASE_EXPIRED", "LEASE_EXPIRED"]);
    assert_eq!(around(&w, end, &claim("x")), ["LEASE_HELD", "ok", "ok"]);
    assert_eq!(around(&w, end, &quarantine_by_operator(false)), ["LEASE_HELD", "ok", "ok"]);
    assert_eq!(around(&w, end, &recover(RecoveryDecision::Requeue)), ["NOT_STALE", "ok", "ok"]);
}

#[test]
fn m5_reads_show_a_saga_as_stale_by_the_clock() {
    let look = |w: &TestSaga, at: Timestamp| {
        [at.minus(us(1)), at, at.plus(us(1))].map(|now| {
            let live = w.saga.live_lease(now, &w.grace).is_some();
            (w.saga.is_stale(now, &w.grace), live, w.saga.ready_for(now, &w.grace).is_some())
        })
    };
    let (held, stale) = ((false, true, false), (true, false, false));
    assert_eq!(look(&running(), START.plus(TTL)), [held, stale, stale]);
    let claimable = (true, false, true);
    assert_eq!(look(&undoing(), START.plus(TTL)), [held, claimable, claimable]);
    let (waits, ready) = ((false, false, false), (false, false, true));
    assert_eq!(look(&TestSaga::with(Policy::default(), &[], TTL), START.plus(TTL)), [waits, ready, ready]);
    let mut w = TestSaga::new(Policy { on_stale: StaleAction::Compensate, settle: secs(10), ..Policy::default() });
    w.claim("w");
    w.wait(TTL);
    assert_eq!(look(&w, START.plus(secs(40))), [waits, ready, ready]);
}

#[test]
fn an_execution_lease_lasts_no_longer_than_the_execution_timeout() {
    let w = |timeout| {
        let mut w = TestSaga::new(Policy { execution_timeout: Some(timeout), ..Policy::default() });
        w.claim("w");
        w
    };
    let ends = [us(TTL.micros() - 1), TTL, us(TTL.micros() + 1)].map(|timeout| {
        let w = w(timeout);
        (w.lease().expire_time.since(START).micros() - TTL.micros(), w.lease().limit)
    });
    assert_eq!(ends, [(-1, StaleCause::ExecutionTimeout), (0, StaleCause::Ttl), (0, StaleCause::Ttl)]);

    // A heartbeat beyond the timeout is shortened; one that then extends nothing is refused.
    let mut w = w(secs(60));
    let h = w.holder();
    w.wait(us(secs(30).micros() - 1));
    w.ok(heartbeat(&h));
    assert_eq!((w.lease().expire_time, w.lease().limit), (START.plus(us(59_999_999)), StaleCause::Ttl));
    w.wait(us(1));
    w.ok(heartbeat(&h));
    assert_eq!((w.lease().expire_time, w.lease().limit), (START.plus(secs(60)), StaleCause::Ttl));
    w.wait(us(1));
    assert_eq!(w.refusal(heartbeat(&h)), "EXECUTION_TIMEOUT");
    assert_eq!(
        around(&w, START.plus(secs(60)), &heartbeat(&h)),
        ["EXECUTION_TIMEOUT", "LEASE_EXPIRED", "LEASE_EXPIRED"]
    );
}

#[test]
fn an_execution_lease_lasts_no_longer_than_the_progress_timeout() {
    let mut w = TestSaga::new(Policy { progress_timeout: Some(secs(40)), ..Policy::default() });
    let h = w.claim("w");
    w.wait(secs(20));
    w.ok(heartbeat(&h));
    assert_eq!((w.lease().expire_time, w.lease().limit), (START.plus(secs(40)), StaleCause::ProgressTimeout));
    w.wait(us(1));
    assert_eq!(w.refusal(heartbeat(&h)), "PROGRESS_TIMEOUT");
    assert_eq!(around(&w, START.plus(secs(40)), &progress(&h, "half")), ["ok", "LEASE_EXPIRED", "LEASE_EXPIRED"]);
    w.ok(progress(&h, "half"));
    assert_eq!((w.lease().expire_time, w.lease().limit), (w.now.plus(TTL), StaleCause::Ttl));
    // Equal progress is no change.
    w.wait(us(1));
    w.ok(progress(&h, "half"));
    w.wait(secs(20));
    w.ok(progress(&h, "half"));
    assert_eq!(w.lease().expire_time, START.plus(secs(60)).plus(us(1)));
    assert_eq!(w.lease().limit, StaleCause::ProgressTimeout);
}

#[test]
fn neither_timeout_applies_to_leases_for_compensation() {
    let mut w = TestSaga::new(Policy {
        execution_timeout: Some(secs(1)),
        progress_timeout: Some(secs(1)),
        ..Policy::default()
    });
    let h = w.claim_undo("w");
    assert_eq!(w.lease().expire_time, START.plus(TTL));
    w.wait(secs(29));
    w.ok(heartbeat(&h));
    assert_eq!(w.lease().expire_time, START.plus(secs(59)));
}

#[test]
fn a_saga_is_planned_again_when_its_reservation_ends() {
    let mut w = TestSaga::new(Policy::default());
    w.ok(dispatch("x", secs(10)));
    let end = START.plus(secs(10));
    assert_eq!(due(&w), Some(end));
    assert_eq!(states(&w, end), [State::Dispatched, State::Planned, State::Planned]);
    assert_eq!(around(&w, end, &claim("w")), ["DISPATCHED_ELSEWHERE", "ok", "ok"]);
    assert_eq!(around(&w, end, &claim_undo("x")), ["DISPATCHED_ELSEWHERE", "ok", "ok"]);
    assert_eq!(around(&w, end, &claim("x")), ["ok", "ok", "ok"]);
    // A second dispatch starts a new reservation.
    w.wait(secs(9));
    w.ok(dispatch("y", secs(10)));
    assert_eq!(states(&w, START.plus(secs(19))), [State::Dispatched, State::Planned, State::Planned]);
}

#[test]
fn a_delayed_saga_is_refused_until_the_delay_ends() {
    let w = TestSaga::with(Policy::default(), &[], secs(10));
    assert_eq!(due(&w), Some(START.plus(secs(10))));
    assert_eq!(around(&w, START.plus(secs(10)), &claim("w")), ["NOT_READY", "ok", "ok"]);
    assert_eq!(around(&w, START.plus(secs(10)), &claim_undo("w")), ["ok", "ok", "ok"]);

    let mut w = running();
    w.ok(release_for(&w.holder(), secs(10)));
    assert_eq!(around(&w, START.plus(secs(10)), &claim("w")), ["NOT_READY", "ok", "ok"]);

    let mut w = undoing();
    w.ok(release_for(&w.holder(), secs(10)));
    assert_eq!(around(&w, START.plus(secs(10)), &claim_undo("w")), ["NOT_READY", "ok", "ok"]);
    assert_eq!(due(&w), Some(START.plus(secs(10))));
}

#[test]
fn a_delay_also_holds_for_the_assignee_of_a_reservation() {
    let mut w = TestSaga::with(Policy::default(), &[], secs(10));
    w.ok(dispatch("w", secs(20)));
    assert_eq!(due(&w), Some(START.plus(secs(10))), "the assignee can claim it from then on");
    assert_eq!(around(&w, START.plus(secs(10)), &claim("w")), ["NOT_READY", "ok", "ok"]);
    w.wait(secs(10));
    assert_eq!(due(&w), Some(START.plus(secs(20))));
    w.ok(dispatch("w", secs(1)));
    w.wait(secs(1));
    assert_eq!(w.state(), State::Planned);

    let mut w = TestSaga::with(Policy::default(), &[], secs(10));
    w.ok(dispatch("w", secs(5)));
    w.wait(secs(5));
    assert_eq!(around(&w, START.plus(secs(10)), &claim("x")), ["NOT_READY", "ok", "ok"]);
}

#[test]
fn settling_counts_from_the_expiry_not_from_when_it_was_applied() {
    for on_stale in [StaleAction::Hold, StaleAction::Requeue, StaleAction::Compensate] {
        let mut w = TestSaga::new(Policy { on_stale, settle: secs(10), ..Policy::default() });
        w.claim("w");
        let end = START.plus(secs(40));
        assert_eq!(around(&w, end, &claim_undo("x")), ["SETTLING", "ok", "ok"], "applied late");
        w.wait(secs(30));
        assert_eq!(around(&w, end, &claim_undo("x")), ["SETTLING", "ok", "ok"], "applied at once");
        w.wait(secs(1));
        assert!(w.attempt(&cancel(false)).is_ok(), "it is compensating at the latest now");
        assert_eq!(around(&w, end, &claim_undo("x")), ["SETTLING", "ok", "ok"], "after a decision");
        assert_eq!(due(&w), Some(end));
    }
}

#[test]
fn settling_ends_with_a_later_lease() {
    let mut w = TestSaga::new(Policy { on_stale: StaleAction::Requeue, settle: secs(60), ..Policy::default() });
    w.claim("w");
    w.wait(TTL);
    let h = w.claim("x");
    w.ok(release(&h));
    w.ok(claim_undo("y"));
    // An expired lease for compensation also causes settling.
    w.wait(TTL);
    assert_eq!(w.refusal(claim_undo("z")), "SETTLING");
    w.wait(secs(60));
    w.ok(claim_undo("z"));
}

#[test]
fn m12_a_saga_that_nobody_compensates_is_quarantined_after_the_timeout() {
    let day = secs(24 * 3600);
    let w = compensating();
    assert_eq!(due(&w), Some(START.plus(day)));
    let parked = [State::Compensating, State::Quarantined, State::Quarantined];
    assert_eq!(states(&w, START.plus(day)), parked);
    assert_eq!(around(&w, START.plus(day), &claim_undo("x")), ["ok", "SAGA_TERMINAL", "SAGA_TERMINAL"]);

    // A live lease postpones it: the day counts from the end of the lease.
    let w = undoing();
    assert_eq!(states(&w, START.plus(TTL).plus(day)), parked);
    let mut w = undoing();
    w.wait(secs(7));
    w.ok(release(&w.holder()));
    assert_eq!(states(&w, START.plus(secs(7)).plus(day)), parked);

    // A settled compensation postpones it, too, even one settled by an expired lease.
    let mut w = undoing();
    w.wait(secs(50));
    w.ok(done(&w.holder(), 2));
    assert_eq!(states(&w, START.plus(secs(50)).plus(day)), parked);
    w.wait(secs(50));
    w.ok(waive(1));
    assert_eq!(states(&w, START.plus(secs(100)).plus(day)), parked);

    // Neither a failed attempt nor a decision postpones it.
    let mut w = undoing();
    w.wait(secs(50));
    w.ok(failed(&w.holder(), 2));
    w.ok(recover(RecoveryDecision::Compensate));
    assert_eq!(states(&w, START.plus(TTL).plus(day)), parked);
}

#[test]
fn a_retry_waits_for_its_backoff() {
    let mut w = TestSaga::new(Policy { max_attempts: 9, retry_backoff: secs(2), ..Policy::default() });
    w.ok(claim("w"));
    w.ok(retry(&w.holder()));
    assert_eq!(around(&w, START.plus(secs(2)), &claim("w")), ["NOT_READY", "ok", "ok"]);
    assert_eq!(due(&w), Some(START.plus(secs(2))));
    w.wait(secs(2));
    w.ok(claim("w"));
    w.ok(retry(&w.holder()));
    assert_eq!(around(&w, START.plus(secs(6)), &claim("w")), ["NOT_READY", "ok", "ok"]);
}

/// A saga after an absence that began before its lease's expiry and ended long after it.
fn returned() -> (TestSaga, Timestamp) {
    let mut w = running();
    w.now = START.plus(secs(100));
    let back = w.now;
    (w.after_absence(secs(10)), back)
}

#[test]
fn p6_a_lease_from_before_an_absence_is_valid_until_the_grace_ends() {
    let (w, back) = returned();
    let (h, end) = (w.holder(), back.plus(secs(10)));
    assert_eq!(due(&w), Some(end));
    assert_eq!(around(&w, end, &heartbeat(&h)), ["ok", "LEASE_EXPIRED", "LEASE_EXPIRED"]);
    assert_eq!(around(&w, end, &claim("x")), ["LEASE_HELD", "ok", "ok"]);
    assert_eq!(w.lease().expire_time, START.plus(TTL), "the stored expiry is unchanged");
    let mut kept = w.clone();
    kept.ok(heartbeat(&h));
    assert_eq!(kept.lease().expire_time, back.plus(TTL));
    assert_eq!(around(&kept, back.plus(TTL), &claim("x")), ["LEASE_HELD", "ok", "ok"]);
}

#[test]
fn p6_the_grace_is_for_leases_from_before_the_absence_only() {
    let w = running();
    let short = w.lease().expire_time.minus(secs(5));
    // Back five seconds before the expiry with a grace of ten: the lease has five more.
    let before = w.at(short).after_absence(secs(10));
    assert_eq!(due(&before), Some(short.plus(secs(10))));
    // A grace shorter than the rest of the lease changes nothing.
    assert_eq!(due(&w.at(short).after_absence(secs(1))), Some(START.plus(TTL)));
    assert_eq!(due(&w.at(short).after_absence(Span::ZERO)), Some(START.plus(TTL)));
    // A lease that was extended after the return has no grace.
    let mut after = before.clone();
    after.ok(heartbeat_for(&after.holder(), secs(6)));
    assert_eq!(due(&after), Some(short.plus(secs(6))));
}

#[test]
fn p6_a_lease_that_was_reported_expired_before_the_absence_gets_no_grace() {
    let mut w = running();
    w.wait(secs(40));
    let w = w.after_absence(secs(10));
    assert!(w.saga.is_stale(w.now, &w.grace));
    let mut w = w;
    w.ok(claim("x"));
}

#[test]
fn p6_settling_and_the_compensation_timeout_count_from_the_end_of_the_grace() {
    let mut w = TestSaga::new(Policy { settle: secs(5), ..Policy::default() });
    w.claim("w");
    w.now = START.plus(secs(100));
    let w = w.after_absence(secs(10));
    assert_eq!(around(&w, START.plus(secs(115)), &claim_undo("x")), ["SETTLING", "ok", "ok"]);

    let mut w = compensating();
    w.now = START.plus(secs(30 * 24 * 3600));
    let back = w.now;
    let w = w.after_absence(secs(10));
    let end = back.plus(secs(10));
    assert_eq!(due(&w), Some(end));
    assert_eq!(states(&w, end), [State::Compensating, State::Quarantined, State::Quarantined]);
}
