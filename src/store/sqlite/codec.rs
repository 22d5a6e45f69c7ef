//! Rows → domain. A number or text that stands for nothing is a damaged row, which names itself.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rusqlite::Row;

use crate::domain::{
    compensation::{Compensation, CompensationSpec},
    event::{Event, Resolution, StaleMark},
    ids::{FencingToken, Malformed, OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::Lease,
    policy::Policy,
    saga::{CancelRequest, Reservation, Saga, Spec},
    text::{Actor, Blob, Kind, Labels, Text},
    time::{Span, Timestamp},
};

use super::{
    super::rows::{RowId, RowsError},
    codes::{Coded, MARK_STALE, standing},
};

/// Reads a row's columns one after the other.
struct Columns<'a, 'b> {
    row: &'a Row<'b>,
    next: usize,
}

impl Columns<'_, '_> {
    fn get<T: rusqlite::types::FromSql>(&mut self) -> Result<T, RowsError> {
        let column = self.next;
        self.next += 1;
        self.row.get(column).map_err(|e| self.damaged(column, &e.to_string()))
    }

    fn text(&mut self) -> Result<String, RowsError> {
        self.get()
    }

    fn time(&mut self) -> Result<Timestamp, RowsError> {
        self.get().map(Timestamp::from_micros)
    }

    fn maybe_time(&mut self) -> Result<Option<Timestamp>, RowsError> {
        Ok(self.get::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    fn count(&mut self) -> Result<u32, RowsError> {
        self.get()
    }

    fn coded<T: Coded>(&mut self) -> Result<T, RowsError> {
        let code = self.get()?;
        T::decode(code).ok_or_else(|| self.damaged(self.next - 1, &format!("{code} stands for nothing")))
    }

    fn maybe_coded<T: Coded>(&mut self) -> Result<Option<T>, RowsError> {
        match self.get::<Option<i64>>()? {
            None => Ok(None),
            Some(code) => T::decode(code)
                .map(Some)
                .ok_or_else(|| self.damaged(self.next - 1, &format!("{code} stands for nothing"))),
        }
    }

    fn parsed<T>(&mut self, parse: impl Fn(&str) -> Result<T, Malformed>) -> Result<T, RowsError> {
        let text = self.text()?;
        parse(&text).map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    fn maybe<T>(&mut self, parse: impl Fn(&str) -> Result<T, Malformed>) -> Result<Option<T>, RowsError> {
        let text: Option<String> = self.get()?;
        text.map(|text| parse(&text)).transpose().map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    fn span(&mut self) -> Result<Span, RowsError> {
        let micros = self.get()?;
        Span::from_micros(micros).ok_or_else(|| self.damaged(self.next - 1, "a length is negative"))
    }

    fn maybe_span(&mut self) -> Result<Option<Span>, RowsError> {
        match self.get::<Option<i64>>()? {
            None => Ok(None),
            Some(micros) => {
                Span::from_micros(micros).map(Some).ok_or_else(|| self.damaged(self.next - 1, "a length is negative"))
            }
        }
    }

    fn blob(&mut self) -> Result<Blob, RowsError> {
        let bytes: Vec<u8> = self.get()?;
        Blob::parse(Bytes::from(bytes)).map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    fn pairs(&mut self) -> Result<BTreeMap<String, String>, RowsError> {
        let json = self.text()?;
        if json == "{}" {
            return Ok(BTreeMap::new());
        }
        serde_json::from_str(&json).map_err(|e| self.damaged(self.next - 1, &e.to_string()))
    }

    fn damaged(&self, column: usize, what: &str) -> RowsError {
        let name = self.row.as_ref().column_name(column).unwrap_or("?");
        let key: i64 = self.row.get(0).unwrap_or_default();
        RowsError::Corrupt(format!("row {key}, column {name}: {what}"))
    }
}

/// A map as JSON.
pub fn json(pairs: &BTreeMap<String, String>) -> String {
    if pairs.is_empty() {
        return "{}".to_owned();
    }
    serde_json::to_string(pairs).expect("a map of texts has a JSON form")
}

/// A row of `sql::SAGA_BY_…` and the like; its compensations are still to be read, if it has any: their count comes
/// with it.
pub fn saga(row: &Row<'_>) -> Result<(RowId, Saga, u32), RowsError> {
    let mut c = Columns { row, next: 0 };
    let id = RowId(c.get()?);
    let spec = spec(&mut c)?;
    let state = c.coded()?;
    let revision = Revision(c.get()?);
    let (attempt, expirations, failures, compensations) = (c.count()?, c.count()?, c.count()?, c.count()?);
    let update_time = c.time()?;
    let (end_time, not_before) = (c.maybe_time()?, c.maybe_time()?);
    let (settle_until, idle_since) = (c.maybe_time()?, c.maybe_time()?);
    let lease = lease(&mut c)?;
    let assignee = c.maybe(OwnerId::parse)?;
    let reserved_until = c.maybe_time()?;
    let reservation = assignee.zip(reserved_until).map(|(assignee, expire_time)| Reservation { assignee, expire_time });
    let cancel_actor = c.maybe(Actor::parse)?;
    let cancel_reason = c.maybe(Text::parse)?;
    let cancel = cancel_actor.zip(cancel_reason).map(|(actor, reason)| CancelRequest { actor, reason });
    let terminal_reason = c.maybe(Text::parse)?;
    let (progress, result) = (c.blob()?, c.blob()?);
    let saga = Saga {
        spec: Arc::new(spec),
        state,
        compensations: Vec::new(),
        lease,
        reservation,
        cancel,
        attempt,
        expirations,
        failures,
        progress,
        result,
        terminal_reason,
        update_time,
        end_time,
        not_before,
        settle_until,
        idle_since,
        revision,
    };
    Ok((id, saga, compensations))
}

fn spec(c: &mut Columns<'_, '_>) -> Result<Spec, RowsError> {
    let task_id = c.parsed(TaskId::parse)?;
    let saga_id = c.parsed(SagaId::parse)?;
    let queue = c.parsed(QueueName::parse)?;
    let priority = c.get()?;
    let issue = c.get()?;
    let (branch, worktree) = (c.parsed(Text::parse)?, c.parsed(Text::parse)?);
    let labels = c.pairs()?;
    let labels = Labels::parse(labels).map_err(|_| c.damaged(c.next - 1, "labels out of bounds"))?;
    let retry_of = c.maybe(TaskId::parse)?;
    let create_time = c.time()?;
    let policy = Policy {
        on_stale: c.coded()?,
        max_expirations: c.count()?,
        on_failure: c.coded()?,
        max_attempts: c.count()?,
        retry_backoff: c.span()?,
        retry_backoff_max: c.span()?,
        execution_timeout: c.maybe_span()?,
        progress_timeout: c.maybe_span()?,
        settle: c.span()?,
        compensation_timeout: c.span()?,
    };
    let payload = c.blob()?;
    Ok(Spec {
        task_id,
        saga_id,
        queue,
        priority,
        issue,
        branch,
        worktree,
        labels,
        payload,
        policy,
        retry_of,
        create_time,
    })
}

fn lease(c: &mut Columns<'_, '_>) -> Result<Option<Lease>, RowsError> {
    let token: Option<i64> = c.get()?;
    let Some(token) = token else {
        c.next += 11;
        return Ok(None);
    };
    let purpose = c.coded()?;
    let (acquire_time, heartbeat_time, expire_time) = (c.time()?, c.time()?, c.time()?);
    let ttl = c.span()?;
    let limit = c.coded()?;
    let progress_time = c.time()?;
    let code: i64 = c.get()?;
    let expired = c.maybe_time()?.zip(c.get::<Option<i64>>()?.map(Revision));
    let standing =
        standing(code, expired).ok_or_else(|| c.damaged(c.next - 3, &format!("{code} stands for nothing")))?;
    let owner = c.parsed(OwnerId::parse)?;
    Ok(Some(Lease {
        owner,
        token: FencingToken(token),
        purpose,
        acquire_time,
        heartbeat_time,
        expire_time,
        ttl,
        limit,
        progress_time,
        standing,
    }))
}

/// A row of `sql::COMPENSATIONS`.
pub fn compensation(row: &Row<'_>) -> Result<Compensation, RowsError> {
    let mut c = Columns { row, next: 0 };
    let position = c.count()?;
    let spec = CompensationSpec {
        kind: c.parsed(Kind::parse)?,
        target: c.parsed(Text::parse)?,
        reason: c.parsed(Text::parse)?,
    };
    Ok(Compensation {
        position,
        spec,
        state: c.coded()?,
        attempts: c.count()?,
        last_error: c.parsed(Text::parse)?,
        settled_by: c.get::<Option<String>>()?.map(Into::into),
        settle_time: c.maybe_time()?,
        registered_under: c.get::<Option<i64>>()?.map(FencingToken),
        recorded_under: c.get::<Option<i64>>()?.map(FencingToken),
    })
}

/// A row of `sql::EVENTS` and the like.
pub fn event(row: &Row<'_>) -> Result<Event, RowsError> {
    let mut c = Columns { row, next: 0 };
    let revision = Revision(c.get()?);
    let task_id = c.parsed(TaskId::parse)?;
    let saga_id = c.parsed(SagaId::parse)?;
    let queue = c.parsed(QueueName::parse)?;
    let time = c.time()?;
    let kind = c.coded()?;
    let actor = c.maybe(Actor::parse)?;
    let reason = c.text()?.into();
    let from_state = c.maybe_coded()?;
    let to_state = c.coded()?;
    let token = c.get::<Option<i64>>()?.map(FencingToken);
    let details = c.pairs()?;
    let mark: i64 = c.get()?;
    let owner = c.maybe(OwnerId::parse)?;
    let expire_time = c.maybe_time()?;
    let cause = c.maybe_coded()?;
    let mark = match mark {
        0 => None,
        MARK_STALE => {
            let whole = owner.zip(token).zip(expire_time).zip(cause);
            let (((owner, token), expire_time), cause) =
                whole.ok_or_else(|| c.damaged(12, "an expiry without its lease"))?;
            Some(StaleMark::Stale { owner, token, expire_time, cause })
        }
        code => {
            let resolution = Resolution::decode(code);
            Some(StaleMark::Resolved(resolution.ok_or_else(|| c.damaged(12, &format!("{code} stands for nothing")))?))
        }
    };
    Ok(Event {
        revision,
        task_id,
        saga_id,
        queue,
        time,
        kind,
        actor,
        reason,
        from_state,
        to_state,
        token,
        details,
        mark,
    })
}
