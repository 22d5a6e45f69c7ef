//! The writing connection: what the engine loads and writes.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, params};

use crate::domain::{
    command::QueueStatus,
    event::{Event, EventType},
    ids::{FencingToken, QueueName, Revision, SagaId, TaskId},
    lease::LeasePurpose,
    saga::{Saga, State},
    text::Blob,
    time::Timestamp,
};

use super::{
    super::{
        query::SagaKey,
        rows::{Candidate, ContentBytes, Derived, Removed, RowId, Rows, RowsError, StoredAnswer},
        vitals::LogMeter,
    },
    cache::{SagaCache, StoredReady},
    checkpoint::Checkpoints,
    codec,
    codes::{Coded, ready_code},
    counts::Tally,
    files::Files,
    load::{self, events, rows_error},
    shrink::Shrinking,
    sql,
    statements::Statements,
    write::expired_revision,
};

/// A store that has been opened, not yet bound to the thread that writes.
pub struct OpenedRows {
    pub(super) connection: Connection,
    pub(super) checkpoints: Checkpoints,
    /// The place of the newest saga.
    pub(super) last_row: i64,
    pub(super) tally: Tally,
    pub(super) files: Files,
}

impl OpenedRows {
    /// What the log and its checkpoints are noted in.
    pub(in crate::store) fn log_meter(&self) -> Arc<LogMeter> {
        self.checkpoints.meter()
    }

    /// The rows, for use by this thread.
    pub fn into_rows(self) -> SqliteRows {
        let OpenedRows { connection, checkpoints, last_row, tally, files } = self;
        connection.set_prepared_statement_cache_capacity(64);
        SqliteRows {
            statements: Statements::of(connection),
            checkpoints,
            next_row: last_row + 1,
            queues: HashMap::new(),
            new_queues: Vec::new(),
            began_at_row: last_row + 1,
            newest: None,
            cache: SagaCache::default(),
            tally,
            shrinking: Shrinking::default(),
            files,
        }
    }
}

/// SQLite as the engine sees it.
pub struct SqliteRows {
    statements: Statements,
    checkpoints: Checkpoints,
    /// The next saga's place.
    next_row: i64,
    /// The numbers of queues that are known to be stored.
    queues: HashMap<QueueName, i64>,
    /// Those stored in this transaction, which a rollback forgets.
    new_queues: Vec<QueueName>,
    began_at_row: i64,
    /// The saga that was written last in this transaction, and its newest event so far; none: it has none yet.
    newest: Option<(RowId, Option<Revision>)>,
    cache: SagaCache,
    tally: Tally,
    shrinking: Shrinking,
    files: Files,
}

impl SqliteRows {
    pub(super) fn execute(&self, sql: &'static str, params: impl rusqlite::Params) -> Result<usize, RowsError> {
        self.statements.execute(sql, params).map_err(rows_error)
    }

    fn connection(&self) -> &Connection {
        self.statements.connection()
    }

    fn exists(&self, sql: &'static str, key: &str) -> Result<bool, RowsError> {
        self.connection().prepare_cached(sql).and_then(|mut s| s.exists([key])).map_err(rows_error)
    }

    /// A queue's number, if it is stored.
    fn queue(&mut self, name: &QueueName) -> Result<Option<i64>, RowsError> {
        if let Some(id) = self.queues.get(name) {
            return Ok(Some(*id));
        }
        let found = self
            .connection()
            .prepare_cached(sql::QUEUE_ID)
            .and_then(|mut s| s.query_row([name.as_str()], |row| row.get::<_, i64>(0)).optional());
        let found = found.map_err(rows_error)?;
        if let Some(id) = found {
            self.queues.insert(name.clone(), id);
        }
        Ok(found)
    }

    fn queue_or_new(&mut self, name: &QueueName) -> Result<i64, RowsError> {
        if let Some(id) = self.queue(name)? {
            return Ok(id);
        }
        self.execute(sql::INSERT_QUEUE, [name.as_str()])?;
        let id = self.connection().last_insert_rowid();
        self.queues.insert(name.clone(), id);
        self.new_queues.push(name.clone());
        Ok(id)
    }

    /// The number of a stored saga's queue.
    fn queue_of(&mut self, id: RowId, saga: &Saga) -> Result<i64, RowsError> {
        let found = self.queue(&saga.spec.queue)?;
        found.ok_or_else(|| RowsError::Corrupt(format!("row {}: its queue {} is not there", id.0, saga.spec.queue)))
    }

    /// A number by a saga's place, or the numbers that a statement takes.
    fn number(&self, sql: &'static str, params: impl rusqlite::Params) -> Result<Option<i64>, RowsError> {
        let found =
            self.connection().prepare_cached(sql).and_then(|mut s| s.query_row(params, |row| row.get(0)).optional());
        found.map_err(rows_error)
    }

    fn newest_of(&self, id: RowId) -> Result<Option<Revision>, RowsError> {
        Ok(self.number(sql::NEWEST_OF_ROW, [id.0])?.map(Revision))
    }

    /// Writes a change between two states in flight; returns for what it is stored as ready, if that is known.
    fn update_in_flight(
        &self,
        id: RowId,
        before: &Saga,
        after: &Saga,
        derived: &Derived,
    ) -> Result<Option<StoredReady>, RowsError> {
        let stored = self.cache.stored_ready(id);
        // Only heartbeats leave the revision as it is, and they neither begin nor end anything.
        let ready = if before.revision == after.revision && before.lease != after.lease {
            self.update_lease(id, after, derived)?;
            stored
        } else {
            let indexed = stored != Some(derived.ready) || expired_revision(before) != expired_revision(after);
            self.update_work(id, after, derived, indexed)?;
            self.put_compensations(id, &before.compensations, &after.compensations)?;
            Some(derived.ready)
        };
        if before.progress != after.progress {
            self.execute(sql::UPDATE_PROGRESS, params![id.0, &after.progress.bytes()[..]])?;
        }
        if before.result != after.result {
            self.execute(sql::UPDATE_RESULT, params![id.0, &after.result.bytes()[..]])?;
        }
        Ok(ready)
    }

    /// Whether a saga is stored as ready as it is known to be.
    fn is_ready_as_stored(&self, id: RowId) -> Result<bool, RowsError> {
        let Some(known) = self.cache.stored_ready(id) else { return Ok(true) };
        Ok(self.number(sql::READY_OF_ROW, [id.0])? == Some(ready_code(known)))
    }

    fn read(&self, id: RowId) -> Result<Option<Saga>, RowsError> {
        Ok(load::one_saga(self.statements.connection(), sql::SAGA_BY_ROW, id.0)?.map(|(_, saga)| saga))
    }
}

impl Rows for SqliteRows {
    fn begin(&mut self) -> Result<(), RowsError> {
        self.began_at_row = self.next_row;
        self.tally.begin();
        self.execute("BEGIN IMMEDIATE", []).map(drop)
    }

    fn commit(&mut self) -> Result<(), RowsError> {
        self.tally.store_if_due(self.statements.connection())?;
        self.execute("COMMIT", [])?;
        self.tally.commit();
        self.new_queues.clear();
        // Behind the commit, so that nothing is acknowledged that was written to a file which is gone.
        self.files.are_in_place()
    }

    fn judge(&self, error: RowsError) -> RowsError {
        match error {
            RowsError::Unwritten(what) if !self.files.lack_room() => RowsError::Broken(what),
            RowsError::Unwritten(_) => RowsError::Full,
            RowsError::Full | RowsError::Corrupt(_) | RowsError::Broken(_) | RowsError::Gone(_) => error,
        }
    }

    fn rollback(&mut self) -> Result<(), RowsError> {
        self.next_row = self.began_at_row;
        self.tally.rollback();
        self.cache.clear();
        for queue in self.new_queues.drain(..) {
            self.queues.remove(&queue);
        }
        self.newest = None;
        // Some errors, a full disk among them, have rolled it back already.
        if self.connection().is_autocommit() { Ok(()) } else { self.execute("ROLLBACK", []).map(drop) }
    }

    fn maintain(&mut self, idle: bool) -> Result<(), RowsError> {
        // An idle store notices it, too.
        self.files.are_in_place()?;
        self.checkpoints.keep_bounded(self.statements.connection(), idle)
    }

    fn shrink(&mut self) -> Result<bool, RowsError> {
        // What a long read keeps in the log is not added to; it may take long, so this is seen only now and then.
        match self.checkpoints.is_held(self.statements.connection()) {
            Ok(false) => {}
            Ok(true) | Err(RowsError::Full) => return Ok(false),
            Err(other) => return Err(other),
        }
        match self.shrinking.step(self.statements.connection()).map_err(|error| self.judge(error)) {
            Err(RowsError::Full) => Ok(false),
            done => done,
        }
    }

    fn reserve_revisions(&mut self, through: Revision) -> Result<bool, RowsError> {
        self.execute(sql::RAISE_META, params!["revision_floor", through.0])?;
        self.checkpoints.restart(self.statements.connection())
    }

    fn close(&mut self, next: Revision, now: Timestamp) -> Result<(), RowsError> {
        self.begin()?;
        self.execute(sql::RAISE_META, params!["last_time", now.micros()])?;
        self.execute(sql::SET_META, params!["revision_floor", next.0])?;
        self.tally.store(self.statements.connection())?;
        self.commit()?;
        self.checkpoints.restart(self.statements.connection()).map(drop)
    }

    fn find(&mut self, key: &SagaKey) -> Result<Option<(RowId, Saga)>, RowsError> {
        if let SagaKey::Task(task_id) = key
            && let Some(id) = self.cache.place(task_id)
        {
            if let Some(saga) = self.load(id)? {
                return Ok(Some((id, saga)));
            }
            // It was purged.
            self.cache.forget_place(task_id);
        }
        let found = load::find(self.statements.connection(), key)?;
        if let Some((id, saga)) = &found {
            self.cache.keep(*id, saga, None);
            self.cache.keep_place(*id, saga);
        }
        Ok(found)
    }

    fn load(&mut self, id: RowId) -> Result<Option<Saga>, RowsError> {
        if let Some(saga) = self.cache.saga(id) {
            debug_assert_eq!(
                Ok(Some(&saga)),
                self.read(id).as_ref().map(Option::as_ref),
                "what is kept is what is stored"
            );
            debug_assert_eq!(Ok(true), self.is_ready_as_stored(id), "so it is with what it is ready for");
            return Ok(Some(saga));
        }
        let read = self.read(id)?;
        if let Some(saga) = &read {
            self.cache.keep(id, saga, None);
        }
        Ok(read)
    }

    fn load_brief(&mut self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, RowsError> {
        load::brief_saga(self.statements.connection(), id, compensations)
    }

    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::PAYLOAD_BY_ROW).map_err(rows_error)?;
        let found = statement.query_row([id.0], |row| row.get::<_, Vec<u8>>(0)).optional().map_err(rows_error)?;
        let parsed = found.map(|payload| Blob::parse(payload.into())).transpose();
        parsed.map_err(|e| RowsError::Corrupt(format!("row {}, column payload: {}", id.0, e.0)))
    }

    fn taken(&mut self, task_id: &TaskId, saga_id: &SagaId) -> Result<Option<&'static str>, RowsError> {
        if self.exists(sql::TASK_TAKEN, task_id.as_str())? {
            return Ok(Some("task_id"));
        }
        Ok(self.exists(sql::SAGA_TAKEN, saga_id.as_str())?.then_some("saga_id"))
    }

    fn insert(&mut self, saga: &Saga, derived: &Derived) -> Result<RowId, RowsError> {
        let queue = self.queue_or_new(&saga.spec.queue)?;
        let id = RowId(self.next_row);
        self.next_row += 1;
        self.insert_saga(id, queue, &saga.spec)?;
        self.insert_work(id, queue, saga, derived)?;
        self.put_compensations(id, &[], &saga.compensations)?;
        self.tally.added(queue, saga);
        self.newest = Some((id, None));
        self.cache.keep(id, saga, Some(derived.ready));
        Ok(id)
    }

    fn update(&mut self, id: RowId, before: &Saga, after: &Saga, derived: &Derived) -> Result<(), RowsError> {
        self.newest = Some((id, Some(before.revision)));
        let ready = match (before.state.is_terminal(), after.state.is_terminal()) {
            (false, false) => self.update_in_flight(id, before, after, derived)?,
            (was_ended, is_ended) => {
                let queue = self.queue_of(id, after)?;
                match (was_ended, is_ended) {
                    (_, true) => {
                        self.remove_one(id, if was_ended { sql::REMOVE_ENDED } else { sql::REMOVE_WORK })?;
                        self.put_ended(id, queue, after)?;
                    }
                    // No rule allows it, but it is not for this to say.
                    (_, false) => {
                        self.remove_one(id, sql::REMOVE_ENDED)?;
                        self.insert_work(id, queue, after, derived)?;
                    }
                }
                self.put_compensations(id, &before.compensations, &after.compensations)?;
                Some(derived.ready)
            }
        };
        if Tally::is_moved(before, after)
            && let Some(queue) = self.queue(&after.spec.queue)?
        {
            self.tally.moved(queue, before, after);
        }
        self.cache.keep(id, after, ready);
        Ok(())
    }

    fn append(&mut self, id: RowId, event: &Event) -> Result<(), RowsError> {
        self.tally.told(event.revision);
        let prev = match self.newest {
            Some((of, newest)) if of == id => newest,
            Some(_) | None => self.newest_of(id)?,
        };
        self.newest = Some((id, Some(event.revision)));
        self.insert_event(id, event, prev)
    }

    fn ends_of_lease(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::EVENT_OF_SAGA).map_err(rows_error)?;
        let mut found = events(&mut statement, [id.0, token.0])?;
        let tried = EventType::CompensationSettled.code();
        let mut next = self.newest_of(id)?.map(|revision| revision.0);
        let mut ends = self.connection().prepare_cached(sql::ENDS_LEASE).map_err(rows_error)?;
        let mut left = newest;
        let mut ended = None;
        while left > 0
            && ended.is_none()
            && let Some(revision) = next.filter(|revision| *revision > token.0)
        {
            let looked =
                ends.query_row([revision, id.0, token.0, tried], |row| Ok((row.get(0)?, row.get(1)?))).optional();
            let Some((prev, ends)) = looked.map_err(rows_error)? else {
                // From here on the old history has them.
                ended = self.number(sql::ENDS_LEASE_OLD, params![id.0, token.0, left, tried])?;
                break;
            };
            ended = if ends { Some(revision) } else { None };
            next = prev;
            left -= 1;
        }
        if let Some(ended) = ended {
            found.extend(events(&mut statement, [id.0, ended])?);
        }
        Ok(found)
    }

    fn ready(&mut self, purpose: LeasePurpose, queue: &QueueName, limit: usize) -> Result<Vec<Candidate>, RowsError> {
        let Some(queue) = self.queue(queue)? else { return Ok(Vec::new()) };
        let mut statement = self.connection().prepare_cached(sql::READY).map_err(rows_error)?;
        let found = statement
            .query_map(params![purpose.code(), queue, limit], |row| {
                Ok(Candidate { priority: codec::column(row, 1)?, id: codec::column(row, 0)? })
            })
            .and_then(Iterator::collect);
        found.map_err(rows_error)
    }

    fn answer(&mut self, id: &[u8; 16]) -> Result<Option<StoredAnswer>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::ANSWER).map_err(rows_error)?;
        let found = statement
            .query_row([&id[..]], |row| {
                Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, Timestamp>(1)?, row.get::<_, String>(2)?))
            })
            .optional()
            .map_err(rows_error)?;
        let Some((digest, time, sagas)) = found else { return Ok(None) };
        let sagas: Vec<(i64, Option<i64>)> =
            serde_json::from_str(&sagas).map_err(|e| RowsError::Corrupt(format!("a stored answer: {e}")))?;
        let sagas = sagas.into_iter().map(|(id, token)| (RowId(id), token.map(FencingToken))).collect();
        Ok(Some(StoredAnswer { digest, time, sagas }))
    }

    fn keep_answer(&mut self, id: &[u8; 16], answer: &StoredAnswer) -> Result<(), RowsError> {
        let sagas: Vec<(i64, Option<i64>)> =
            answer.sagas.iter().map(|(id, token)| (id.0, token.map(|token| token.0))).collect();
        let sagas = serde_json::to_string(&sagas).map_err(|e| RowsError::Broken(e.to_string()))?;
        let params = params![&id[..], &answer.digest[..], answer.time.micros(), sagas];
        self.execute(sql::KEEP_ANSWER, params).map(drop)
    }

    fn forget_answers(&mut self, before: Timestamp, limit: usize) -> Result<usize, RowsError> {
        self.execute(sql::FORGET_ANSWERS, params![before.micros(), limit])
    }

    fn knows_queue(&mut self, queue: &QueueName) -> Result<bool, RowsError> {
        Ok(self.queue(queue)?.is_some())
    }

    fn set_paused(&mut self, status: &QueueStatus) -> Result<(), RowsError> {
        self.queue_or_new(&status.queue)?;
        let params = params![
            status.queue.as_str(),
            status.paused,
            status.actor.as_ref().map(|actor| actor.as_str()),
            status.reason.as_str(),
            status.change_time.map(Timestamp::micros),
        ];
        self.execute(sql::SET_PAUSED, params).map(drop)
    }

    fn purgeable(&mut self, states: &[State], before: Timestamp, limit: usize) -> Result<Vec<RowId>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::PURGEABLE).map_err(rows_error)?;
        let mut found = Vec::new();
        // State by state, so that those of one which is kept for ever are not looked at each time.
        for state in states {
            let params = params![state.code(), before.micros(), limit];
            let of_state = statement.query_map(params, |row| Ok((row.get::<_, i64>(1)?, RowId(row.get(0)?))));
            let of_state = of_state.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(rows_error)?;
            found.extend(of_state);
        }
        found.sort_unstable();
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    fn count_events(&mut self, id: RowId) -> Result<usize, RowsError> {
        let newest = self.newest_of(id)?.unwrap_or_default();
        let count =
            |sql, params: &[i64]| self.number(sql, rusqlite::params_from_iter(params)).map(Option::unwrap_or_default);
        let all = count(sql::COUNT_EVENTS, &[newest.0, 0])? + count(sql::COUNT_OLD_EVENTS, &[id.0])?;
        Ok(usize::try_from(all).unwrap_or(usize::MAX))
    }

    fn remove(&mut self, id: RowId) -> Result<Removed, RowsError> {
        let newest = self.newest_of(id)?.unwrap_or_default();
        let (queue, state) = {
            let mut statement = self.connection().prepare_cached(sql::COUNTED_AS).map_err(rows_error)?;
            statement.query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?))).map_err(rows_error)?
        };
        self.tally.removed(queue, state);
        let events = self.execute(sql::REMOVE_EVENTS, [newest.0, 0])? + self.execute(sql::REMOVE_OLD_EVENTS, [id.0])?;
        let compensations = self.execute(sql::REMOVE_COMPENSATIONS, [id.0])?;
        for sql in [sql::REMOVE_ENDED, sql::REMOVE_SAGA] {
            self.execute(sql, [id.0])?;
        }
        self.execute(sql::RAISE_META, params!["row_floor", id.0])?;
        self.cache.forget(id);
        Ok(Removed { events, compensations, newest })
    }

    fn compact(&mut self, through: Revision) -> Result<(), RowsError> {
        self.execute(sql::RAISE_META, params!["compacted", through.0]).map(drop)
    }
}
