//! Decodes rows into domain types, for every SQL database. An invalid value is an error that names its row and column.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

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
    rare_fields::RareFields,
};

/// A row of a query's result. The first column identifies it in error messages. An error says what is wrong with the
/// value, without naming the column.
pub trait ResultRow {
    /// An integer; none: NULL.
    fn integer(&self, index: usize) -> Result<Option<i64>, String>;
    /// A text; none: NULL.
    fn text(&self, index: usize) -> Result<Option<&str>, String>;
    /// Bytes; none: NULL.
    fn bytes(&self, index: usize) -> Result<Option<&[u8]>, String>;
    /// A column's name.
    fn column_name(&self, index: usize) -> &str;
}

/// A message about an invalid stored value; names its row and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedValue(pub String);

/// A type of the domain that is stored as an integer. The ranges make sure that code that adds to a value can't overflow.
pub trait StoredInteger: Sized {
    /// The value that this number stands for; the error says why there is none.
    fn stored(number: i64) -> Result<Self, String>;
}

fn within(number: i64, least: i64, most: i64, what: &str) -> Result<i64, String> {
    if (least..=most).contains(&number) { Ok(number) } else { Err(format!("{number} is no {what}")) }
}

impl StoredInteger for Timestamp {
    fn stored(number: i64) -> Result<Self, String> {
        within(number, 0, STORED_TIME_MAX, "time between 1970 and 8000").map(Timestamp::from_micros)
    }
}

impl StoredInteger for Span {
    fn stored(number: i64) -> Result<Self, String> {
        let micros = within(number, 0, STORED_LENGTH_MAX, "length of up to a thousand years")?;
        Span::from_micros(micros).ok_or_else(|| format!("{number} is out of range"))
    }
}

impl StoredInteger for Revision {
    fn stored(number: i64) -> Result<Self, String> {
        within(number, 0, REVISION_MAX - 1, "revision").map(Revision)
    }
}

impl StoredInteger for FencingToken {
    fn stored(number: i64) -> Result<Self, String> {
        within(number, 1, REVISION_MAX - 1, "token").map(FencingToken)
    }
}

impl StoredInteger for RowId {
    fn stored(number: i64) -> Result<Self, String> {
        within(number, 1, ROW_MAX, "number of a row").map(RowId)
    }
}

impl StoredInteger for i64 {
    fn stored(number: i64) -> Result<Self, String> {
        Ok(number)
    }
}

impl StoredInteger for i32 {
    fn stored(number: i64) -> Result<Self, String> {
        i32::try_from(number).map_err(|_| format!("{number} is out of range"))
    }
}

impl StoredInteger for u32 {
    fn stored(number: i64) -> Result<Self, String> {
        u32::try_from(number).map_err(|_| format!("{number} is out of range"))
    }
}

/// A count, or the highest row number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity(pub i64);

impl StoredInteger for Quantity {
    fn stored(number: i64) -> Result<Self, String> {
        within(number, 0, ROW_MAX, "count").map(Quantity)
    }
}

/// A message about an invalid value; names its row and column.
pub fn place(row: &impl ResultRow, index: usize, what: &str) -> String {
    let key = match (row.integer(0), row.text(0)) {
        (Ok(Some(number)), _) => number.to_string(),
        (_, Ok(Some(text))) => format!("{text:?}"),
        _ => "?".to_owned(),
    };
    format!("row {key}, column {}: {what}", row.column_name(index))
}

/// Reads a row's columns one after the other.
struct Columns<'a, R> {
    row: &'a R,
    next: usize,
}

impl<'a, R: ResultRow> Columns<'a, R> {
    fn of(row: &'a R) -> Self {
        Columns { row, next: 0 }
    }

    fn maybe_get<T: StoredInteger>(&mut self) -> Result<Option<T>, DamagedValue> {
        let column = self.next;
        self.next += 1;
        let found = self.row.integer(column).and_then(|found| found.map(T::stored).transpose());
        found.map_err(|what| self.damaged(column, &what))
    }

    fn get<T: StoredInteger>(&mut self) -> Result<T, DamagedValue> {
        let found = self.maybe_get()?;
        self.required(found)
    }

    fn required<T>(&self, found: Option<T>) -> Result<T, DamagedValue> {
        found.ok_or_else(|| self.damaged(self.next - 1, "it is NULL"))
    }

    fn coded<T: Coded>(&mut self) -> Result<T, DamagedValue> {
        let found = self.maybe_coded()?;
        self.required(found)
    }

    fn maybe_coded<T: Coded>(&mut self) -> Result<Option<T>, DamagedValue> {
        let Some(code) = self.maybe_get::<i64>()? else { return Ok(None) };
        let value = T::decode(code);
        value.map(Some).ok_or_else(|| self.damaged(self.next - 1, &format!("{code} stands for nothing")))
    }

    fn maybe_text(&mut self) -> Result<Option<&'a str>, DamagedValue> {
        let column = self.next;
        self.next += 1;
        self.row.text(column).map_err(|what| self.damaged(column, &what))
    }

    fn maybe<T>(&mut self, parse: impl Fn(&str) -> Result<T, Malformed>) -> Result<Option<T>, DamagedValue> {
        let text = self.maybe_text()?;
        text.map(parse).transpose().map_err(|e| self.damaged(self.next - 1, &e.0))
    }

    fn parsed<T>(&mut self, parse: impl Fn(&str) -> Result<T, Malformed>) -> Result<T, DamagedValue> {
        let found = self.maybe(parse)?;
        self.required(found)
    }

    fn rare_fields(&mut self) -> Result<RareFields, DamagedValue> {
        let json = self.maybe_text()?;
        RareFields::parse(json).map_err(|what| self.damaged(self.next - 1, &what))
    }

    /// Contents; NULL stands for empty.
    fn contents(&mut self) -> Result<Blob, DamagedValue> {
        let column = self.next;
        self.next += 1;
        let bytes = self.row.bytes(column).map_err(|what| self.damaged(column, &what))?;
        let bytes = bytes.map(Bytes::copy_from_slice).unwrap_or_default();
        Blob::parse(bytes).map_err(|e| self.damaged(column, &e.0))
    }

    /// A map stored as JSON; NULL stands for empty.
    fn pairs(&mut self) -> Result<BTreeMap<String, String>, DamagedValue> {
        let Some(json) = self.maybe_text()?.filter(|json| *json != "{}") else { return Ok(BTreeMap::new()) };
        serde_json::from_str(json).map_err(|e| self.damaged(self.next - 1, &e.to_string()))
    }

    fn damaged(&self, column: usize, what: &str) -> DamagedValue {
        DamagedValue(place(self.row, column, what))
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
pub fn saga(row: &impl ResultRow) -> Result<(RowId, Saga, u32), DamagedValue> {
    let mut c = Columns::of(row);
    let id = c.get()?;
    let spec = spec(&mut c)?;
    // Sagas in flight store some of the following fields in this column, ended sagas in separate columns.
    let rare = c.rare_fields()?;
    let state = c.coded()?;
    let revision = c.get()?;
    let (attempt, expirations, failures, compensations): (_, u32, u32, _) = (c.get()?, c.get()?, c.get()?, c.get()?);
    let update_time = c.get()?;
    let (end_time, not_before) = (c.maybe_get()?, c.maybe_get()?);
    let (settle_until, idle_since) = (c.maybe_get()?, c.maybe_get()?);
    let lease = lease(&mut c, rare.expired_at)?;
    let assignee = c.maybe(OwnerId::parse)?;
    let reserved_until = c.maybe_get()?;
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
        reservation: reservation.or(rare.reservation),
        cancel: cancel.or(rare.cancel),
        attempt,
        expirations: expirations.max(rare.expirations),
        failures: failures.max(rare.failures),
        progress,
        result,
        terminal_reason,
        update_time,
        end_time,
        not_before: not_before.or(rare.not_before),
        settle_until: settle_until.or(rare.settle_until),
        idle_since: idle_since.or(rare.idle_since),
        revision,
        contents_omitted: false,
    };
    Ok((id, saga, compensations))
}

fn spec(c: &mut Columns<'_, impl ResultRow>) -> Result<Spec, DamagedValue> {
    let task_id = c.parsed(TaskId::parse)?;
    let saga_id = c.parsed(SagaId::parse)?;
    let queue = c.parsed(QueueName::parse)?;
    let priority = c.get()?;
    let issue = c.maybe_get()?;
    let (branch, worktree) = (c.parsed(Text::stored)?, c.parsed(Text::stored)?);
    let labels = c.pairs()?;
    let labels = Labels::stored(labels).map_err(|e| c.damaged(c.next - 1, &format!("a label {}", e.0)))?;
    let retry_of = c.maybe(TaskId::parse)?;
    let create_time = c.get()?;
    let policy = Policy {
        on_stale: c.coded()?,
        max_expirations: c.get()?,
        on_failure: c.coded()?,
        max_attempts: c.get()?,
        retry_backoff: c.get()?,
        retry_backoff_max: c.get()?,
        execution_timeout: c.maybe_get()?,
        progress_timeout: c.maybe_get()?,
        settle: c.get()?,
        compensation_timeout: c.get()?,
    };
    let payload = c.contents()?;
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

fn lease(c: &mut Columns<'_, impl ResultRow>, expired_at: Option<Timestamp>) -> Result<Option<Lease>, DamagedValue> {
    let token: Option<FencingToken> = c.maybe_get()?;
    let Some(token) = token else {
        c.next += LEASE_COLUMNS - 1;
        return Ok(None);
    };
    let purpose = c.coded()?;
    let (acquire_time, heartbeat_time, expire_time) = (c.get()?, c.get()?, c.get()?);
    if expire_time <= acquire_time {
        return Err(c.damaged(c.next - 1, "the time is not after lease_acquire"));
    }
    let ttl = c.get()?;
    let limit = c.coded()?;
    let progress_time = c.get()?;
    let code: i64 = c.get()?;
    let expired = c.maybe_get()?.or(expired_at).zip(c.maybe_get::<Revision>()?);
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
pub fn compensation(row: &impl ResultRow) -> Result<Compensation, DamagedValue> {
    let mut c = Columns::of(row);
    let position = c.get()?;
    let spec = CompensationSpec {
        kind: c.parsed(Kind::stored)?,
        target: c.parsed(Text::stored)?,
        reason: c.parsed(Text::stored)?,
    };
    Ok(Compensation {
        position,
        spec,
        state: c.coded()?,
        attempts: c.get()?,
        last_error: c.parsed(Text::stored)?,
        settled_by: c.maybe_text()?.map(Into::into),
        settle_time: c.maybe_get()?,
        registered_under: c.maybe_get()?,
        recorded_under: c.maybe_get()?,
    })
}

/// A row of `sql::EVENTS` and the like.
pub fn event(row: &impl ResultRow) -> Result<Event, DamagedValue> {
    let mut c = Columns::of(row);
    let revision = c.get()?;
    let task_id = c.parsed(TaskId::parse)?;
    let saga_id = c.parsed(SagaId::parse)?;
    let queue = c.parsed(QueueName::parse)?;
    let time = c.get()?;
    let kind = c.coded()?;
    let actor = c.maybe(Actor::stored)?;
    let reason = c.maybe_text()?.unwrap_or_default().into();
    let from_state = c.maybe_coded()?;
    let to_state = c.coded()?;
    let token: Option<FencingToken> = c.maybe_get()?;
    let words = c.pairs()?;
    let mark = c.maybe_get::<i64>()?.unwrap_or_default();
    let owner = c.maybe(OwnerId::parse)?;
    let expire_time = c.maybe_get()?;
    let cause = c.maybe_coded()?;
    let (purpose, attempt) = (c.maybe_coded()?, c.maybe_get::<u32>()?);
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
