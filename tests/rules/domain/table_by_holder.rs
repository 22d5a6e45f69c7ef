//! The table of calls under a lease: every situation and every call, made by the holder of the last lease.

use sagad::domain::{command::Operation, saga::State, transition::TransitionEffect};

use super::{
    operations::*,
    situation::Situation,
    test_saga::{TestSaga, reason},
};

/// The expected outcome in a cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Accepted and changed something; the state afterwards.
    To(State),
    /// Accepted and changed nothing.
    Same,
    /// Refused.
    No(&'static str),
}

pub const PLANNED: Cell = Cell::To(State::Planned);
pub const DISPATCH: Cell = Cell::To(State::Dispatched);
pub const RUNNING: Cell = Cell::To(State::Running);
pub const UNDOING: Cell = Cell::To(State::Compensating);
pub const COMPLETE: Cell = Cell::To(State::Completed);
pub const FAILED: Cell = Cell::To(State::Failed);
pub const UNDONE: Cell = Cell::To(State::Compensated);
pub const PARKED: Cell = Cell::To(State::Quarantined);
pub const SAME: Cell = Cell::Same;
pub const TERMINAL: Cell = Cell::No("SAGA_TERMINAL");
pub const WRONG: Cell = Cell::No("WRONG_STATE");
pub const HELD: Cell = Cell::No("LEASE_HELD");
pub const ELSEWHERE: Cell = Cell::No("DISPATCHED_ELSEWHERE");
pub const NOT_READY: Cell = Cell::No("NOT_READY");
pub const SETTLING: Cell = Cell::No("SETTLING");
pub const NOT_STALE: Cell = Cell::No("NOT_STALE");
pub const PENDING: Cell = Cell::No("COMPENSATION_PENDING");
pub const EXPIRED: Cell = Cell::No("LEASE_EXPIRED");
pub const SUPERSEDED: Cell = Cell::No("LEASE_SUPERSEDED");
pub const NO_LEASE: Cell = Cell::No("NO_LEASE");

/// The outcome of a command, as a cell.
pub fn outcome(w: &mut TestSaga, operation: &Operation) -> Cell {
    match w.attempt(operation) {
        Ok(TransitionEffect::Changed) => Cell::To(w.state()),
        Ok(TransitionEffect::Unchanged) => Cell::Same,
        Err(rejection) => Cell::No(reason(&rejection)),
    }
}

/// The number of calls: a row with fewer cells does not compile.
const CALLS: usize = 10;

/// The columns. A moment passes before each call, so that a heartbeat can extend.
fn calls(w: &TestSaga) -> [(&'static str, Operation); CALLS] {
    let h = &w.holder();
    [
        ("Heartbeat", heartbeat(h)),
        ("Release", release(h)),
        ("RegisterCompensation", register(h, &["bucket"])),
        ("Complete", complete(h, "result")),
        ("Fail for good", fail(h)),
        ("Fail, retryable", retry(h)),
        ("RecordCompensation DONE", done(h, 2)),
        ("RecordCompensation FAILED", failed(h, 2)),
        ("Compensate", compensate(h)),
        ("Quarantine", quarantine_held(h)),
    ]
}

/// The rows: a situation without a row does not compile.
#[rustfmt::skip]
const fn row(situation: Situation) -> [Cell; CALLS] {
    use Situation as S;
    match situation {
        //                       Heartbeat   Release     Register    Complete    Fail        retryable   DONE        FAILED      Compensate  Quarantine
        S::PlannedNew           => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::PlannedDelayed       => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::PlannedReleased      => [NO_LEASE,   SAME,       NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::PlannedRetried       => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   SAME,       SAME,       NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::PlannedRequeued      => [SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED],
        S::PlannedSettling      => [SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED],
        S::DispatchedNew        => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::DispatchedToOther    => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::DispatchedReleased   => [NO_LEASE,   SAME,       NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::DispatchedRequeued   => [SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED],
        S::RunningLive          => [RUNNING,    PLANNED,    RUNNING,    COMPLETE,   FAILED,     PLANNED,    WRONG,      WRONG,      WRONG,      PARKED],
        S::RunningCancelled     => [RUNNING,    UNDOING,    RUNNING,    COMPLETE,   UNDOING,    UNDOING,    WRONG,      WRONG,      WRONG,      PARKED],
        S::RunningStale         => [EXPIRED,    EXPIRED,    EXPIRED,    COMPLETE,   FAILED,     PLANNED,    WRONG,      WRONG,      WRONG,      PARKED],
        S::RunningSettling      => [EXPIRED,    EXPIRED,    EXPIRED,    COMPLETE,   FAILED,     PLANNED,    WRONG,      WRONG,      WRONG,      PARKED],
        S::CompensatingFailed   => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   SAME,       SAME,       NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::CompensatingDecided  => [SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED],
        S::CompensatingReleased => [NO_LEASE,   SAME,       NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::CompensatingDelayed  => [NO_LEASE,   SAME,       NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::CompensatingLive     => [UNDOING,    UNDOING,    WRONG,      WRONG,      WRONG,      WRONG,      UNDOING,    UNDOING,    PENDING,    PARKED],
        S::CompensatingSettled  => [UNDOING,    UNDOING,    WRONG,      WRONG,      WRONG,      WRONG,      SAME,       WRONG,      UNDONE,     PARKED],
        S::CompensatingStale    => [EXPIRED,    EXPIRED,    EXPIRED,    WRONG,      WRONG,      WRONG,      UNDOING,    UNDOING,    PENDING,    PARKED],
        S::CompletedByHolder    => [TERMINAL,   TERMINAL,   TERMINAL,   SAME,       TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL],
        S::FailedByHolder       => [TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   SAME,       SAME,       TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL],
        S::CompensatedByHolder  => [TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   SAME,       TERMINAL,   SAME,       TERMINAL],
        S::CompensatedUnclaimed => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
        S::QuarantinedByHolder  => [TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   TERMINAL,   SAME],
        S::QuarantinedByOperator  => [SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED],
        S::QuarantinedByPolicy  => [SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED, SUPERSEDED],
        S::QuarantinedUnclaimed => [NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE,   NO_LEASE],
    }
}

#[test]
fn m6_every_call_under_a_lease_in_every_situation() {
    let mut wrong = Vec::new();
    for &situation in Situation::ALL {
        let test_saga = situation.test_saga();
        for ((name, operation), expected) in calls(&test_saga).into_iter().zip(row(situation)) {
            let mut w = test_saga.at(test_saga.now.plus(super::test_saga::us(1)));
            let found = outcome(&mut w, &operation);
            if found != expected {
                wrong.push(format!("{situation:?} × {name}: {found:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
