//! Implements [`Backend`] for SQLite: reads for a turn, and one transaction for its changes.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    coordinator::{
        Backend, BackendError, ChangeSet, ContentBytes, LoadKey, LoadResult, MaintenanceBudget, ReadyPosition,
        ReadyScan, RemovalCounts, RowId, StoredAnswer,
    },
    domain::{
        event::Event,
        ids::{FencingToken, QueueName},
        saga::{Saga, State},
        text::Blob,
        time::Timestamp,
    },
};

use super::{error::SqliteError, writer::SqliteWriter};

impl SqliteWriter {
    /// The backend error for an SQLite error. Before the commit nothing has happened.
    fn fault(&mut self, error: SqliteError) -> BackendError {
        match self.judge(error) {
            SqliteError::Full => {
                self.is_full = true;
                BackendError::Full
            }
            SqliteError::Corrupt(what) => BackendError::Corrupt(what),
            SqliteError::Broken(what) | SqliteError::Unwritten(what) => BackendError::Unavailable(what),
            SqliteError::Gone(what) => BackendError::Gone(what),
        }
    }

    /// Reads within one transaction for the whole turn; otherwise each statement would lock and unlock the log.
    fn reading<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, SqliteError>) -> Result<T, BackendError> {
        let read = self.begin().and_then(|()| read(self));
        read.map_err(|error| self.fault(error))
    }

    /// Runs maintenance between turns, when no transaction is open.
    pub(super) fn between<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, SqliteError>,
    ) -> Result<T, BackendError> {
        let done = self.end_read().and_then(|()| work(self));
        done.map_err(|error| self.fault(error))
    }

    /// Writes a turn's changes. On an error, `saga` says whose rows it concerns, if one saga's, and whether that saga
    /// was stored before.
    fn write(&mut self, changes: &ChangeSet, saga: &mut Option<(RowId, bool)>) -> Result<(), SqliteError> {
        self.begin()?;
        // Removals come first: new sagas may have the ids of removed ones.
        for id in &changes.removed {
            *saga = Some((*id, true));
            self.remove(*id)?;
        }
        for change in &changes.sagas {
            *saga = Some((change.id, change.before.is_some()));
            match (&change.before, &change.after) {
                (None, Some(after)) => self.insert(change.id, after, &change.derived)?,
                (Some(before), Some(after)) => self.update(change, before, after)?,
                (_, None) => {}
            }
        }
        *saga = None;
        for appended in &changes.events {
            self.append(appended)?;
        }
        for (id, answer) in &changes.answers {
            self.keep_answer(id, answer)?;
        }
        for status in &changes.queues {
            self.set_paused(status)?;
        }
        if let Some(through) = changes.compacted {
            self.compact(through)?;
        }
        if let Some((before, limit)) = changes.forget_answers {
            self.forget_answers(before, limit)?;
        }
        Ok(())
    }

    /// Rolls back a failed transaction and returns the backend error.
    fn undo(&mut self, error: SqliteError) -> BackendError {
        let fault = self.fault(error);
        match self.rollback() {
            Ok(()) => fault,
            Err(worse) => BackendError::Unavailable(worse.to_string()),
        }
    }
}

/// Writes turns one after the other, calls `look` after each, and rolls them all back.
#[cfg(feature = "fuzzing")]
pub fn write_and_undo(rows: &mut SqliteWriter, turns: &[ChangeSet], mut look: impl FnMut(usize, &mut SqliteWriter)) {
    for (number, changes) in turns.iter().enumerate() {
        if let Err(error) = rows.write(changes, &mut None) {
            panic!("a turn can't be written: {error}");
        }
        look(number, rows);
    }
    assert_eq!(rows.rollback(), Ok(()));
}

impl Backend for SqliteWriter {
    fn load(&mut self, keys: &[LoadKey]) -> Result<Vec<LoadResult>, BackendError> {
        let load = |rows: &mut Self| {
            let loaded = keys.iter().map(|key| match rows.load_one(key) {
                Ok(None) => Ok(LoadResult::Nothing),
                Ok(Some((id, saga))) => Ok(LoadResult::Saga(id, Arc::new(saga))),
                Err(SqliteError::Corrupt(what)) => Ok(LoadResult::Unreadable(what)),
                Err(other) => Err(other),
            });
            loaded.collect()
        };
        self.reading(load)
    }

    fn load_without_contents(
        &mut self,
        id: RowId,
        compensations: bool,
    ) -> Result<Option<(Saga, ContentBytes)>, BackendError> {
        self.reading(|rows| rows.brief(id, compensations))
    }

    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, BackendError> {
        self.reading(|rows| rows.stored_payload(id))
    }

    fn answers(&mut self, ids: &[[u8; 16]]) -> Result<Vec<Option<StoredAnswer>>, BackendError> {
        self.reading(|rows| ids.iter().map(|id| rows.answer(id)).collect())
    }

    fn lease_events(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, BackendError> {
        self.reading(|rows| rows.lease_ends(id, token, newest))
    }

    fn ready(&mut self, scan: &ReadyScan) -> Result<Vec<ReadyPosition>, BackendError> {
        self.reading(|rows| {
            let Some(queue) = rows.queue(&scan.queue)? else { return Ok(Vec::new()) };
            let (Reverse(priority), after) = scan.after.unwrap_or((Reverse(i32::MAX), RowId(0)));
            rows.ready_behind(scan.purpose, queue, (priority, after), scan.limit)
        })
    }

    fn queue_exists(&mut self, queue: &QueueName) -> Result<bool, BackendError> {
        self.reading(|rows| Ok(rows.queue(queue)?.is_some()))
    }

    fn ended(
        &mut self,
        states: &[State],
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RowId)>, BackendError> {
        self.reading(|rows| rows.purgeable(states, before, limit))
    }

    fn count_removal(&mut self, id: RowId) -> Result<RemovalCounts, BackendError> {
        self.reading(|rows| rows.weigh_one(id))
    }

    fn commit(&mut self, changes: &ChangeSet) -> Result<(), BackendError> {
        let next = self.reserve_for(changes)?;
        let mut saga = None;
        if let Err(error) = self.write(changes, &mut saga) {
            return Err(match (self.undo(error), saga) {
                (BackendError::Corrupt(what), Some((id, true))) => BackendError::Unwritable(id, what),
                // Its row number is used for the next new saga.
                (fault @ BackendError::Corrupt(_), Some((_, false))) => fault,
                // A damaged row that belongs to no saga would make every turn fail.
                (BackendError::Corrupt(what), None) => BackendError::Unavailable(what),
                (fault, _) => fault,
            });
        }
        match self.end() {
            Ok(()) => {
                self.reservation.next = next;
                Ok(())
            }
            Err(error) => match self.judge(error) {
                SqliteError::Full => Err(self.undo(SqliteError::Full)),
                // The change may be there when the store is opened again.
                SqliteError::Broken(what) | SqliteError::Corrupt(what) | SqliteError::Unwritten(what) => {
                    Err(BackendError::OutcomeUnknown(what))
                }
                SqliteError::Gone(what) => Err(BackendError::Gone(what)),
            },
        }
    }

    fn maintain(&mut self, budget: MaintenanceBudget) -> Result<bool, BackendError> {
        if self.is_full {
            self.try_to_write()?;
            self.is_full = false;
        }
        self.between(|rows| rows.keep_bounded(budget.no_calls_waiting))?;
        if budget.step { self.between(Self::give_back) } else { Ok(false) }
    }

    fn close(&mut self, now: Timestamp) -> Result<(), BackendError> {
        self.between(|rows| rows.end_in_order(rows.reservation.next, now))
    }
}
