//! Encodes sagas and events as columns: the counterpart of `columns::decode`.

use crate::coordinator::{DerivedFields, RowId};
use crate::domain::{
    compensation::Compensation,
    event::{Event, StaleMark},
    ids::{Revision, TaskId},
    saga::{Saga, Spec},
    text::Blob,
    time::Timestamp,
};

use super::{
    super::columns::{
        codes::{Coded, expired_revision, mark_code, standing_code},
        decode, rare_fields,
    },
    error::SqliteError,
    sql,
    statements::{Param, params},
    writer::SqliteWriter,
};

/// The columns of a saga in flight that can change, in the order of `in_flight_columns!`, and further ones behind them. The
/// values that are only borrowed have to live where this is used.
macro_rules! work_params {
    [($id:ident, $saga:ident, $due:ident, $lease:ident, $rare:ident) $(, $further:expr)* $(,)?] => {
        params![
            $id.0,
            $saga.state.code(),
            $saga.revision.0,
            $saga.update_time.micros(),
            $due.0,
            $due.1,
            $saga.attempt,
            $saga.compensations.len(),
            $lease.map(|lease| lease.token.0),
            $lease.map(|lease| lease.purpose.code()),
            $lease.map(|lease| lease.acquire_time.micros()),
            $lease.map(|lease| lease.heartbeat_time.micros()),
            $lease.map(|lease| lease.expire_time.micros()),
            $lease.map(|lease| lease.ttl.micros()),
            $lease.map(|lease| lease.limit.code()),
            $lease.map(|lease| lease.progress_time.micros()),
            $lease.map(|lease| standing_code(lease.standing)),
            $lease.map(|lease| lease.owner.as_str()),
            $rare.as_deref(),
            $($further,)*
        ]
    };
}

impl SqliteWriter {
    /// Adds the columns that never change.
    pub(super) fn insert_saga(&self, id: RowId, queue: i64, spec: &Spec) -> Result<(), SqliteError> {
        let (policy, labels) = (&spec.policy, decode::json(spec.labels.pairs()));
        self.execute(
            sql::INSERT_SAGA,
            params![
                id.0,
                spec.task_id.as_str(),
                spec.saga_id.as_str(),
                queue,
                spec.priority,
                spec.issue,
                spec.branch.as_str(),
                spec.worktree.as_str(),
                labels.as_str(),
                spec.retry_of.as_ref().map(TaskId::as_str),
                spec.create_time.micros(),
                policy.on_stale.code(),
                policy.max_expirations,
                policy.on_failure.code(),
                policy.max_attempts,
                policy.retry_backoff.micros(),
                policy.retry_backoff_max.micros(),
                policy.execution_timeout.map(|t| t.micros()),
                policy.progress_timeout.map(|t| t.micros()),
                policy.settle.micros(),
                policy.compensation_timeout.micros(),
                &spec.payload.bytes()[..],
            ],
        )
        .map(drop)
    }

    /// Adds a saga in flight.
    pub(super) fn insert_work(
        &self,
        id: RowId,
        queue: i64,
        saga: &Saga,
        derived: &DerivedFields,
    ) -> Result<(), SqliteError> {
        let due = due_columns(derived);
        let (lease, rare) = (saga.lease.as_ref(), rare_fields::of(saga));
        let params = work_params![
            (id, saga, due, lease, rare),
            derived.ready.map(Coded::code),
            expired_revision(saga),
            queue,
            saga.spec.priority,
            contents(&saga.progress),
            contents(&saga.result),
        ];
        self.execute(sql::INSERT_WORK, params).map(drop)
    }

    /// Writes the compensations that changed.
    pub(super) fn put_compensations(
        &self,
        id: RowId,
        before: &[Compensation],
        after: &[Compensation],
    ) -> Result<(), SqliteError> {
        for (index, compensation) in after.iter().enumerate() {
            if before.get(index) == Some(compensation) {
                continue;
            }
            let spec = &compensation.spec;
            self.execute(
                sql::PUT_COMPENSATION,
                params![
                    id.0,
                    compensation.position,
                    spec.kind.as_str(),
                    spec.target.as_str(),
                    spec.reason.as_str(),
                    compensation.state.code(),
                    compensation.attempts,
                    compensation.last_error.as_str(),
                    compensation.settled_by.as_deref(),
                    compensation.settle_time.map(Timestamp::micros),
                    compensation.registered_under.map(|token| token.0),
                    compensation.recorded_under.map(|token| token.0),
                ],
            )?;
        }
        Ok(())
    }

    /// Writes the columns that a heartbeat changes.
    pub(super) fn update_lease(&self, id: RowId, saga: &Saga, derived: &DerivedFields) -> Result<(), SqliteError> {
        let Some(lease) = &saga.lease else { return Ok(()) };
        let (due_at, due_since) = due_columns(derived);
        let params = params![
            id.0,
            due_at,
            due_since,
            lease.heartbeat_time.micros(),
            lease.expire_time.micros(),
            lease.ttl.micros(),
            lease.limit.code(),
            lease.progress_time.micros(),
        ];
        self.change_one(id, sql::UPDATE_LEASE, params)
    }

    /// Writes all columns of a saga in flight that can change, except progress and result; indexed columns only if
    /// `indexed`.
    pub(super) fn update_work(
        &self,
        id: RowId,
        saga: &Saga,
        derived: &DerivedFields,
        indexed: bool,
    ) -> Result<(), SqliteError> {
        let due = due_columns(derived);
        let (lease, rare) = (saga.lease.as_ref(), rare_fields::of(saga));
        if indexed {
            let params =
                work_params![(id, saga, due, lease, rare), derived.ready.map(Coded::code), expired_revision(saga),];
            return self.change_one(id, sql::UPDATE_INDEXED, params);
        }
        self.change_one(id, sql::UPDATE_WORK, work_params![(id, saga, due, lease, rare)])
    }

    /// Writes an ended saga, whole.
    pub(super) fn put_ended(&self, id: RowId, queue: i64, saga: &Saga) -> Result<(), SqliteError> {
        let micros = |time: Option<Timestamp>| time.map(Timestamp::micros);
        let lease = saga.lease.as_ref();
        let params = params![
            id.0,
            queue,
            saga.spec.priority,
            saga.state.code(),
            saga.revision.0,
            saga.attempt,
            saga.expirations,
            saga.failures,
            saga.compensations.len(),
            saga.update_time.micros(),
            micros(saga.end_time),
            lease.map(|lease| lease.token.0),
            lease.map(|lease| lease.purpose.code()),
            lease.map(|lease| lease.acquire_time.micros()),
            lease.map(|lease| lease.heartbeat_time.micros()),
            lease.map(|lease| lease.expire_time.micros()),
            lease.map(|lease| lease.ttl.micros()),
            lease.map(|lease| lease.limit.code()),
            lease.map(|lease| lease.progress_time.micros()),
            lease.map(|lease| standing_code(lease.standing)),
            lease.map(|lease| lease.owner.as_str()),
            saga.cancel.as_ref().map(|cancel| cancel.actor.as_str()),
            saga.cancel.as_ref().map(|cancel| cancel.reason.as_str()),
            saga.terminal_reason.as_ref().map(|reason| reason.as_str()),
            &saga.progress.bytes()[..],
            &saga.result.bytes()[..],
            micros(saga.not_before),
            micros(saga.settle_until),
            micros(saga.idle_since),
        ];
        self.execute(sql::PUT_ENDED, params).map(drop)
    }

    /// Removes a row that must be there.
    pub(super) fn remove_one(&self, id: RowId, sql: &'static str) -> Result<(), SqliteError> {
        self.change_one(id, sql, params![id.0])
    }

    /// Changes a row that must exist. If it doesn't, the store was damaged.
    fn change_one(&self, id: RowId, sql: &'static str, params: &[Param<'_>]) -> Result<(), SqliteError> {
        match self.execute(sql, params)? {
            1 => Ok(()),
            _ => Err(SqliteError::Corrupt(format!("row {}: it is not in the table where it was", id.0))),
        }
    }

    /// Adds an event to the history; `prev` is the saga's previous event.
    pub(super) fn insert_event(&self, id: RowId, event: &Event, prev: Option<Revision>) -> Result<(), SqliteError> {
        macro_rules! with {
            ($($added:expr)*) => {
                params![
                    event.revision.0,
                    id.0,
                    prev.map(|prev| prev.0),
                    event.time.micros(),
                    event.kind.code(),
                    event.from_state.map(Coded::code),
                    event.to_state.code(),
                    event.token.map(|token| token.0),
                    event.actor.as_ref().map(|actor| actor.as_str()),
                    Some(&*event.reason).filter(|reason| !reason.is_empty()),
                    $($added,)*
                ]
            };
        }
        // A claim's details have columns of their own.
        let claim = event.details.claim().filter(|_| !matches!(event.mark, Some(StaleMark::Stale { .. })));
        let details = (claim.is_none() && !event.details.is_empty()).then(|| decode::json(&event.details));
        let details = details.as_deref();
        let mark = event.mark.as_ref().map(|mark| mark_code(Some(mark)));
        let inserted = match (&event.mark, claim) {
            (_, Some(claim)) => {
                let claimed = with![claim.expire_time.micros() claim.purpose.code() claim.attempt mark];
                self.execute(sql::INSERT_CLAIMED, claimed)
            }
            (Some(StaleMark::Stale { owner, expire_time, cause, .. }), None) => {
                let stale = with![details expire_time.micros() mark owner.as_str() cause.code()];
                self.execute(sql::INSERT_MARKED, stale)
            }
            (Some(StaleMark::Resolved(_)), None) => {
                let nothing = None::<i64>;
                self.execute(sql::INSERT_MARKED, with![details nothing mark nothing nothing])
            }
            (None, None) => self.execute(sql::INSERT_EVENT, with![details]),
        };
        inserted.map(drop)
    }
}

fn contents(blob: &Blob) -> Option<&[u8]> {
    Some(&blob.bytes()[..]).filter(|bytes| !bytes.is_empty())
}

fn due_columns(derived: &DerivedFields) -> (Option<i64>, Option<i64>) {
    let due = derived.due;
    (due.map(|due| due.at.micros()), due.and_then(|due| due.grace_reference).map(Timestamp::micros))
}
