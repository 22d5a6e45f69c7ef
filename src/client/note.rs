//! What a worker reports to its operator: a note for each thing that happened to a saga it had.

use std::{fmt, sync::Arc};

use tonic::Status;

use super::{LeaseLost, StatusDetails};
use crate::proto::{Saga, SagaState};

/// Receives notes. Called from the worker's tasks, so it must not block.
pub type Notes = Arc<dyn Fn(Note) + Send + Sync>;

/// Something that happened in a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A saga was taken.
    Claimed {
        /// Which one.
        task_id: String,
        /// Its queue.
        queue: String,
        /// How many claims for execution it has had.
        attempt: i32,
        /// The lease's fencing token.
        fencing_token: i64,
    },
    /// The coordinator accepted the outcome.
    Finished {
        /// Which one.
        task_id: String,
        /// How it was reported.
        report: ReportRpc,
        /// What it is now.
        state: SagaState,
        /// What was reported.
        reason: String,
    },
    /// The lease was lost: the work was stopped and nothing reported.
    Lost {
        /// Which one.
        task_id: String,
        /// Why.
        lost: LeaseLost,
    },
    /// The outcome could not be reported; the lease will expire.
    NotReported {
        /// Which one.
        task_id: String,
        /// What was to be reported.
        report: ReportRpc,
        /// What was to be said.
        reason: String,
        /// The reason of the last answer, such as `SAGA_TERMINAL` or `UNAVAILABLE`.
        refusal: String,
        /// That answer in words.
        message: String,
    },
    /// A compensation was settled, or an attempt at it failed.
    Compensation {
        /// Which saga.
        task_id: String,
        /// Which of its compensations.
        position: i32,
        /// Its kind.
        kind: String,
        /// What went wrong; `None` when it is done.
        error: Option<String>,
    },
    /// Someone else has it, or it needs no recovery any more.
    Skipped {
        /// Which one.
        task_id: String,
        /// Why.
        reason: String,
    },
    /// The coordinator does not answer; it is asked again until it does.
    Unreachable {
        /// The last error.
        reason: String,
    },
    /// The coordinator answers again.
    Reachable,
}

/// The rpcs by which a holder reports how the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportRpc {
    /// `Complete`.
    Complete,
    /// `Fail`.
    Fail,
    /// `Release`.
    Release,
    /// `Quarantine`.
    Quarantine,
    /// `RecordCompensation`.
    RecordCompensation,
    /// `Compensate`.
    Compensate,
}

impl ReportRpc {
    /// The rpc's name.
    pub fn rpc(self) -> &'static str {
        match self {
            ReportRpc::Complete => "Complete",
            ReportRpc::Fail => "Fail",
            ReportRpc::Release => "Release",
            ReportRpc::Quarantine => "Quarantine",
            ReportRpc::RecordCompensation => "RecordCompensation",
            ReportRpc::Compensate => "Compensate",
        }
    }
}

impl Note {
    /// The note for the result of a report.
    pub(super) fn reported(
        task_id: String,
        report: ReportRpc,
        reason: String,
        answer: Result<Option<Saga>, Status>,
    ) -> Self {
        match answer {
            Ok(saga) => Note::Finished { task_id, report, state: saga.unwrap_or_default().state(), reason },
            Err(status) => {
                let StatusDetails { reason: refusal, message, .. } = StatusDetails::from(&status);
                Note::NotReported { task_id, report, reason, refusal, message }
            }
        }
    }

    /// A saga was taken.
    pub fn claimed(saga: &Saga) -> Self {
        Note::Claimed {
            task_id: saga.task_id.clone(),
            queue: saga.queue.clone(),
            attempt: saga.attempt,
            fencing_token: saga.lease.as_ref().map_or(0, |lease| lease.fencing_token),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Claimed { task_id, queue, attempt, fencing_token } => {
                write!(f, "claimed {task_id} (queue {queue}, attempt {attempt}, token {fencing_token})")
            }
            Note::Finished { task_id, state, reason, report: _ } => {
                write!(f, "{} {task_id}", state_name(*state))?;
                if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
            }
            Note::Lost { task_id, lost } => write!(f, "lost {task_id}: {lost}"),
            Note::NotReported { task_id, report, reason, refusal, message } => {
                let what = if reason.is_empty() { report.rpc() } else { reason };
                write!(f, "not reported {task_id}: {what} ({refusal}: {message})")
            }
            Note::Compensation { task_id, position, kind, error: None } => {
                write!(f, "undone {task_id}: compensation {position} ({kind})")
            }
            Note::Compensation { task_id, position, kind, error: Some(error) } => {
                write!(f, "undo failed {task_id}: compensation {position} ({kind}): {error}")
            }
            Note::Skipped { task_id, reason } => write!(f, "skipped {task_id}: {reason}"),
            Note::Unreachable { reason } => write!(f, "coordinator does not answer, trying again: {reason}"),
            Note::Reachable => write!(f, "coordinator answers again"),
        }
    }
}

/// A state's name for people: `planned`, `running`, …
pub fn state_name(state: SagaState) -> &'static str {
    match state {
        SagaState::Unspecified => "unknown",
        SagaState::Planned => "planned",
        SagaState::Dispatched => "dispatched",
        SagaState::Running => "running",
        SagaState::Compensating => "compensating",
        SagaState::Completed => "completed",
        SagaState::Failed => "failed",
        SagaState::Compensated => "compensated",
        SagaState::Quarantined => "quarantined",
    }
}
