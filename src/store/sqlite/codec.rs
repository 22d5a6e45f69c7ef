//! Rows ↔ domain. What an enum's number stands for is said here, once; a number or text that stands for nothing is a
//! damaged row, which names itself.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rusqlite::Row;

use crate::domain::{
    compensation::{Compensation, CompensationSpec, CompensationState},
    event::{Event, EventType, Resolution, StaleMark},
    ids::{FencingToken, Malformed, OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::{HolderEnd, Lease, LeasePurpose, StaleCause, Standing},
    policy::{FailureAction, Policy, StaleAction},
    saga::{CancelRequest, Reservation, Saga, Spec, State},
    text::{Actor, Blob, Kind, Labels, Text},
    time::{Span, Timestamp},
};

use super::super::rows::{RowId, RowsError};

/// A type of the domain that is stored as a small number.
pub trait Coded: Copy + PartialEq + Sized + 'static {
    /// Every value with its number.
    const CODES: &'static [(Self, i64)];

    /// Its number.
    fn code(self) -> i64 {
        Self::CODES.iter().find(|(value, _)| *value == self).map_or(0, |(_, code)| *code)
    }

    /// What a number stands for.
    fn decode(code: i64) -> Option<Self> {
        Self::CODES.iter().find(|(_, known)| *known == code).map(|(value, _)| *value)
    }
}

impl Coded for State {
    const CODES: &'static [(Self, i64)] = &[
        (State::Planned, 1),
        (State::Dispatched, 2),
        (State::Running, 3),
        (State::Compensating, 4),
        (State::Completed, 5),
        (State::Failed, 6),
        (State::Compensated, 7),
        (State::Quarantined, 8),
    ];
}

impl Coded for LeasePurpose {
    const CODES: &'static [(Self, i64)] = &[(LeasePurpose::Execute, 1), (LeasePurpose::Compensate, 2)];
}

impl Coded for StaleCause {
    const CODES: &'static [(Self, i64)] =
        &[(StaleCause::Ttl, 1), (StaleCause::ExecutionTimeout, 2), (StaleCause::ProgressTimeout, 3)];
}

impl Coded for StaleAction {
    const CODES: &'static [(Self, i64)] = &[
        (StaleAction::Hold, 1),
        (StaleAction::Requeue, 2),
        (StaleAction::Compensate, 3),
        (StaleAction::Quarantine, 4),
    ];
}

impl Coded for FailureAction {
    const CODES: &'static [(Self, i64)] = &[(FailureAction::Fail, 1), (FailureAction::Compensate, 2)];
}

impl Coded for CompensationState {
    const CODES: &'static [(Self, i64)] = &[
        (CompensationState::Pending, 1),
        (CompensationState::Done, 2),
        (CompensationState::Failed, 3),
        (CompensationState::Waived, 4),
    ];
}

impl Coded for EventType {
    const CODES: &'static [(Self, i64)] = &[
        (EventType::Created, 1),
        (EventType::Dispatched, 2),
        (EventType::Claimed, 3),
        (EventType::Released, 4),
        (EventType::Requeued, 5),
        (EventType::LeaseExpired, 6),
        (EventType::RecoveryDecided, 7),
        (EventType::CancelRequested, 8),
        (EventType::CompensationRegistered, 9),
        (EventType::CompensationSettled, 10),
        (EventType::Compensating, 11),
        (EventType::Completed, 12),
        (EventType::Failed, 13),
        (EventType::RetryScheduled, 14),
        (EventType::Compensated, 15),
        (EventType::Quarantined, 16),
        (EventType::Annotated, 17),
    ];
}

/// Marks: 1 begins staleness, these end it.
impl Coded for Resolution {
    const CODES: &'static [(Self, i64)] = &[
        (Resolution::Reclaimed, 2),
        (Resolution::Requeued, 3),
        (Resolution::Compensating, 4),
        (Resolution::Terminal, 5),
    ];
}

const MARK_STALE: i64 = 1;
const STANDING_EXPIRED: i64 = 2;

/// 1 held, 2 expired, 3 ended by another, from 11 on by the holder.
pub fn standing_code(standing: Standing) -> i64 {
    match standing {
        Standing::Held => 1,
        Standing::Expired { .. } => STANDING_EXPIRED,
        Standing::EndedByOther => 3,
        Standing::EndedByHolder(HolderEnd::Released) => 11,
        Standing::EndedByHolder(HolderEnd::Completed) => 12,
        Standing::EndedByHolder(HolderEnd::Failed) => 13,
        Standing::EndedByHolder(HolderEnd::Compensated) => 14,
        Standing::EndedByHolder(HolderEnd::Quarantined) => 15,
    }
}

fn standing(code: i64, expired: Option<(Timestamp, Revision)>) -> Option<Standing> {
    Some(match code {
        1 => Standing::Held,
        STANDING_EXPIRED => {
            let (at, revision) = expired?;
            Standing::Expired { at, revision }
        }
        3 => Standing::EndedByOther,
        11 => Standing::EndedByHolder(HolderEnd::Released),
        12 => Standing::EndedByHolder(HolderEnd::Completed),
        13 => Standing::EndedByHolder(HolderEnd::Failed),
        14 => Standing::EndedByHolder(HolderEnd::Compensated),
        15 => Standing::EndedByHolder(HolderEnd::Quarantined),
        _ => return None,
    })
}

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

/// The number of an event's mark.
pub fn mark_code(mark: Option<&StaleMark>) -> i64 {
    match mark {
        None => 0,
        Some(StaleMark::Stale { .. }) => MARK_STALE,
        Some(StaleMark::Resolved(resolution)) => resolution.code(),
    }
}

/// The number of what a saga is ready for.
pub fn ready_code(ready: Option<LeasePurpose>) -> i64 {
    ready.map_or(0, Coded::code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Coded + std::fmt::Debug>(all: impl IntoIterator<Item = T>) {
        for value in all {
            assert_eq!(T::decode(value.code()), Some(value));
        }
        assert_eq!(T::decode(0), None);
        assert_eq!(T::decode(99), None);
    }

    #[test]
    fn every_state_has_a_number() {
        round_trip(State::ALL);
        round_trip([LeasePurpose::Execute, LeasePurpose::Compensate]);
        round_trip([StaleCause::Ttl, StaleCause::ExecutionTimeout, StaleCause::ProgressTimeout]);
        round_trip([Resolution::Reclaimed, Resolution::Requeued, Resolution::Compensating, Resolution::Terminal]);
        assert_eq!(EventType::CODES.len(), 17);
        assert_eq!(standing(99, None), None);
        assert_eq!(standing(STANDING_EXPIRED, None), None, "an expired lease says when");
    }
}
