//! Failures: retries, final failures, and their compensations.

use sagad::domain::{
    event::EventType,
    lease::{HolderEnd, Standing},
    policy::{FailureAction, Policy},
    saga::State,
    time::Span,
};

use super::{
    operations::*,
    situation::running,
    test_saga::{START, TestSaga, kinds, secs, text},
};

fn retrying(max_attempts: u32) -> Policy {
    Policy { max_attempts, ..Policy::default() }
}

#[test]
fn a_failure_is_retried_while_failures_are_below_max_attempts() {
    for max_attempts in 1..=4 {
        let mut w = TestSaga::new(retrying(max_attempts));
        for failures in 1..max_attempts {
            let h = w.claim("w");
            let events = w.ok(retry(&h));
            assert_eq!(kinds(&events), [EventType::RetryScheduled]);
            assert_eq!((w.state(), w.saga.failures), (State::Planned, failures));
            w.wait(secs(300));
        }
        let h = w.claim("w");
        w.ok(retry(&h));
        assert_eq!((w.state(), w.saga.failures), (State::Failed, max_attempts));
    }
}

#[test]
fn a_failure_that_is_not_retryable_ends_the_saga_and_is_not_counted() {
    let mut w = TestSaga::new(retrying(5));
    w.ok(claim("w"));
    w.ok(fail(&w.holder()));
    assert_eq!((w.state(), w.saga.failures), (State::Failed, 0));
}

#[test]
fn the_retry_delay_doubles_up_to_its_maximum() {
    let policy = Policy { retry_backoff: secs(2), retry_backoff_max: secs(7), ..retrying(9) };
    let mut w = TestSaga::new(policy);
    for wait in [2, 4, 7, 7] {
        let h = w.claim("w");
        w.ok(retry(&h));
        assert_eq!(w.saga.not_before, Some(w.now.plus(secs(wait))));
        w.wait(secs(wait));
    }
    let none = Policy { retry_backoff: Span::ZERO, ..retrying(1_000_000) };
    assert_eq!(none.backoff(1_000_000), Span::ZERO);
    let reversed = Policy { retry_backoff: secs(9), retry_backoff_max: secs(3), ..Policy::default() };
    assert_eq!([reversed.backoff(1), reversed.backoff(2)], [secs(3), secs(3)]);
    let mut w = TestSaga::new(none);
    w.ok(claim("w"));
    w.ok(retry(&w.holder()));
    assert_eq!(w.saga.not_before, None);
    w.ok(claim("w"));
}

#[test]
fn m8_a_final_failure_needs_a_compensation_record() {
    let mut w = TestSaga::bare(Policy::default());
    let h = w.claim("w");
    let before = w.saga.clone();
    assert_eq!(w.refusal(fail(&h)), "COMPENSATION_REQUIRED");
    assert_eq!(w.saga, before);
    let mut registered = w.clone();
    registered.ok(register(&h, &["bucket"]));
    registered.ok(fail(&h));
    assert_eq!(registered.state(), State::Failed);
    let events = w.ok(fail_with(&h, &["bucket", "volume"]));
    assert_eq!(
        kinds(&events),
        [EventType::CompensationRegistered, EventType::CompensationRegistered, EventType::Failed]
    );
    assert_eq!((w.state(), w.saga.compensations.len()), (State::Failed, 2));
    assert_eq!(w.saga.terminal_reason, Some(text("broken")));
}

#[test]
fn m8_a_retry_needs_no_compensation_record_and_the_last_failure_does() {
    let mut w = TestSaga::bare(retrying(2));
    w.ok(claim("w"));
    w.ok(retry(&w.holder()));
    w.wait(secs(1));
    w.ok(claim("w"));
    assert_eq!(w.refusal(retry(&w.holder())), "COMPENSATION_REQUIRED");
    assert_eq!(w.saga.failures, 1, "a refused failure is not counted");
}

#[test]
fn m8_registered_compensations_are_preserved() {
    let mut w = running();
    w.ok(fail_with(&w.holder(), &["branch", "bucket"]));
    let kinds: Vec<&str> = w.saga.compensations.iter().map(|c| c.spec.kind.as_str()).collect();
    assert_eq!(kinds, ["worktree", "branch", "bucket"]);
}

#[test]
fn on_failure_compensate_compensates_and_ends_at_once_when_there_is_nothing_to_undo() {
    let policy = Policy { on_failure: FailureAction::Compensate, ..Policy::default() };
    let mut w = TestSaga::bare(policy.clone());
    let h = w.claim("w");
    let mut given = w.clone();
    given.ok(fail_with(&h, &["bucket"]));
    assert_eq!(given.state(), State::Compensating);
    let events = w.ok(fail(&h));
    assert_eq!(kinds(&events), [EventType::Compensating, EventType::Compensated]);
    assert_eq!(
        (&*events[0].reason, &*events[1].reason),
        ("broken", "nothing to undo"),
        "the history has the reason of the failure"
    );
    assert_eq!((w.state(), &w.saga.terminal_reason), (State::Compensated, &Some(text("nothing to undo"))));
    assert_eq!(w.lease().standing, Standing::EndedByHolder(HolderEnd::Failed));
    w.repeated(fail(&h));
    let mut w = TestSaga::new(Policy { max_attempts: 2, ..policy });
    w.ok(claim("w"));
    w.ok(retry(&w.holder()));
    assert_eq!(w.state(), State::Planned, "a retry is left");
}

#[test]
fn after_a_cancel_request_any_failure_compensates() {
    for (nothing, retryable) in [(false, false), (false, true), (true, false), (true, true)] {
        let policy = retrying(5);
        let mut w = if nothing { TestSaga::bare(policy) } else { TestSaga::new(policy) };
        let h = w.claim("w");
        w.ok(cancel(false));
        w.ok(if retryable { retry(&h) } else { fail(&h) });
        assert_eq!((w.state(), w.saga.not_before), (State::Compensating, None));
        w.ok(claim_undo("x"));
    }
}

#[test]
fn a_release_counts_as_neither_failure_nor_expiration_and_keeps_its_delay() {
    let mut w = running();
    let events = w.ok(release_for(&w.holder(), secs(5)));
    assert_eq!(kinds(&events), [EventType::Released]);
    assert_eq!((w.saga.failures, w.saga.expirations, w.saga.attempt), (0, 0, 1));
    assert_eq!(w.saga.not_before, Some(START.plus(secs(5))));
    // A cancelled saga is compensating after its release, and the delay applies.
    let mut w = running();
    w.ok(cancel(false));
    let events = w.ok(release_for(&w.holder(), secs(5)));
    assert_eq!(kinds(&events), [EventType::Compensating]);
    assert_eq!(w.saga.not_before, Some(START.plus(secs(5))));
    assert_eq!(w.refusal(claim_undo("x")), "NOT_READY");
}

#[test]
fn other_ways_into_compensating_clear_the_delay() {
    let mut w = running();
    w.ok(release_for(&w.holder(), secs(60)));
    w.ok(cancel(false));
    assert_eq!((w.state(), w.saga.not_before), (State::Compensating, None));
    w.ok(claim_undo("x"));
}
