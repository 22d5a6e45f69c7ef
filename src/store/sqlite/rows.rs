//! The writing connection: what the engine loads and writes.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    coordinator::Key,
    domain::{
        command::QueueStatus,
        event::{Event, EventType},
        ids::{FencingToken, QueueName, Revision},
        lease::LeasePurpose,
        saga::{Saga, State},
        text::Blob,
        time::Timestamp,
    },
};

use super::{
    super::{
        query::SagaKey,
        rows::{Candidate, ContentBytes, Derived, Removed, RowId, RowsError, StoredAnswer},
        vitals::LogMeter,
    },
    checkpoint::Checkpoints,
    codec,
    codes::Coded,
    counts::Tally,
    files::Files,
    load::{self, events, rows_error},
    shrink::Shrinking,
    sql,
    statements::Statements,
    write::is_as_created,
};

/// A store that has been opened, not yet bound to the thread that writes.
pub struct OpenedRows {
    pub(super) connection: Connection,
    pub(super) checkpoints: Checkpoints,
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
        let OpenedRows { connection, checkpoints, tally, files } = self;
        connection.set_prepared_statement_cache_capacity(64);
        SqliteRows {
            statements: Statements::of(connection),
            checkpoints,
            queues: HashMap::new(),
            new_queues: Vec::new(),
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
    /// The numbers of queues that are known to be stored.
    queues: HashMap<QueueName, i64>,
    /// Those stored in this transaction, which a rollback forgets.
    new_queues: Vec<QueueName>,
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

    /// A queue's number, if it is stored.
    pub(super) fn queue(&mut self, name: &QueueName) -> Result<Option<i64>, RowsError> {
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
}

impl SqliteRows {
    /// Begins a transaction, unless one is open.
    pub(super) fn begin(&mut self) -> Result<(), RowsError> {
        if !self.connection().is_autocommit() {
            return Ok(());
        }
        self.tally.begin();
        self.execute("BEGIN IMMEDIATE", []).map(drop)
    }

    /// Makes the transaction durable.
    pub(super) fn end(&mut self) -> Result<(), RowsError> {
        self.tally.store_if_due(self.statements.connection())?;
        self.execute("COMMIT", [])?;
        self.tally.commit();
        self.new_queues.clear();
        // Behind the commit, so that nothing is acknowledged that was written to a file which is gone.
        self.files.are_in_place()
    }

    /// Whether a write that the system refused, if that is what the error is about, was refused for lack of room.
    pub(super) fn judge(&self, error: RowsError) -> RowsError {
        match error {
            RowsError::Unwritten(what) if !self.files.lack_room() => RowsError::Broken(what),
            RowsError::Unwritten(_) => RowsError::Full,
            RowsError::Full | RowsError::Corrupt(_) | RowsError::Broken(_) | RowsError::Gone(_) => error,
        }
    }

    /// Undoes the transaction.
    pub(super) fn rollback(&mut self) -> Result<(), RowsError> {
        self.tally.rollback();
        for queue in self.new_queues.drain(..) {
            self.queues.remove(&queue);
        }
        // Some errors, a full disk among them, have rolled it back already.
        if self.connection().is_autocommit() { Ok(()) } else { self.execute("ROLLBACK", []).map(drop) }
    }

    /// Ends a transaction in which nothing was written.
    pub(super) fn let_go(&mut self) -> Result<(), RowsError> {
        if self.connection().is_autocommit() { Ok(()) } else { self.execute("COMMIT", []).map(drop) }
    }

    pub(super) fn keep_bounded(&mut self, idle: bool) -> Result<(), RowsError> {
        // An idle store notices it, too.
        self.files.are_in_place()?;
        self.checkpoints.keep_bounded(self.statements.connection(), idle)
    }

    pub(super) fn give_back(&mut self) -> Result<bool, RowsError> {
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

    pub(super) fn raise_floor(&mut self, through: Revision) -> Result<bool, RowsError> {
        self.execute(sql::RAISE_META, params!["revision_floor", through.0])?;
        self.checkpoints.restart(self.statements.connection())
    }

    pub(super) fn end_in_order(&mut self, next: Revision, now: Timestamp) -> Result<(), RowsError> {
        self.begin()?;
        self.execute(sql::RAISE_META, params!["last_time", now.micros()])?;
        self.execute(sql::SET_META, params!["revision_floor", next.0])?;
        self.tally.store(self.statements.connection())?;
        self.end()?;
        self.checkpoints.restart(self.statements.connection()).map(drop)
    }

    pub(super) fn load_one(&self, key: &Key) -> Result<Option<(RowId, Saga)>, RowsError> {
        let connection = self.statements.connection();
        match key {
            Key::Task(id) => load::find(connection, &SagaKey::Task(id.clone())),
            Key::Saga(id) => load::find(connection, &SagaKey::Saga(id.clone())),
            Key::Place(id) => load::one_saga(connection, sql::SAGA_BY_ROW, id.0),
        }
    }

    pub(super) fn brief(&self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, RowsError> {
        load::brief_saga(self.statements.connection(), id, compensations)
    }

    pub(super) fn stored_payload(&self, id: RowId) -> Result<Option<Blob>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::PAYLOAD_BY_ROW).map_err(rows_error)?;
        let found = statement.query_row([id.0], |row| row.get::<_, Vec<u8>>(0)).optional().map_err(rows_error)?;
        let parsed = found.map(|payload| Blob::parse(payload.into())).transpose();
        parsed.map_err(|e| RowsError::Corrupt(format!("row {}, column payload: {}", id.0, e.0)))
    }

    pub(super) fn insert(&mut self, id: RowId, saga: &Saga, derived: &Derived) -> Result<(), RowsError> {
        let queue = self.queue_or_new(&saga.spec.queue)?;
        self.insert_saga(id, queue, &saga.spec)?;
        self.insert_work(id, queue, saga, derived)?;
        // What happened to it in the turn that created it.
        if !is_as_created(saga) {
            self.update_work(id, saga, derived)?;
            self.put_contents(id, (&Blob::default(), &Blob::default()), saga)?;
        }
        self.put_compensations(id, &[], &saga.compensations)?;
        self.tally.added(queue, saga);
        Ok(())
    }

    pub(super) fn update(
        &mut self,
        id: RowId,
        before: &Saga,
        after: &Saga,
        derived: &Derived,
    ) -> Result<(), RowsError> {
        // Only heartbeats leave the revision as it is, and they neither begin nor end anything.
        if before.revision == after.revision && before.lease != after.lease {
            self.update_lease(id, after, derived)?;
        } else {
            self.update_work(id, after, derived)?;
            self.put_compensations(id, &before.compensations, &after.compensations)?;
        }
        self.put_contents(id, (&before.progress, &before.result), after)?;
        if Tally::is_moved(before, after)
            && let Some(queue) = self.queue(&after.spec.queue)?
        {
            self.tally.moved(queue, before, after);
        }
        Ok(())
    }

    pub(super) fn append(&mut self, id: RowId, event: &Event) -> Result<(), RowsError> {
        self.tally.told(event.revision);
        self.insert_event(id, event)
    }

    pub(super) fn lease_ends(&self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::EVENT_OF_SAGA).map_err(rows_error)?;
        let mut found = events(&mut statement, [id.0, token.0])?;
        let mut statement = self.connection().prepare_cached(sql::LEASE_ENDED_BY_HOLDER).map_err(rows_error)?;
        let tried = EventType::CompensationSettled.code();
        found.extend(events(&mut statement, params![id.0, token.0, newest, tried])?);
        Ok(found)
    }

    pub(super) fn ready_behind(
        &self,
        purpose: LeasePurpose,
        queue: i64,
        (priority, after): (i32, RowId),
        limit: usize,
    ) -> Result<Vec<Candidate>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::READY).map_err(rows_error)?;
        let found = statement
            .query_map(params![purpose.code(), queue, priority, after.0, limit], |row| {
                Ok(Candidate { priority: codec::column(row, 1)?, id: codec::column(row, 0)? })
            })
            .and_then(Iterator::collect);
        found.map_err(rows_error)
    }

    pub(super) fn answer(&self, id: &[u8; 16]) -> Result<Option<StoredAnswer>, RowsError> {
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

    pub(super) fn keep_answer(&self, id: &[u8; 16], answer: &StoredAnswer) -> Result<(), RowsError> {
        let sagas: Vec<(i64, Option<i64>)> =
            answer.sagas.iter().map(|(id, token)| (id.0, token.map(|token| token.0))).collect();
        let sagas = serde_json::to_string(&sagas).map_err(|e| RowsError::Broken(e.to_string()))?;
        let params = params![&id[..], &answer.digest[..], answer.time.micros(), sagas];
        self.execute(sql::KEEP_ANSWER, params).map(drop)
    }

    pub(super) fn forget_answers(&self, before: Timestamp, limit: usize) -> Result<(), RowsError> {
        self.execute(sql::FORGET_ANSWERS, params![before.micros(), limit]).map(drop)
    }

    pub(super) fn set_paused(&mut self, status: &QueueStatus) -> Result<(), RowsError> {
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

    pub(super) fn purgeable(
        &self,
        states: &[State],
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RowId)>, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::PURGEABLE).map_err(rows_error)?;
        let mut found = Vec::new();
        // State by state, so that those of one which is kept for ever are not looked at each time.
        for state in states {
            let params = params![state.code(), before.micros(), limit];
            let of_state = statement.query_map(params, |row| Ok((row.get(1)?, RowId(row.get(0)?))));
            let of_state = of_state.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(rows_error)?;
            found.extend(of_state);
        }
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    pub(super) fn weigh_one(&self, id: RowId) -> Result<Removed, RowsError> {
        let mut statement = self.connection().prepare_cached(sql::WEIGHED).map_err(rows_error)?;
        let weighed = statement.query_row([id.0], |row| {
            Ok(Removed { events: row.get(0)?, newest: Revision(row.get(1)?), compensations: row.get(2)? })
        });
        weighed.map_err(rows_error)
    }

    pub(super) fn remove(&mut self, id: RowId) -> Result<(), RowsError> {
        let (queue, state) = {
            let mut statement = self.connection().prepare_cached(sql::COUNTED_AS).map_err(rows_error)?;
            statement.query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?))).map_err(rows_error)?
        };
        self.tally.removed(queue, state);
        for sql in [sql::REMOVE_EVENTS, sql::REMOVE_COMPENSATIONS, sql::REMOVE_WORK, sql::REMOVE_SAGA] {
            self.execute(sql, [id.0])?;
        }
        self.execute(sql::RAISE_META, params!["row_floor", id.0]).map(drop)
    }

    pub(super) fn compact(&self, through: Revision) -> Result<(), RowsError> {
        self.execute(sql::RAISE_META, params!["compacted", through.0]).map(drop)
    }
}
