//! Implements [`Backend`] for SQLite: reads for a turn, and one transaction for its changes.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    coordinator::{
        Backend, Candidate, ChangeSet, ContentBytes, Fault, IdleBudget, Key, Loaded, ReadyScan, Removed, RowId,
        StoredAnswer,
    },
    domain::{
        event::Event,
        ids::{FencingToken, QueueName},
        saga::{Saga, State},
        text::Blob,
        time::Timestamp,
    },
};

use super::{error::RowsError, rows::SqliteRows};

impl SqliteRows {
    /// The backend error for an SQLite error. Before the commit nothing has happened.
    fn fault(&mut self, error: RowsError) -> Fault {
        match self.judge(error) {
            RowsError::Full => {
                self.is_full = true;
                Fault::Full
            }
            RowsError::Corrupt(what) => Fault::Corrupt(what),
            RowsError::Broken(what) | RowsError::Unwritten(what) => Fault::Unavailable(what),
            RowsError::Gone(what) => Fault::Gone(what),
        }
    }

    /// Reads within one transaction for the whole turn; otherwise each statement would lock and unlock the log.
    fn reading<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, RowsError>) -> Result<T, Fault> {
        let read = self.begin().and_then(|()| read(self));
        read.map_err(|error| self.fault(error))
    }

    /// Runs maintenance between turns, when no transaction is open.
    pub(super) fn between<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, RowsError>) -> Result<T, Fault> {
        let done = self.let_go().and_then(|()| work(self));
        done.map_err(|error| self.fault(error))
    }

    /// Writes a turn's changes. On an error, `saga` says whose rows it concerns, if one saga's, and whether that saga
    /// was stored before.
    fn write(&mut self, changes: &ChangeSet, saga: &mut Option<(RowId, bool)>) -> Result<(), RowsError> {
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
    fn undo(&mut self, error: RowsError) -> Fault {
        let fault = self.fault(error);
        match self.rollback() {
            Ok(()) => fault,
            Err(worse) => Fault::Unavailable(worse.to_string()),
        }
    }
}

/// Writes turns one after the other, calls `look` after each, and rolls them all back.
#[cfg(feature = "fuzzing")]
pub fn write_and_undo(rows: &mut SqliteRows, turns: &[ChangeSet], mut look: impl FnMut(usize, &mut SqliteRows)) {
    for (number, changes) in turns.iter().enumerate() {
        if let Err(error) = rows.write(changes, &mut None) {
            panic!("a turn can't be written: {error}");
        }
        look(number, rows);
    }
    assert_eq!(rows.rollback(), Ok(()));
}

impl Backend for SqliteRows {
    fn load(&mut self, keys: &[Key]) -> Result<Vec<Loaded>, Fault> {
        let load = |rows: &mut Self| {
            let loaded = keys.iter().map(|key| match rows.load_one(key) {
                Ok(None) => Ok(Loaded::Nothing),
                Ok(Some((id, saga))) => Ok(Loaded::Saga(id, Arc::new(saga))),
                Err(RowsError::Corrupt(what)) => Ok(Loaded::Unreadable(what)),
                Err(other) => Err(other),
            });
            loaded.collect()
        };
        self.reading(load)
    }

    fn load_brief(&mut self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, Fault> {
        self.reading(|rows| rows.brief(id, compensations))
    }

    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, Fault> {
        self.reading(|rows| rows.stored_payload(id))
    }

    fn answers(&mut self, ids: &[[u8; 16]]) -> Result<Vec<Option<StoredAnswer>>, Fault> {
        self.reading(|rows| ids.iter().map(|id| rows.answer(id)).collect())
    }

    fn ends_of_lease(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, Fault> {
        self.reading(|rows| rows.lease_ends(id, token, newest))
    }

    fn ready(&mut self, scan: &ReadyScan) -> Result<Vec<Candidate>, Fault> {
        self.reading(|rows| {
            let Some(queue) = rows.queue(&scan.queue)? else { return Ok(Vec::new()) };
            let (Reverse(priority), after) = scan.after.unwrap_or((Reverse(i32::MAX), RowId(0)));
            rows.ready_behind(scan.purpose, queue, (priority, after), scan.limit)
        })
    }

    fn knows_queue(&mut self, queue: &QueueName) -> Result<bool, Fault> {
        self.reading(|rows| Ok(rows.queue(queue)?.is_some()))
    }

    fn ended(&mut self, states: &[State], before: Timestamp, limit: usize) -> Result<Vec<(Timestamp, RowId)>, Fault> {
        self.reading(|rows| rows.purgeable(states, before, limit))
    }

    fn weigh(&mut self, id: RowId) -> Result<Removed, Fault> {
        self.reading(|rows| rows.weigh_one(id))
    }

    fn commit(&mut self, changes: &ChangeSet) -> Result<(), Fault> {
        let next = self.reserve_for(changes)?;
        let mut saga = None;
        if let Err(error) = self.write(changes, &mut saga) {
            return Err(match (self.undo(error), saga) {
                (Fault::Corrupt(what), Some((id, true))) => Fault::Unwritable(id, what),
                // Its row number is used for the next new saga.
                (fault @ Fault::Corrupt(_), Some((_, false))) => fault,
                // A damaged row that belongs to no saga would make every turn fail.
                (Fault::Corrupt(what), None) => Fault::Unavailable(what),
                (fault, _) => fault,
            });
        }
        match self.end() {
            Ok(()) => {
                self.reservation.next = next;
                Ok(())
            }
            Err(error) => match self.judge(error) {
                RowsError::Full => Err(self.undo(RowsError::Full)),
                // The change may be there when the store is opened again.
                RowsError::Broken(what) | RowsError::Corrupt(what) | RowsError::Unwritten(what) => {
                    Err(Fault::OutcomeUnknown(what))
                }
                RowsError::Gone(what) => Err(Fault::Gone(what)),
            },
        }
    }

    fn idle(&mut self, budget: IdleBudget) -> Result<bool, Fault> {
        if self.is_full {
            self.try_to_write()?;
            self.is_full = false;
        }
        self.between(|rows| rows.keep_bounded(budget.quiet))?;
        if budget.step { self.between(Self::give_back) } else { Ok(false) }
    }

    fn close(&mut self, now: Timestamp) -> Result<(), Fault> {
        self.between(|rows| rows.end_in_order(rows.reservation.next, now))
    }
}
