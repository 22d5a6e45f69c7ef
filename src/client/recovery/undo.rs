//! Compensates one saga under its lease: every compensation that is neither done nor waived, the highest position
//! first.

use std::time::Duration;

use tonic::Status;
use uuid::Uuid;

use super::options::{CompensationHandler, CompensationResult, CompensationRun, Recovery};
use crate::{
    client::{
        LeaseKeeper, LeaseKey, LeaseLost, LeaseStatus, Note, ReportRpc,
        retry::{Backoff, RetryOn},
        worker,
    },
    proto::{CompensateRequest, Compensation, CompensationOutcome, CompensationState, RecordCompensationRequest, Saga},
};

/// The pause before a failed compensation is tried again, while the lease is kept.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a saga was not fully compensated.
enum UndoStop {
    /// The lease is lost.
    Lost(LeaseLost),
    /// The worker must end; the lease is released.
    Stopped(String),
    /// A compensation could not be started; the lease is released.
    NotStarted(String),
    /// A person must look at it: the saga is quarantined.
    Park(String),
    /// The coordinator refused an outcome.
    Refused(ReportRpc, Status),
}

/// Compensates a saga and reports the outcome.
pub(super) async fn undo_all<H: CompensationHandler>(recovery: &Recovery<H>, saga: Saga, lease: &LeaseKeeper) -> Note {
    let task_id = saga.task_id.clone();
    let client = &recovery.client;
    let ended = match undo_each(recovery, saga, lease).await {
        Ok(()) => match compensate(recovery, lease).await {
            Ok(saga) => return Note::reported(task_id, ReportRpc::Compensate, String::new(), Ok(Some(saga))),
            Err(status) => UndoStop::Refused(ReportRpc::Compensate, status),
        },
        Err(ended) => ended,
    };
    let (report, answer, reason) = match ended {
        UndoStop::Lost(lost) => return Note::Lost { task_id, lost },
        UndoStop::NotStarted(reason) => {
            return worker::give_back(client, lease, &recovery.failed_starts, task_id, reason).await;
        }
        UndoStop::Stopped(reason) => (ReportRpc::Release, worker::release(client, lease, reason.clone()).await, reason),
        UndoStop::Park(reason) => {
            (ReportRpc::Quarantine, worker::quarantine(client, lease, reason.clone()).await, reason)
        }
        UndoStop::Refused(report, status) => (report, Err(status), "compensation".to_owned()),
    };
    Note::reported(task_id, report, reason, answer)
}

async fn undo_each<H: CompensationHandler>(
    recovery: &Recovery<H>,
    mut saga: Saga,
    lease: &LeaseKeeper,
) -> Result<(), UndoStop> {
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    let mut last = 0;
    while let Some(compensation) = next_pending(&saga).cloned() {
        if compensation.position != last {
            backoff.reset();
            last = compensation.position;
        }
        let (position, kind) = (compensation.position, &compensation.kind);
        if !recovery.handler.handles(kind) {
            return Err(UndoStop::Park(format!("no handler for compensation {position} of kind `{kind}`")));
        }
        if compensation.attempts >= recovery.options.attempts {
            let (attempts, error) = (compensation.attempts, &compensation.last_error);
            let reason = format!("compensation {position} of kind `{kind}` failed {attempts} times, at last: {error}");
            return Err(UndoStop::Park(reason));
        }
        let kill = &recovery.shutdown.kill;
        let undone =
            recovery.handler.undo(CompensationRun { saga: &saga, compensation: &compensation, lease, kill }).await;
        if !matches!(undone, CompensationResult::NotStarted(_)) {
            recovery.failed_starts.started();
        }
        let (outcome, detail) = match undone {
            CompensationResult::NotStarted(reason) => return Err(UndoStop::NotStarted(reason)),
            CompensationResult::Done(detail) => (CompensationOutcome::Done, detail),
            CompensationResult::Failed(detail) => (CompensationOutcome::Failed, detail),
            CompensationResult::Stopped(reason) if kill.is_cancelled() => return Err(UndoStop::Stopped(reason)),
            CompensationResult::Stopped(reason) => {
                let lost = match lease.check() {
                    LeaseStatus::Lost(lost) => lost,
                    LeaseStatus::Held | LeaseStatus::Cancelled(_) => LeaseLost::deadline(reason),
                };
                return Err(UndoStop::Lost(lost));
            }
        };
        saga = record(recovery, lease, position, outcome, detail.clone())
            .await
            .map_err(|status| UndoStop::Refused(ReportRpc::RecordCompensation, status))?;
        let failed = outcome == CompensationOutcome::Failed;
        let task_id = saga.task_id.clone();
        let error = failed.then_some(detail);
        (recovery.notes)(Note::Compensation { task_id, position, kind: kind.clone(), error });
        if failed && next_pending(&saga).is_some_and(|next| next.attempts < recovery.options.attempts) {
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => {}
                lost = worker::lost(lease) => return Err(UndoStop::Lost(lost)),
                () = kill.cancelled() => return Err(UndoStop::Stopped("the worker was told to end".to_owned())),
            }
        }
    }
    Ok(())
}

/// The compensation to run next; `None` if all are done or waived.
fn next_pending(saga: &Saga) -> Option<&Compensation> {
    let pending = saga.compensations.iter().filter(|compensation| match compensation.state() {
        CompensationState::Done | CompensationState::Waived => false,
        CompensationState::Pending | CompensationState::Failed | CompensationState::Unspecified => true,
    });
    pending.max_by_key(|compensation| compensation.position)
}

async fn record<H>(
    recovery: &Recovery<H>,
    lease: &LeaseKeeper,
    position: i32,
    outcome: CompensationOutcome,
    detail: String,
) -> Result<Saga, Status> {
    let LeaseKey { task_id, owner_id, fencing_token } = lease.key().clone();
    let request = RecordCompensationRequest {
        task_id,
        owner_id,
        fencing_token,
        position,
        outcome: outcome.into(),
        detail,
        // A new one for each attempt: two failures count twice although they look the same.
        request_id: Uuid::new_v4().to_string(),
    };
    let give_up = worker::give_up(lease);
    let answer = recovery.client.ask_again(request, RetryOn::Unknown, give_up).await?;
    answer.saga.ok_or_else(|| Status::internal("an answer without a saga"))
}

async fn compensate<H>(recovery: &Recovery<H>, lease: &LeaseKeeper) -> Result<Saga, Status> {
    let LeaseKey { task_id, owner_id, fencing_token } = lease.key().clone();
    let request_id = Uuid::new_v4().to_string();
    let request = CompensateRequest { task_id, owner_id, fencing_token, reason: String::new(), request_id };
    let give_up = worker::give_up(lease);
    let answer = recovery.client.ask_again(request, RetryOn::Unknown, give_up).await?;
    answer.saga.ok_or_else(|| Status::internal("an answer without a saga"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_runs_from_the_latest_that_is_neither_done_nor_waived() {
        let compensation = |position, state: CompensationState| Compensation {
            position,
            state: state.into(),
            ..Compensation::default()
        };
        let mut saga = Saga {
            compensations: vec![
                compensation(1, CompensationState::Pending),
                compensation(2, CompensationState::Failed),
                compensation(3, CompensationState::Waived),
                compensation(4, CompensationState::Done),
            ],
            ..Saga::default()
        };
        assert_eq!(next_pending(&saga).map(|next| next.position), Some(2));
        saga.compensations.truncate(1);
        assert_eq!(next_pending(&saga).map(|next| next.position), Some(1));
        saga.compensations.clear();
        assert!(next_pending(&saga).is_none());
    }
}
