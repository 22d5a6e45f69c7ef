//! Heartbeats: each extends the lease, or is refused and changes nothing.

use sagad::domain::{
    command::Holder,
    policy::Policy,
    rejection::Rejection,
    saga::State,
    time::Span,
    transition::{TransitionEffect, cancel_reason, check_lease},
};

use super::{
    operations::*,
    situation::{running, undoing},
    test_saga::{START, TTL, TestSaga, blob, owner, reason, secs, text, us},
};

#[test]
fn m2_a_claim_takes_a_lease_with_owner_expiry_and_heartbeat_time() {
    let w = running();
    let lease = w.lease();
    assert_eq!((lease.owner.as_str(), lease.acquire_time, lease.heartbeat_time), ("w", START, START));
    assert_eq!((lease.expire_time, lease.ttl), (START.plus(TTL), TTL));
    assert_eq!(lease.heartbeat_interval(), secs(10));
    assert_eq!((w.state(), w.saga.attempt), (State::Running, 1));
    assert!(lease.expire_time > lease.acquire_time);
}

#[test]
fn m4_a_heartbeat_extends_the_lease_and_changes_neither_revision_nor_update_time() {
    for mut w in [running(), undoing()] {
        let (h, before) = (w.holder(), w.saga.clone());
        w.wait(secs(5));
        assert!(w.ok(heartbeat(&h)).is_empty(), "no event");
        assert_eq!(w.lease().expire_time, START.plus(secs(35)));
        assert_eq!(w.lease().heartbeat_time, START.plus(secs(5)));
        assert_eq!((w.saga.revision, w.saga.update_time), (before.revision, before.update_time));
        let rest = sagad::domain::saga::Saga { lease: before.lease.clone(), ..w.saga.clone() };
        assert_eq!(rest, before, "nothing else changed");
    }
}

#[test]
fn m4_a_heartbeat_may_change_the_length_of_the_lease() {
    let mut w = running();
    let h = w.holder();
    w.ok(heartbeat_for(&h, secs(60)));
    assert_eq!((w.lease().ttl, w.lease().expire_time), (secs(60), START.plus(secs(60))));
    w.wait(secs(1));
    w.ok(heartbeat(&h));
    assert_eq!(w.lease().expire_time, START.plus(secs(61)));
}

#[test]
fn m4_a_heartbeat_that_does_not_extend_is_refused() {
    let mut w = running();
    let h = w.holder();
    w.wait(secs(10));
    assert_eq!(w.refusal(heartbeat_for(&h, us(19_999_999))), "LEASE_NOT_EXTENDED");
    w.ok(heartbeat_for(&h, us(20_000_001)));
    assert_eq!(w.lease().expire_time, START.plus(us(30_000_001)));
}

#[test]
fn m4_heartbeats_in_the_same_microsecond_are_all_accepted() {
    let mut w = running();
    let h = w.holder();
    w.ok(heartbeat(&h));
    w.wait(secs(1));
    w.ok(heartbeat(&h));
    w.ok(progress(&h, "half"));
    assert_eq!((w.lease().expire_time, &w.saga.progress), (START.plus(secs(1)).plus(TTL), &blob("half")));
    assert_eq!(
        w.refusal(heartbeat_for(&h, us(TTL.micros() - 1))),
        "LEASE_NOT_EXTENDED",
        "a microsecond less is refused"
    );
    w.ok(heartbeat_for(&h, TTL));
}

#[test]
fn m4_a_heartbeat_that_a_timeout_keeps_from_extending_names_the_timeout() {
    let mut w = TestSaga::new(Policy { execution_timeout: Some(secs(10)), ..Policy::default() });
    let h = w.claim("w");
    assert_eq!(w.refusal(heartbeat_for(&h, secs(60))), "EXECUTION_TIMEOUT");
    assert_eq!(w.refusal(progress(&h, "half")), "EXECUTION_TIMEOUT");
    let mut w = TestSaga::new(Policy { progress_timeout: Some(secs(10)), ..Policy::default() });
    let h = w.claim("w");
    assert_eq!(w.refusal(heartbeat(&h)), "PROGRESS_TIMEOUT");
    w.ok(progress(&h, "half"));
    assert_eq!(w.refusal(progress(&h, "half")), "PROGRESS_TIMEOUT", "it does not extend either");
    w.ok(progress(&h, "more"));
    w.wait(secs(5));
    assert_eq!(w.refusal(heartbeat(&h)), "PROGRESS_TIMEOUT");
    w.ok(progress(&h, "most"));
    assert_eq!(w.lease().expire_time, START.plus(secs(15)));
}

#[test]
fn m4_each_wrong_caller_is_refused_and_stored_state_is_unchanged() {
    let mut w = running();
    let h = w.holder();
    w.wait(secs(1));
    let before = w.saga.clone();
    let other_owner = Holder { owner: owner("x"), token: h.token };
    assert_eq!(w.refusal(heartbeat(&other_owner)), "NOT_OWNER");
    let unknown = Holder { token: super::test_saga::UNKNOWN_TOKEN, ..h.clone() };
    assert_eq!(w.refusal(heartbeat(&unknown)), "NO_LEASE");
    assert_eq!(w.saga, before);
    w.wait(TTL);
    let before = w.saga.clone();
    assert_eq!(w.refusal(heartbeat(&h)), "LEASE_EXPIRED");
    assert_eq!(w.saga, before);
    w.claim("x");
    let before = w.saga.clone();
    assert_eq!(w.refusal(heartbeat(&h)), "LEASE_SUPERSEDED");
    assert_eq!(w.saga, before);
}

#[test]
fn a_refused_heartbeat_returns_the_standing_and_stores_no_progress() {
    let mut w = TestSaga::new(Policy { execution_timeout: Some(TTL), ..Policy::default() });
    let h = w.claim("w");
    w.wait(secs(1));
    w.ok(cancel(false));
    let Rejection::ExecutionTimeout(standing) = w.refused(progress(&h, "half")) else {
        panic!("it names another limit")
    };
    assert_eq!(standing.expire_time, START.plus(TTL));
    assert_eq!(standing.cancel_reason, Some(text("no longer wanted")));
    assert_eq!(w.saga.progress, blob(""));
    let Rejection::LeaseNotExtended(standing) = w.refused(heartbeat_for(&h, secs(2))) else { panic!("not clamped") };
    assert_eq!(standing.expire_time, START.plus(TTL));
    w.ok(complete(&h, "in time"));
}

#[test]
fn the_shorter_of_two_timeouts_is_named() {
    let both = |execution, progress| {
        let mut w = TestSaga::new(Policy {
            execution_timeout: Some(secs(execution)),
            progress_timeout: Some(secs(progress)),
            ..Policy::default()
        });
        let h = w.claim("w");
        w.wait(secs(1));
        w.refusal(heartbeat(&h))
    };
    assert_eq!(both(10, 20), "EXECUTION_TIMEOUT");
    assert_eq!(both(20, 10), "PROGRESS_TIMEOUT");
}

#[test]
fn absent_progress_is_kept_across_leases_and_its_timeout_restarts() {
    let mut w = TestSaga::new(Policy { progress_timeout: Some(secs(40)), ..Policy::default() });
    let h = w.claim("w");
    w.wait(secs(1));
    w.ok(progress(&h, "half"));
    w.wait(secs(1));
    w.ok(heartbeat(&h));
    assert_eq!(w.saga.progress, blob("half"));
    w.ok(release(&h));
    w.wait(secs(500));
    let h = w.claim("x");
    assert_eq!(w.saga.progress, blob("half"));
    w.wait(secs(20));
    w.ok(progress(&h, "half"));
    assert_eq!(w.lease().expire_time, w.lease().acquire_time.plus(secs(40)), "equal progress does not count");
}

#[test]
fn only_an_executing_worker_is_told_of_a_cancellation() {
    let mut w = running();
    assert_eq!(cancel_reason(&w.saga), None);
    w.ok(cancel(false));
    assert_eq!(cancel_reason(&w.saga), Some(text("no longer wanted")));
    w.wait(secs(1));
    w.ok(heartbeat(&w.holder()));
    w.ok(cancel(true));
    w.claim_undo("w");
    assert_eq!(cancel_reason(&w.saga), None);
}

#[test]
fn p6_a_heartbeat_in_the_grace_must_extend_beyond_the_present() {
    // The lease expired at 30 s, the progress timeout ends at 40 s, and it is 100 s now: the refusal names the timeout.
    let mut w = TestSaga::new(Policy { progress_timeout: Some(secs(40)), ..Policy::default() });
    let h = w.claim("w");
    w.now = START.plus(secs(100));
    let mut w = w.after_absence(secs(10));
    assert_eq!(w.refusal(heartbeat(&h)), "PROGRESS_TIMEOUT");
    w.ok(progress(&h, "back"));
    assert_eq!(w.lease().expire_time, w.now.plus(TTL));
}

#[test]
fn p6_a_timeout_does_not_shorten_the_grace() {
    for limited in [
        Policy { execution_timeout: Some(secs(40)), ..Policy::default() },
        Policy { progress_timeout: Some(secs(40)), ..Policy::default() },
    ] {
        // The lease expired at 30 s, and the timeout ends at 40 s. Back at 35 s, the lease is valid until 45 s.
        let mut w = TestSaga::new(limited);
        let h = w.claim("w");
        w.now = START.plus(secs(35));
        let mut w = w.after_absence(secs(10));
        let end = w.now.plus(secs(10));
        assert!(["EXECUTION_TIMEOUT", "PROGRESS_TIMEOUT"].contains(&w.refusal(heartbeat(&h))));
        assert_eq!(w.lease().effective_expiry(&w.grace), end);
        // A timeout after the grace applies as usual.
        let mut w = w.after_absence(secs(3));
        w.ok(heartbeat(&h));
        assert_eq!(w.lease().effective_expiry(&w.grace), START.plus(secs(40)));
    }
}

#[test]
fn a_lease_is_checked_as_a_heartbeat_checks_it() {
    let check = |w: &TestSaga, h: &Holder| check_lease(&w.draft(), h).map_err(|rejection| reason(&rejection));
    let mut w = running();
    let h = w.holder();
    assert_eq!(check(&w, &h), Ok(()));
    w.wait(TTL);
    assert_eq!(check(&w, &h), Err("LEASE_EXPIRED"));
    let second = w.claim("x");
    assert_eq!(check(&w, &h), Err("LEASE_SUPERSEDED"));
    w.ok(release_for(&second, Span::ZERO));
    assert_eq!(check(&w, &second), Err("NO_LEASE"));
    w.ok(quarantine_by_operator(false));
    assert_eq!(check(&w, &second), Err("SAGA_TERMINAL"));
    assert_eq!(w.attempt(&release(&second)), Ok(TransitionEffect::Unchanged));
}
