//! The table of calls without a lease: every situation and every call; claims are by `w`.

use sagad::domain::{
    command::{Operation, RecoveryDecision},
    saga::State,
};

use super::{
    operations::*,
    situation::Situation,
    table_by_holder::*,
    test_saga::{TTL, us},
};

/// The number of calls: a row with fewer cells does not compile.
const CALLS: usize = 13;

/// The columns.
fn calls() -> [(&'static str, Operation); CALLS] {
    [
        ("Dispatch", dispatch("w", TTL)),
        ("Claim EXECUTE", claim("w")),
        ("Claim COMPENSATE", claim_undo("w")),
        ("WaiveCompensation", waive(2)),
        ("Quarantine", quarantine_by_operator(false)),
        ("Quarantine, revoking", quarantine_by_operator(true)),
        ("Recover REQUEUE", recover(RecoveryDecision::Requeue)),
        ("Recover COMPENSATE", recover(RecoveryDecision::Compensate)),
        ("Recover QUARANTINE", recover(RecoveryDecision::Quarantine)),
        ("RequestCancel", cancel(false)),
        ("RequestCancel, revoking", cancel(true)),
        ("Annotate", annotate("note")),
        ("Annotate, amending", amend("amended")),
    ]
}

/// A terminal state refuses all calls except annotations.
const fn terminal(state: State) -> [Cell; CALLS] {
    let (t, noted) = (TERMINAL, Cell::To(state));
    [t, t, t, t, t, t, t, t, t, t, t, noted, noted]
}

/// The rows: a situation without a row does not compile.
#[rustfmt::skip]
const fn row(situation: Situation) -> [Cell; CALLS] {
    use Situation as S;
    match situation {
        //                       Dispatch   EXECUTE    COMPENSATE Waive    Quarantine revoking R.REQUEUE  R.COMP.    R.QUAR.    Cancel   revoking Annotate  amending
        S::PlannedNew           => [DISPATCH, RUNNING,   UNDOING,   WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDONE,  UNDONE,  PLANNED,  WRONG],
        S::PlannedDelayed       => [DISPATCH, NOT_READY, UNDOING,   WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDONE,  UNDONE,  PLANNED,  WRONG],
        S::PlannedReleased      => [DISPATCH, RUNNING,   UNDOING,   WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDOING, UNDOING, PLANNED,  WRONG],
        S::PlannedRetried       => [DISPATCH, NOT_READY, UNDOING,   WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDOING, UNDOING, PLANNED,  WRONG],
        S::PlannedRequeued      => [DISPATCH, RUNNING,   UNDOING,   WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDOING, UNDOING, PLANNED,  WRONG],
        S::PlannedSettling      => [DISPATCH, RUNNING,   SETTLING,  WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDOING, UNDOING, PLANNED,  WRONG],
        S::DispatchedNew        => [DISPATCH, RUNNING,   ELSEWHERE, WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDONE,  UNDONE,  DISPATCH, WRONG],
        S::DispatchedToOther    => [DISPATCH, ELSEWHERE, ELSEWHERE, WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDONE,  UNDONE,  DISPATCH, WRONG],
        S::DispatchedReleased   => [DISPATCH, RUNNING,   ELSEWHERE, WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDOING, UNDOING, DISPATCH, WRONG],
        S::DispatchedRequeued   => [DISPATCH, RUNNING,   ELSEWHERE, WRONG,   PARKED, PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, UNDOING, UNDOING, DISPATCH, WRONG],
        S::RunningLive          => [WRONG,    HELD,      HELD,      WRONG,   HELD,   PARKED,  NOT_STALE, NOT_STALE, NOT_STALE, RUNNING, UNDOING, RUNNING,  WRONG],
        S::RunningCancelled     => [WRONG,    WRONG,     HELD,      WRONG,   HELD,   PARKED,  WRONG,     NOT_STALE, NOT_STALE, SAME,    UNDOING, RUNNING,  WRONG],
        S::RunningStale         => [WRONG,    RUNNING,   UNDOING,   WRONG,   PARKED, PARKED,  PLANNED,   UNDOING,   PARKED,    UNDOING, UNDOING, RUNNING,  WRONG],
        S::RunningSettling      => [WRONG,    RUNNING,   SETTLING,  WRONG,   PARKED, PARKED,  PLANNED,   UNDOING,   PARKED,    UNDOING, UNDOING, RUNNING,  WRONG],
        S::CompensatingFailed   => [WRONG,    WRONG,     UNDOING,   UNDOING, PARKED, PARKED,  WRONG,     NOT_STALE, NOT_STALE, SAME,    SAME,    UNDOING,  WRONG],
        S::CompensatingDecided  => [WRONG,    WRONG,     UNDOING,   UNDOING, PARKED, PARKED,  WRONG,     NOT_STALE, NOT_STALE, SAME,    SAME,    UNDOING,  WRONG],
        S::CompensatingReleased => [WRONG,    WRONG,     UNDOING,   UNDOING, PARKED, PARKED,  WRONG,     NOT_STALE, NOT_STALE, SAME,    SAME,    UNDOING,  WRONG],
        S::CompensatingDelayed  => [WRONG,    WRONG,     NOT_READY, UNDOING, PARKED, PARKED,  WRONG,     NOT_STALE, NOT_STALE, SAME,    SAME,    UNDOING,  WRONG],
        S::CompensatingLive     => [WRONG,    WRONG,     HELD,      UNDOING, HELD,   PARKED,  WRONG,     NOT_STALE, NOT_STALE, SAME,    SAME,    UNDOING,  WRONG],
        S::CompensatingSettled  => [WRONG,    WRONG,     HELD,      WRONG,   HELD,   PARKED,  WRONG,     NOT_STALE, NOT_STALE, SAME,    SAME,    UNDOING,  WRONG],
        S::CompensatingStale    => [WRONG,    WRONG,     UNDOING,   UNDOING, PARKED, PARKED,  WRONG,     UNDOING,   PARKED,    SAME,    SAME,    UNDOING,  WRONG],
        S::CompletedByHolder    => terminal(State::Completed),
        S::FailedByHolder       => terminal(State::Failed),
        S::CompensatedByHolder  => terminal(State::Compensated),
        S::CompensatedUnclaimed => terminal(State::Compensated),
        S::QuarantinedByHolder  => terminal(State::Quarantined),
        S::QuarantinedByOperator  => terminal(State::Quarantined),
        S::QuarantinedByPolicy  => terminal(State::Quarantined),
        S::QuarantinedUnclaimed => terminal(State::Quarantined),
    }
}

#[test]
fn m6_every_call_without_a_lease_in_every_situation() {
    let mut wrong = Vec::new();
    for &situation in Situation::ALL {
        for ((name, operation), expected) in calls().into_iter().zip(row(situation)) {
            let mut w = situation.test_saga();
            w.now = w.now.plus(us(1));
            let found = outcome(&mut w, &operation);
            if found != expected {
                wrong.push(format!("{situation:?} × {name}: {found:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
