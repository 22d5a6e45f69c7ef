//! [`Situation`]: every combination of state, standing of the last lease, and pending request that a command can meet.

use sagad::domain::{
    command::{Holder, Operation, RecoveryDecision},
    lease::{HolderEnd, Standing},
    policy::{FailureAction, Policy, StaleAction},
    saga::State,
    time::Span,
};

use super::{
    operations::*,
    test_saga::{TTL, TestSaga, secs},
};

macro_rules! situations {
    ($($name:ident),* $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Situation { $($name),* }

        impl Situation {
            pub const ALL: &[Situation] = &[$(Situation::$name),*];
        }
    };
}

situations! {
    PlannedNew, PlannedDelayed, PlannedReleased, PlannedRetried, PlannedRequeued, PlannedSettling,
    DispatchedNew, DispatchedToOther, DispatchedReleased, DispatchedRequeued,
    RunningLive, RunningCancelled, RunningStale, RunningSettling,
    CompensatingFailed, CompensatingDecided, CompensatingReleased, CompensatingDelayed,
    CompensatingLive, CompensatingSettled, CompensatingStale,
    CompletedByHolder, FailedByHolder,
    CompensatedByHolder, CompensatedUnclaimed,
    QuarantinedByHolder, QuarantinedByOperator, QuarantinedByPolicy, QuarantinedUnclaimed,
}

/// Two retries, the first after one second.
fn policy() -> Policy {
    Policy { max_attempts: 3, ..Policy::default() }
}

fn on_stale(on_stale: StaleAction, settle: Span) -> TestSaga {
    TestSaga::new(Policy { on_stale, settle, ..policy() })
}

impl Situation {
    /// A saga in this situation; its claims are by `w`.
    pub fn test_saga(self) -> TestSaga {
        let mut w = TestSaga::new(policy());
        match self {
            Situation::PlannedNew => {}
            Situation::PlannedDelayed => w = TestSaga::with(policy(), &["worktree", "branch"], secs(60)),
            Situation::PlannedReleased => w = released(),
            Situation::PlannedRetried => {
                let h = w.claim("w");
                w.ok(retry(&h));
            }
            Situation::PlannedRequeued => w = requeued(),
            Situation::PlannedSettling => {
                w = on_stale(StaleAction::Requeue, secs(60));
                w.claim("w");
                w.wait(TTL);
            }
            Situation::DispatchedNew => drop(w.ok(dispatch("w", TTL))),
            Situation::DispatchedToOther => drop(w.ok(dispatch("x", TTL))),
            Situation::DispatchedReleased => w = after(released(), |_| dispatch("w", TTL)),
            Situation::DispatchedRequeued => w = after(requeued(), |_| dispatch("w", TTL)),
            Situation::RunningLive => w = running(),
            Situation::RunningCancelled => w = after(running(), |_| cancel(false)),
            Situation::RunningStale => w = stale(),
            Situation::RunningSettling => {
                w = on_stale(StaleAction::Hold, secs(60));
                w.claim("w");
                w.wait(TTL);
            }
            Situation::CompensatingFailed => w = compensating(),
            Situation::CompensatingDecided => w = after(stale(), |_| recover(RecoveryDecision::Compensate)),
            Situation::CompensatingReleased => w = after(undoing(), release),
            Situation::CompensatingDelayed => w = after(undoing(), |h| release_for(h, secs(60))),
            Situation::CompensatingLive => w = undoing(),
            Situation::CompensatingSettled => w = settled(),
            Situation::CompensatingStale => {
                w = undoing();
                w.wait(TTL);
            }
            Situation::CompletedByHolder => w = after(running(), |h| complete(h, "result")),
            Situation::FailedByHolder => w = after(running(), fail),
            Situation::CompensatedByHolder => w = after(settled(), compensate),
            Situation::CompensatedUnclaimed => drop(w.ok(cancel(false))),
            Situation::QuarantinedByHolder => w = after(running(), quarantine_held),
            Situation::QuarantinedByOperator => w = after(running(), |_| quarantine_by_operator(true)),
            Situation::QuarantinedByPolicy => {
                w = on_stale(StaleAction::Quarantine, Span::ZERO);
                w.claim("w");
                w.wait(TTL);
            }
            Situation::QuarantinedUnclaimed => drop(w.ok(quarantine_by_operator(false))),
        }
        w
    }

    /// The state and the standing of the last lease in this situation.
    pub fn expected(self) -> (State, Lease) {
        use Situation as S;
        match self {
            S::PlannedNew | S::PlannedDelayed => (State::Planned, Lease::None),
            S::PlannedReleased => (State::Planned, Lease::Ended(HolderEnd::Released)),
            S::PlannedRetried => (State::Planned, Lease::Ended(HolderEnd::Failed)),
            S::PlannedRequeued | S::PlannedSettling => (State::Planned, Lease::EndedByOther),
            S::DispatchedNew | S::DispatchedToOther => (State::Dispatched, Lease::None),
            S::DispatchedReleased => (State::Dispatched, Lease::Ended(HolderEnd::Released)),
            S::DispatchedRequeued => (State::Dispatched, Lease::EndedByOther),
            S::RunningLive | S::RunningCancelled => (State::Running, Lease::Held),
            S::RunningStale | S::RunningSettling => (State::Running, Lease::Expired),
            S::CompensatingFailed => (State::Compensating, Lease::Ended(HolderEnd::Failed)),
            S::CompensatingDecided => (State::Compensating, Lease::EndedByOther),
            S::CompensatingReleased | S::CompensatingDelayed => {
                (State::Compensating, Lease::Ended(HolderEnd::Released))
            }
            S::CompensatingLive | S::CompensatingSettled => (State::Compensating, Lease::Held),
            S::CompensatingStale => (State::Compensating, Lease::Expired),
            S::CompletedByHolder => (State::Completed, Lease::Ended(HolderEnd::Completed)),
            S::FailedByHolder => (State::Failed, Lease::Ended(HolderEnd::Failed)),
            S::CompensatedByHolder => (State::Compensated, Lease::Ended(HolderEnd::Compensated)),
            S::CompensatedUnclaimed => (State::Compensated, Lease::None),
            S::QuarantinedByHolder => (State::Quarantined, Lease::Ended(HolderEnd::Quarantined)),
            S::QuarantinedByOperator | S::QuarantinedByPolicy => (State::Quarantined, Lease::EndedByOther),
            S::QuarantinedUnclaimed => (State::Quarantined, Lease::None),
        }
    }
}

/// The standing of the last lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    None,
    Held,
    Expired,
    Ended(HolderEnd),
    EndedByOther,
}

/// Claimed by `w`.
pub fn running() -> TestSaga {
    let mut w = TestSaga::new(policy());
    w.claim("w");
    w
}

/// Claimed by `w`, whose lease has expired.
pub fn stale() -> TestSaga {
    let mut w = running();
    w.wait(TTL);
    w
}

/// Claimed and released by `w`.
pub fn released() -> TestSaga {
    let mut w = running();
    w.ok(release(&w.holder()));
    w
}

/// Claimed by `w`, whose lease has expired, and planned again by a decision.
pub fn requeued() -> TestSaga {
    let mut w = stale();
    w.ok(recover(RecoveryDecision::Requeue));
    w
}

/// Failed by `w`, waiting to be compensated.
pub fn compensating() -> TestSaga {
    let mut w = TestSaga::new(Policy { on_failure: FailureAction::Compensate, ..Policy::default() });
    let h = w.claim("w");
    w.ok(fail(&h));
    w
}

/// Under a lease of `w` for compensation.
pub fn undoing() -> TestSaga {
    let mut w = compensating();
    w.claim_undo("w");
    w
}

/// All compensations done by `w`, and the end not reported yet.
pub fn settled() -> TestSaga {
    let mut w = undoing();
    let h = w.holder();
    w.ok(done(&h, 2));
    w.ok(done(&h, 1));
    w
}

/// The saga after one more command of its holder.
fn after(mut w: TestSaga, operation: impl Fn(&Holder) -> Operation) -> TestSaga {
    w.ok(operation(&w.holder()));
    w
}

#[test]
fn each_situation_has_the_state_and_lease_of_its_name() {
    for situation in Situation::ALL {
        let w = situation.test_saga();
        let lease = match w.saga.lease.as_ref().map(|lease| lease.standing) {
            None => Lease::None,
            Some(Standing::Held) => Lease::Held,
            Some(Standing::Expired { .. }) => Lease::Expired,
            Some(Standing::EndedByHolder(end)) => Lease::Ended(end),
            Some(Standing::EndedByOther) => Lease::EndedByOther,
        };
        assert_eq!((w.state(), lease), situation.expected(), "{situation:?}");
    }
    for state in State::ALL {
        assert!(Situation::ALL.iter().any(|situation| situation.expected().0 == state), "{state:?} is missing");
    }
}
