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
    cache::SagaCache,
    checkpoint::Checkpoints,
    codec,
    codes::Coded,
    counts::Tally,
    files::Files,
    load::{self, events, rows_error},
    shrink::Shrinking,
    sql,
    statements::Statements,
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
            self.cache.keep(*id, saga);
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
            return Ok(Some(saga));
        }
        let read = self.read(id)?;
        if let Some(saga) = &read {
            self.cache.keep(id, saga);
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
        self.cache.keep(id, saga);
        Ok(id)
    }

    fn update(&mut self, id: RowId, before: &Saga, after: &Saga, derived: &Derived) -> Result<(), RowsError> {
        // Only heartbeats leave the revision as it is, and they neither begin nor end anything.
        if before.revision == after.revision && before.lease != after.lease {
            self.update_lease(id, after, derived)?;
        } else {
            self.update_work(id, after, derived)?;
            self.put_compensations(id, &before.compensations, &after.compensations)?;
        }
        if before.progress != after.progress {
            self.execute(sql::UPDATE_PROGRESS, params![id.0, &after.progress.bytes()[..]])?;
        }
        if before.result != after.result {
            self.execute(sql::UPDATE_RESULT, params![id.0, &after.result.bytes()[..]])?;
        }
        if Tally::is_moved(before, after)
            && let Some(queue) = self.queue(&after.spec.queue)?
        {
            self.tally.moved(queue, before, after);
        }
        self.cache.keep(id, after);
        Ok(())
    }

    fn append(&mut self, id: RowId, event: &Event) -> Result<(), RowsError> {
        self.tally.told(event.revision);
        self.insert_event(id, event)
    }

    fn ends_of_lease(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::EVENT_OF_SAGA).map_err(rows_error)?;
        let mut found = events(&mut statement, [id.0, token.0])?;
        let mut statement = self.connection().prepare_cached(sql::LEASE_ENDED_BY_HOLDER).map_err(rows_error)?;
        let tried = EventType::CompensationSettled.code();
        found.extend(events(&mut statement, params![id.0, token.0, newest, tried])?);
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
        let mut statement = self.connection().prepare_cached(sql::COUNT_EVENTS).map_err(rows_error)?;
        statement.query_row([id.0], |row| row.get(0)).map_err(rows_error)
    }

    fn remove(&mut self, id: RowId) -> Result<Removed, RowsError> {
        let newest = {
            let mut statement = self.connection().prepare_cached(sql::COUNT_EVENTS).map_err(rows_error)?;
            statement.query_row([id.0], |row| row.get(1).map(Revision)).map_err(rows_error)?
        };
        let (queue, state) = {
            let mut statement = self.connection().prepare_cached(sql::COUNTED_AS).map_err(rows_error)?;
            statement.query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?))).map_err(rows_error)?
        };
        self.tally.removed(queue, state);
        let events = self.execute(sql::REMOVE_EVENTS, [id.0])?;
        let compensations = self.execute(sql::REMOVE_COMPENSATIONS, [id.0])?;
        for sql in [sql::REMOVE_WORK, sql::REMOVE_SAGA] {
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
