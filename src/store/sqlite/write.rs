//! What the writer writes, column by column: the other side of `codec.rs`.

use rusqlite::params;

use crate::domain::{
    compensation::Compensation,
    event::{Event, StaleMark},
    ids::TaskId,
    lease::Standing,
    saga::{Saga, Spec, State},
    text::Blob,
    time::Timestamp,
};

use super::{
    super::rows::{Derived, RowId, RowsError},
    SqliteRows, codec,
    codes::{Coded, mark_code, ready_code, standing_code},
    sql,
};

impl SqliteRows {
    /// Adds what never changes.
    pub(super) fn insert_saga(&self, id: RowId, queue: i64, spec: &Spec) -> Result<(), RowsError> {
        let policy = &spec.policy;
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
                codec::json(spec.labels.pairs()),
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

    /// Adds what changes, as it begins.
    pub(super) fn insert_work(&self, id: RowId, queue: i64, saga: &Saga, derived: &Derived) -> Result<(), RowsError> {
        let (due_at, due_since) = due_columns(derived);
        self.execute(
            sql::INSERT_WORK,
            params![
                id.0,
                queue,
                saga.spec.priority,
                // What it is by now is written behind this, if that is something else.
                State::Planned.code(),
                ready_code(derived.ready),
                due_at,
                due_since,
                saga.revision.0,
                saga.compensations.len(),
                saga.update_time.micros(),
                saga.not_before.map(Timestamp::micros),
            ],
        )
        .map(drop)
    }

    /// Writes those that have changed.
    pub(super) fn put_compensations(
        &self,
        id: RowId,
        before: &[Compensation],
        after: &[Compensation],
    ) -> Result<(), RowsError> {
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

    /// Writes what a heartbeat changes.
    pub(super) fn update_lease(&self, id: RowId, saga: &Saga, derived: &Derived) -> Result<(), RowsError> {
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
        self.execute(sql::UPDATE_LEASE, params).map(drop)
    }

    /// Writes all that can change.
    pub(super) fn update_work(&self, id: RowId, saga: &Saga, derived: &Derived) -> Result<(), RowsError> {
        let (due_at, due_since) = due_columns(derived);
        let micros = |time: Option<Timestamp>| time.map(Timestamp::micros);
        let lease = saga.lease.as_ref();
        let expired = lease.and_then(|lease| match lease.standing {
            Standing::Expired { at, revision } => Some((at.micros(), revision.0)),
            Standing::Held | Standing::EndedByHolder(_) | Standing::EndedByOther => None,
        });
        let params = params![
            id.0,
            saga.state.code(),
            ready_code(derived.ready),
            due_at,
            due_since,
            saga.revision.0,
            saga.attempt,
            saga.expirations,
            saga.failures,
            saga.compensations.len(),
            saga.update_time.micros(),
            micros(saga.end_time),
            micros(saga.not_before),
            micros(saga.settle_until),
            micros(saga.idle_since),
            lease.map(|lease| lease.token.0),
            lease.map(|lease| lease.purpose.code()),
            lease.map(|lease| lease.acquire_time.micros()),
            lease.map(|lease| lease.heartbeat_time.micros()),
            lease.map(|lease| lease.expire_time.micros()),
            lease.map(|lease| lease.ttl.micros()),
            lease.map(|lease| lease.limit.code()),
            lease.map(|lease| lease.progress_time.micros()),
            lease.map(|lease| standing_code(lease.standing)),
            expired.map(|(at, _)| at),
            expired.map(|(_, revision)| revision),
            lease.map(|lease| lease.owner.as_str()),
            saga.reservation.as_ref().map(|r| r.assignee.as_str()),
            saga.reservation.as_ref().map(|r| r.expire_time.micros()),
            saga.cancel.as_ref().map(|cancel| cancel.actor.as_str()),
            saga.cancel.as_ref().map(|cancel| cancel.reason.as_str()),
            saga.terminal_reason.as_ref().map(|reason| reason.as_str()),
        ];
        self.execute(sql::UPDATE_WORK, params).map(drop)
    }

    /// Writes those of progress and result that have changed.
    pub(super) fn put_contents(&self, id: RowId, before: (&Blob, &Blob), after: &Saga) -> Result<(), RowsError> {
        let changed =
            [(before.0, &after.progress, sql::UPDATE_PROGRESS), (before.1, &after.result, sql::UPDATE_RESULT)];
        for (_, after, sql) in changed.into_iter().filter(|(before, after, _)| before != after) {
            self.execute(sql, params![id.0, &after.bytes()[..]])?;
        }
        Ok(())
    }

    /// Adds an event to the history.
    pub(super) fn insert_event(&self, id: RowId, event: &Event) -> Result<(), RowsError> {
        let (owner, expire_time, cause) = match &event.mark {
            Some(StaleMark::Stale { owner, expire_time, cause, .. }) => {
                (Some(owner.as_str()), Some(expire_time.micros()), Some(cause.code()))
            }
            Some(StaleMark::Resolved(_)) | None => (None, None, None),
        };
        let params = params![
            event.revision.0,
            id.0,
            event.time.micros(),
            event.kind.code(),
            event.from_state.map(Coded::code),
            event.to_state.code(),
            event.token.map(|token| token.0),
            mark_code(event.mark.as_ref()),
            owner,
            expire_time,
            cause,
            event.actor.as_ref().map(|actor| actor.as_str()),
            &*event.reason,
            codec::json(&event.details),
        ];
        self.execute(sql::INSERT_EVENT, params).map(drop)
    }
}

/// Whether a saga is as it was created, or has only become ready since.
pub(super) fn is_as_created(saga: &Saga) -> bool {
    saga.state == State::Planned
        && saga.attempt == 0
        && saga.lease.is_none()
        && saga.cancel.is_none()
        && saga.terminal_reason.is_none()
        && saga.update_time == saga.spec.create_time
        && (saga.progress.bytes().is_empty() && saga.result.bytes().is_empty())
}

fn due_columns(derived: &Derived) -> (Option<i64>, Option<i64>) {
    let due = derived.due;
    (due.map(|due| due.at.micros()), due.and_then(|due| due.running_since).map(Timestamp::micros))
}
