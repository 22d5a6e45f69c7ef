//! Decodes rows into domain types. A value that makes no sense is an error that names its row and column.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, ValueRef},
};

use crate::coordinator::RowId;
use crate::domain::{
    bounds::{REVISION_MAX, ROW_MAX, STORED_LENGTH_MAX, STORED_TIME_MAX},
    compensation::{Compensation, CompensationSpec},
    event::{ClaimDetails, Event, EventDetails, Resolution, StaleMark},
    ids::{FencingToken, Malformed, OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::Lease,
    policy::Policy,
    saga::{CancelRequest, Reservation, Saga, Spec},
    text::{Actor, Blob, Kind, Labels, Text},
    time::{Span, Timestamp},
};

use super::{
    codes::{Coded, MARK_STALE, standing},
    error::SqliteError,
    rare_fields::RareFields,
};

/// Checks a number's range, so that code that adds to it can't overflow.
fn within(value: ValueRef<'_>, least: i64, most: i64, what: &str) -> FromSqlResult<i64> {
    let number = value.as_i64()?;
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(FromSqlError::Other(format!("{number} is no {what}").into()))
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        within(value, 0, STORED_TIME_MAX, "time between 1970 and 8000").map(Timestamp::from_micros)
    }
}

impl FromSql for Span {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let micros = within(value, 0, STORED_LENGTH_MAX, "length of up to a thousand years")?;
        Span::from_micros(micros).ok_or(FromSqlError::OutOfRange(micros))
    }
}

impl FromSql for Revision {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        within(value, 0, REVISION_MAX - 1, "revision").map(Revision)
    }
}

impl FromSql for FencingToken {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        within(value, 1, REVISION_MAX - 1, "token").map(FencingToken)
    }
}

impl FromSql for RowId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        within(value, 1, ROW_MAX, "number of a row").map(RowId)
    }
}

/// A count, or the highest row number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity(pub i64);

impl FromSql for Quantity {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        within(value, 0, ROW_MAX, "count").map(Quantity)
    }
}

/// What is wrong with a value, if the error concerns a value and not a statement or the file.
pub fn wrong_value(error: &rusqlite::Error) -> Option<String> {
    use rusqlite::Error;
    match error {
        Error::FromSqlConversionFailure(_, _, what) => Some(what.to_string()),
        Error::IntegralValueOutOfRange(_, value) => Some(format!("{value} is out of range")),
        Error::InvalidColumnType(..) | Error::Utf8Error(..) => Some(error.to_string()),
        _ => None,
    }
}

/// An error for a stored value that makes no sense.
pub fn corrupt_value(what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Integer, what.into())
}

/// Reads a column of a statement whose first column is the row number. An error names the row and the column.
pub fn column<T: FromSql>(row: &Row<'_>, index: usize) -> Result<T, rusqlite::Error> {
    row.get(index).map_err(|error| match wrong_value(&error) {
        Some(what) => corrupt_value(place(row, index, &what)),
        None => error,
    })
}

/// A sentence about a value that makes no sense.
fn place(row: &Row<'_>, index: usize, what: &str) -> String {
    let name = row.as_ref().column_name(index).unwrap_or("?");
    let key = match row.get_ref(0) {
        Ok(ValueRef::Integer(number)) => number.to_string(),
        Ok(ValueRef::Text(text)) => format!("{:?}", String::from_utf8_lossy(text)),
        Ok(ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_)) | Err(_) => "?".to_owned(),
    };
    format!("row {key}, column {name}: {what}")
}

/// Reads a row's columns one after the other.
struct Columns<'a, 'b> {
    row: &'a Row<'b>,
    next: usize,
}

impl Columns<'_, '_> {
    fn get<T: FromSql>(&mut self) -> Result<T, SqliteError> {
        let column = self.next;
        self.next += 1;
        self.row.get(column).map_err(|e| self.damaged(column, &wrong_value(&e).unwrap_or_else(|| e.to_string())))
    }

    fn text(&mut self) -> Result<String, SqliteError> {
        self.get()
    }

    fn time(&mut self) -> Result<Timestamp, SqliteError> {
        self.get()
    }

    fn maybe_time(&mut self) -> Result<Option<Timestamp>, SqliteError> {
        self.get()
    }

    fn count(&mut self) -> Result<u32, SqliteError> {
        self.get()
    }

    fn coded<T: Coded>(&mut self) -> Result<T, SqliteError> {
        let code = self.get()?;
        T::decode(code).ok_or_else(|| self.damaged(self.next - 1, &format!("{code} stands for nothing")))
    }

    fn maybe_coded<T: Coded>(&mut self) -> Result<Option<T>, SqliteError> {
        match self.get::<Option<i64>>()? {
            None => Ok(None),
            Some(code) => T::decode(code)
                .map(Some)
                .ok_or_else(|| self.damaged(self.next - 1, &format!("{code} stands for nothing"))),
        }
    }

    fn parsed<T>(&mut self, parse: impl Fn(&str) -> Result<T, Malformed>) -> Result<T, SqliteError> {
        let text = self.text()?;
        parse(&text).map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    fn maybe<T>(&mut self, parse: impl Fn(&str) -> Result<T, Malformed>) -> Result<Option<T>, SqliteError> {
        let text: Option<String> = self.get()?;
        text.map(|text| parse(&text)).transpose().map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    fn more(&mut self) -> Result<RareFields, SqliteError> {
        let json: Option<String> = self.get()?;
        RareFields::parse(json.as_deref()).map_err(|what| self.damaged(self.next - 1, &what))
    }

    fn span(&mut self) -> Result<Span, SqliteError> {
        self.get()
    }

    fn maybe_span(&mut self) -> Result<Option<Span>, SqliteError> {
        self.get()
    }

    fn blob(&mut self) -> Result<Blob, SqliteError> {
        let bytes: Vec<u8> = self.get()?;
        Blob::parse(Bytes::from(bytes)).map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    /// Contents; NULL stands for empty.
    fn contents(&mut self) -> Result<Blob, SqliteError> {
        let bytes: Option<Vec<u8>> = self.get()?;
        Blob::parse(bytes.unwrap_or_default().into()).map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    /// A map stored as JSON; NULL stands for empty.
    fn pairs(&mut self) -> Result<BTreeMap<String, String>, SqliteError> {
        let json: Option<String> = self.get()?;
        let Some(json) = json.filter(|json| json != "{}") else { return Ok(BTreeMap::new()) };
        serde_json::from_str(&json).map_err(|e| self.damaged(self.next - 1, &e.to_string()))
    }

    fn damaged(&self, column: usize, what: &str) -> SqliteError {
        SqliteError::Corrupt(place(self.row, column, what))
    }
}

/// A map as JSON.
pub fn json(pairs: &BTreeMap<String, String>) -> String {
    if pairs.is_empty() {
        return "{}".to_owned();
    }
    serde_json::to_string(pairs).expect("a map of texts has a JSON form")
}

/// Decodes a row of `sql::SAGA_BY_…` and similar statements. The compensations must be read separately, if there are
/// any: their count is returned too.
pub fn saga(row: &Row<'_>) -> Result<(RowId, Saga, u32), SqliteError> {
    let mut c = Columns { row, next: 0 };
    let id = c.get()?;
    let spec = spec(&mut c)?;
    // Sagas in flight store some of the following fields in this column, ended ones in columns of their own.
    let more = c.more()?;
    let state = c.coded()?;
    let revision = c.get()?;
    let (attempt, expirations, failures, compensations) = (c.count()?, c.count()?, c.count()?, c.count()?);
    let update_time = c.time()?;
    let (end_time, not_before) = (c.maybe_time()?, c.maybe_time()?);
    let (settle_until, idle_since) = (c.maybe_time()?, c.maybe_time()?);
    let lease = lease(&mut c, more.expired_at)?;
    let assignee = c.maybe(OwnerId::parse)?;
    let reserved_until = c.maybe_time()?;
    let reservation = assignee.zip(reserved_until).map(|(assignee, expire_time)| Reservation { assignee, expire_time });
    let cancel_actor = c.maybe(Actor::stored)?;
    let cancel_reason = c.maybe(Text::stored)?;
    let cancel = cancel_actor.zip(cancel_reason).map(|(actor, reason)| CancelRequest { actor, reason });
    let terminal_reason = c.maybe(Text::stored)?;
    let (progress, result) = (c.contents()?, c.contents()?);
    let saga = Saga {
        spec: Arc::new(spec),
        state,
        compensations: Vec::new(),
        lease,
        reservation: reservation.or(more.reservation),
        cancel: cancel.or(more.cancel),
        attempt,
        expirations: expirations.max(more.expirations),
        failures: failures.max(more.failures),
        progress,
        result,
        terminal_reason,
        update_time,
        end_time,
        not_before: not_before.or(more.not_before),
        settle_until: settle_until.or(more.settle_until),
        idle_since: idle_since.or(more.idle_since),
        revision,
        contents_omitted: false,
    };
    Ok((id, saga, compensations))
}

fn spec(c: &mut Columns<'_, '_>) -> Result<Spec, SqliteError> {
    let task_id = c.parsed(TaskId::parse)?;
    let saga_id = c.parsed(SagaId::parse)?;
    let queue = c.parsed(QueueName::parse)?;
    let priority = c.get()?;
    let issue = c.get()?;
    let (branch, worktree) = (c.parsed(Text::stored)?, c.parsed(Text::stored)?);
    let labels = c.pairs()?;
    let labels = Labels::stored(labels).map_err(|e| c.damaged(c.next - 1, &format!("a label {}", e.0)))?;
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

/// The columns of a lease in `in_flight_columns!`, the token first.
const LEASE_COLUMNS: usize = 12;

fn lease(c: &mut Columns<'_, '_>, expired_at: Option<Timestamp>) -> Result<Option<Lease>, SqliteError> {
    let token: Option<FencingToken> = c.get()?;
    let Some(token) = token else {
        c.next += LEASE_COLUMNS - 1;
        return Ok(None);
    };
    let purpose = c.coded()?;
    let (acquire_time, heartbeat_time, expire_time) = (c.time()?, c.time()?, c.time()?);
    if expire_time <= acquire_time {
        return Err(c.damaged(c.next - 1, "the time is not after lease_acquire"));
    }
    let ttl = c.span()?;
    let limit = c.coded()?;
    let progress_time = c.time()?;
    let code: i64 = c.get()?;
    let expired = c.maybe_time()?.or(expired_at).zip(c.get::<Option<Revision>>()?);
    let standing =
        standing(code, expired).ok_or_else(|| c.damaged(c.next - 3, &format!("{code} stands for nothing")))?;
    let owner = c.parsed(OwnerId::parse)?;
    Ok(Some(Lease {
        owner,
        token,
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
pub fn compensation(row: &Row<'_>) -> Result<Compensation, SqliteError> {
    let mut c = Columns { row, next: 0 };
    let position = c.count()?;
    let spec = CompensationSpec {
        kind: c.parsed(Kind::stored)?,
        target: c.parsed(Text::stored)?,
        reason: c.parsed(Text::stored)?,
    };
    Ok(Compensation {
        position,
        spec,
        state: c.coded()?,
        attempts: c.count()?,
        last_error: c.parsed(Text::stored)?,
        settled_by: c.get::<Option<String>>()?.map(Into::into),
        settle_time: c.maybe_time()?,
        registered_under: c.get()?,
        recorded_under: c.get()?,
    })
}

/// A row of `sql::EVENTS` and the like.
pub fn event(row: &Row<'_>) -> Result<Event, SqliteError> {
    let mut c = Columns { row, next: 0 };
    let revision = c.get()?;
    let task_id = c.parsed(TaskId::parse)?;
    let saga_id = c.parsed(SagaId::parse)?;
    let queue = c.parsed(QueueName::parse)?;
    let time = c.time()?;
    let kind = c.coded()?;
    let actor = c.maybe(Actor::stored)?;
    let reason = c.get::<Option<String>>()?.unwrap_or_default().into();
    let from_state = c.maybe_coded()?;
    let to_state = c.coded()?;
    let token: Option<FencingToken> = c.get()?;
    let words = c.pairs()?;
    let mark = c.get::<Option<i64>>()?.unwrap_or_default();
    let owner = c.maybe(OwnerId::parse)?;
    let expire_time = c.maybe_time()?;
    let cause = c.maybe_coded()?;
    let (purpose, attempt) = (c.maybe_coded()?, c.get::<Option<u32>>()?);
    let details = match (purpose, attempt, expire_time) {
        (Some(purpose), Some(attempt), Some(expire_time)) => {
            EventDetails::of_claim(ClaimDetails { purpose, expire_time, attempt })
        }
        (Some(_), _, _) | (None, Some(_), _) => return Err(c.damaged(c.next - 2, "part of what a claim tells")),
        (None, None, _) => words.into(),
    };
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
