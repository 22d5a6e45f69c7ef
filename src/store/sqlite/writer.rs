//! [`SqliteWriter`]: the writing connection, with the loads and writes of a turn.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension};

use crate::{
    coordinator::{
        AppendedEvent, ContentBytes, DerivedFields, LoadKey, ReadyPosition, RemovalCounts, RowId, SagaChange,
        StoredAnswer,
    },
    domain::{
        command::QueueStatus,
        event::{Event, EventType},
        ids::{FencingToken, QueueName, Revision},
        lease::LeasePurpose,
        saga::{Saga, State},
        text::Blob,
        time::Timestamp,
    },
    metrics::LogMetrics,
};

use super::{
    super::{
        columns::codes::{Coded, expired_revision, ready_code},
        query::SagaKey,
    },
    checkpoint::Checkpoints,
    error::SqliteError,
    load::{self, events, sqlite_error},
    shrinker::Shrinker,
    sql,
    state_counts::StateCounts,
    statements::{Param, Statements, params},
    store_files::StoreFiles,
    values,
};

/// The reserved revisions.
#[derive(Clone, Copy, Debug)]
pub struct RevisionReservation {
    /// The next event's revision.
    pub next: Revision,
    /// Revisions from here on are not reserved.
    pub(super) end: Revision,
    /// From which next revision on more are reserved: half a block before the end.
    pub(super) more_at: Revision,
}

impl RevisionReservation {
    /// Nothing is reserved yet; the first commit reserves.
    pub fn none(next: Revision) -> Self {
        RevisionReservation { next, end: next, more_at: next }
    }
}

/// An opened store that is not yet bound to the writer thread.
pub struct OpenedSqliteWriter {
    pub(super) connection: Connection,
    pub(super) checkpoints: Checkpoints,
    pub(super) state_counts: StateCounts,
    pub(super) files: StoreFiles,
    pub(super) reservation: RevisionReservation,
}

impl OpenedSqliteWriter {
    /// The metrics of the log and its checkpoints.
    pub(in crate::store) fn log_metrics(&self) -> Arc<LogMetrics> {
        self.checkpoints.metrics()
    }

    /// Makes the writer for this thread. The first commit reserves revisions.
    pub fn into_writer(self) -> SqliteWriter {
        let OpenedSqliteWriter { connection, checkpoints, state_counts, files, reservation } = self;
        connection.set_prepared_statement_cache_capacity(64);
        SqliteWriter {
            statements: Statements::of(connection),
            checkpoints,
            queues: HashMap::new(),
            new_queues: Vec::new(),
            state_counts,
            shrinker: Shrinker::default(),
            files,
            reservation,
            is_full: false,
        }
    }
}

/// Writes a store in SQLite.
pub struct SqliteWriter {
    statements: Statements,
    checkpoints: Checkpoints,
    /// The numbers of stored queues, as far as they are known.
    queues: HashMap<QueueName, i64>,
    /// Queues added by this transaction; a rollback drops them.
    new_queues: Vec<QueueName>,
    state_counts: StateCounts,
    shrinker: Shrinker,
    files: StoreFiles,
    pub(super) reservation: RevisionReservation,
    /// A write found no room, and none has succeeded since.
    pub(super) is_full: bool,
}

impl SqliteWriter {
    pub(super) fn execute(&self, sql: &'static str, params: &[Param<'_>]) -> Result<usize, SqliteError> {
        self.statements.execute(sql, params).map_err(sqlite_error)
    }

    fn connection(&self) -> &Connection {
        self.statements.connection()
    }

    /// A queue's number, if it is stored.
    pub(super) fn queue(&mut self, name: &QueueName) -> Result<Option<i64>, SqliteError> {
        if let Some(id) = self.queues.get(name) {
            return Ok(Some(*id));
        }
        let found = self
            .connection()
            .prepare_cached(sql::QUEUE_ID)
            .and_then(|mut s| s.query_row([name.as_str()], |row| row.get::<_, i64>(0)).optional());
        let found = found.map_err(sqlite_error)?;
        if let Some(id) = found {
            self.queues.insert(name.clone(), id);
        }
        Ok(found)
    }

    fn queue_or_new(&mut self, name: &QueueName) -> Result<i64, SqliteError> {
        if let Some(id) = self.queue(name)? {
            return Ok(id);
        }
        self.execute(sql::INSERT_QUEUE, params![name.as_str()])?;
        let id = self.connection().last_insert_rowid();
        self.queues.insert(name.clone(), id);
        self.new_queues.push(name.clone());
        Ok(id)
    }

    /// The number of a stored saga's queue.
    fn queue_of(&mut self, id: RowId, saga: &Saga) -> Result<i64, SqliteError> {
        let found = self.queue(&saga.spec.queue)?;
        found.ok_or_else(|| SqliteError::Corrupt(format!("row {}: its queue {} is not there", id.0, saga.spec.queue)))
    }

    /// Reads one number with a statement.
    fn number(&self, sql: &'static str, params: impl rusqlite::Params) -> Result<Option<i64>, SqliteError> {
        let found =
            self.connection().prepare_cached(sql).and_then(|mut s| s.query_row(params, |row| row.get(0)).optional());
        found.map_err(sqlite_error)
    }

    fn newest_of(&self, id: RowId) -> Result<Option<Revision>, SqliteError> {
        Ok(self.number(sql::NEWEST_OF_ROW, [id.0])?.map(Revision))
    }

    fn is_ready_as_stored(&self, id: RowId, known: Option<DerivedFields>) -> bool {
        known.is_none_or(|known| self.number(sql::READY_OF_ROW, [id.0]) == Ok(Some(ready_code(known.ready))))
    }

    /// Writes a change of a saga that stays in flight.
    fn update_in_flight(&self, change: &SagaChange, before: &Saga, after: &Saga) -> Result<(), SqliteError> {
        let SagaChange { id, derived, derived_before, .. } = change;
        debug_assert!(self.is_ready_as_stored(*id, *derived_before), "what is kept beside a saga is what is stored");
        // The same revision means a heartbeat: only the lease's columns and the progress are written. What else a heartbeat may
        // come to change has to be compared here.
        if before.revision == after.revision && before.lease != after.lease {
            self.update_lease(*id, after, derived)?;
        } else {
            let is_ready_as_before = derived_before.is_some_and(|stored| stored.ready == derived.ready);
            let indexed = !is_ready_as_before || expired_revision(before) != expired_revision(after);
            self.update_work(*id, after, derived, indexed)?;
            self.put_compensations(*id, &before.compensations, &after.compensations)?;
        }
        if before.progress != after.progress {
            self.execute(sql::UPDATE_PROGRESS, params![id.0, &after.progress.bytes()[..]])?;
        }
        if before.result != after.result {
            self.execute(sql::UPDATE_RESULT, params![id.0, &after.result.bytes()[..]])?;
        }
        Ok(())
    }
}

impl SqliteWriter {
    /// Begins a transaction, unless one is open.
    pub(super) fn begin(&mut self) -> Result<(), SqliteError> {
        if !self.connection().is_autocommit() {
            return Ok(());
        }
        self.state_counts.begin();
        self.execute("BEGIN IMMEDIATE", &[]).map(drop)
    }

    /// Makes the transaction durable.
    pub(super) fn end(&mut self) -> Result<(), SqliteError> {
        self.state_counts.store_if_due(self.statements.connection())?;
        self.execute("COMMIT", &[])?;
        self.state_counts.commit();
        self.new_queues.clear();
        // Checked after the commit, so that nothing is acknowledged that was written to a file which is gone.
        self.files.are_in_place()
    }

    /// Turns a refused write into `Full` if the disk lacks room, else into `Broken`.
    pub(super) fn judge(&self, error: SqliteError) -> SqliteError {
        match error {
            SqliteError::Unwritten(what) if !self.files.lack_room() => SqliteError::Broken(what),
            SqliteError::Unwritten(_) => SqliteError::Full,
            SqliteError::Full | SqliteError::Corrupt(_) | SqliteError::Broken(_) | SqliteError::Gone(_) => error,
        }
    }

    /// Rolls back the transaction.
    pub(super) fn rollback(&mut self) -> Result<(), SqliteError> {
        self.state_counts.rollback();
        for queue in self.new_queues.drain(..) {
            self.queues.remove(&queue);
        }
        // Some errors, such as a full disk, have rolled it back already.
        if self.connection().is_autocommit() { Ok(()) } else { self.execute("ROLLBACK", &[]).map(drop) }
    }

    /// Ends a transaction that has written nothing.
    pub(super) fn end_read(&mut self) -> Result<(), SqliteError> {
        if self.connection().is_autocommit() { Ok(()) } else { self.execute("COMMIT", &[]).map(drop) }
    }

    pub(super) fn keep_bounded(&mut self, idle: bool) -> Result<(), SqliteError> {
        // Checked here too, so that an idle store notices it.
        self.files.are_in_place()?;
        self.checkpoints.keep_bounded(self.statements.connection(), idle)
    }

    pub(super) fn give_back(&mut self) -> Result<bool, SqliteError> {
        // Not while a long read keeps the log from being restarted, which would make it grow. The check may be slow,
        // so it runs only now and then.
        match self.checkpoints.is_held(self.statements.connection()) {
            Ok(false) => {}
            Ok(true) | Err(SqliteError::Full) => return Ok(false),
            Err(other) => return Err(other),
        }
        match self.shrinker.step(self.statements.connection()).map_err(|error| self.judge(error)) {
            Err(SqliteError::Full) => Ok(false),
            done => done,
        }
    }

    pub(super) fn raise_floor(&mut self, through: Revision) -> Result<bool, SqliteError> {
        self.execute(sql::RAISE_META, params!["revision_floor", through.0])?;
        self.checkpoints.restart(self.statements.connection())
    }

    pub(super) fn end_in_order(&mut self, next: Revision, now: Timestamp) -> Result<(), SqliteError> {
        self.begin()?;
        self.execute(sql::RAISE_META, params!["last_time", now.micros()])?;
        self.execute(sql::SET_META, params!["revision_floor", next.0])?;
        self.state_counts.store(self.statements.connection())?;
        self.end()?;
        self.checkpoints.restart(self.statements.connection()).map(drop)
    }

    pub(super) fn load_one(&self, key: &LoadKey) -> Result<Option<(RowId, Saga)>, SqliteError> {
        let connection = self.statements.connection();
        match key {
            LoadKey::Task(id) => load::find(connection, &SagaKey::Task(id.clone())),
            LoadKey::Saga(id) => load::find(connection, &SagaKey::Saga(id.clone())),
            LoadKey::Row(id) => load::one_saga(connection, sql::SAGA_BY_ROW, id.0),
        }
    }

    pub(super) fn brief(&self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, SqliteError> {
        load::brief_saga(self.statements.connection(), id, compensations)
    }

    pub(super) fn stored_payload(&self, id: RowId) -> Result<Option<Blob>, SqliteError> {
        let mut statement = self.connection().prepare_cached(sql::PAYLOAD_BY_ROW).map_err(sqlite_error)?;
        let found = statement.query_row([id.0], |row| row.get::<_, Vec<u8>>(0)).optional().map_err(sqlite_error)?;
        let parsed = found.map(|payload| Blob::parse(payload.into())).transpose();
        parsed.map_err(|e| SqliteError::Corrupt(format!("row {}, column payload: {}", id.0, e.0)))
    }

    /// Adds a saga as it is at the end of the turn that created it.
    pub(super) fn insert(&mut self, id: RowId, saga: &Saga, derived: &DerivedFields) -> Result<(), SqliteError> {
        let queue = self.queue_or_new(&saga.spec.queue)?;
        self.insert_saga(id, queue, &saga.spec)?;
        if saga.state.is_terminal() {
            self.put_ended(id, queue, saga)?;
        } else {
            self.insert_work(id, queue, saga, derived)?;
        }
        self.put_compensations(id, &[], &saga.compensations)?;
        self.state_counts.added(queue, saga);
        Ok(())
    }

    pub(super) fn update(&mut self, change: &SagaChange, before: &Saga, after: &Saga) -> Result<(), SqliteError> {
        let id = change.id;
        match (before.state.is_terminal(), after.state.is_terminal()) {
            (false, false) => self.update_in_flight(change, before, after)?,
            (was_ended, is_ended) => {
                let queue = self.queue_of(id, after)?;
                match (was_ended, is_ended) {
                    (_, true) => {
                        self.remove_one(id, if was_ended { sql::REMOVE_ENDED } else { sql::REMOVE_WORK })?;
                        self.put_ended(id, queue, after)?;
                    }
                    // No rule allows this, but the store doesn't check rules.
                    (_, false) => {
                        self.remove_one(id, sql::REMOVE_ENDED)?;
                        self.insert_work(id, queue, after, &change.derived)?;
                    }
                }
                self.put_compensations(id, &before.compensations, &after.compensations)?;
            }
        }
        if StateCounts::is_moved(before, after)
            && let Some(queue) = self.queue(&after.spec.queue)?
        {
            self.state_counts.moved(queue, before, after);
        }
        Ok(())
    }

    pub(super) fn append(&mut self, appended: &AppendedEvent) -> Result<(), SqliteError> {
        self.state_counts.told(appended.event.revision);
        self.insert_event(appended.saga, &appended.event, appended.prev)
    }

    pub(super) fn lease_ends(&self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, SqliteError> {
        let mut statement = self.connection().prepare_cached(sql::EVENT_OF_SAGA).map_err(sqlite_error)?;
        let mut found = events(&mut statement, [id.0, token.0])?;
        let tried = EventType::CompensationSettled.code();
        let mut next = self.newest_of(id)?.map(|revision| revision.0);
        let mut ends = self.connection().prepare_cached(sql::ENDS_LEASE).map_err(sqlite_error)?;
        let mut left = newest;
        let mut ended = None;
        while left > 0
            && ended.is_none()
            && let Some(revision) = next.filter(|revision| *revision > token.0)
        {
            let looked =
                ends.query_row([revision, id.0, token.0, tried], |row| Ok((row.get(0)?, row.get(1)?))).optional();
            let Some((prev, ends)) = looked.map_err(sqlite_error)? else {
                // The older events are in the old history.
                ended = self.number(sql::ENDS_LEASE_OLD, rusqlite::params![id.0, token.0, left, tried])?;
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

    pub(super) fn ready_behind(
        &self,
        purpose: LeasePurpose,
        queue: i64,
        (priority, after): (i32, RowId),
        limit: usize,
    ) -> Result<Vec<ReadyPosition>, SqliteError> {
        let mut statement = self.connection().prepare_cached(sql::READY).map_err(sqlite_error)?;
        let found = statement
            .query_map(rusqlite::params![purpose.code(), queue, priority, after.0, limit], |row| {
                Ok((Reverse(values::column(row, 1)?), values::column(row, 0)?))
            })
            .and_then(Iterator::collect);
        found.map_err(sqlite_error)
    }

    pub(super) fn answer(&self, id: &[u8; 16]) -> Result<Option<StoredAnswer>, SqliteError> {
        let mut statement = self.connection().prepare_cached(sql::ANSWER).map_err(sqlite_error)?;
        let found = statement
            .query_row([&id[..]], |row| {
                Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, Timestamp>(1)?, row.get::<_, String>(2)?))
            })
            .optional()
            .map_err(sqlite_error)?;
        let Some((digest, time, sagas)) = found else { return Ok(None) };
        let sagas: Vec<(i64, Option<i64>)> =
            serde_json::from_str(&sagas).map_err(|e| SqliteError::Corrupt(format!("a stored answer: {e}")))?;
        let sagas = sagas.into_iter().map(|(id, token)| (RowId(id), token.map(FencingToken))).collect();
        Ok(Some(StoredAnswer { digest, time, sagas }))
    }

    pub(super) fn keep_answer(&self, id: &[u8; 16], answer: &StoredAnswer) -> Result<(), SqliteError> {
        let sagas: Vec<(i64, Option<i64>)> =
            answer.sagas.iter().map(|(id, token)| (id.0, token.map(|token| token.0))).collect();
        let sagas = serde_json::to_string(&sagas).map_err(|e| SqliteError::Broken(e.to_string()))?;
        let params = params![&id[..], &answer.digest[..], answer.time.micros(), sagas.as_str()];
        self.execute(sql::KEEP_ANSWER, params).map(drop)
    }

    pub(super) fn forget_answers(&self, before: Timestamp, limit: usize) -> Result<(), SqliteError> {
        self.execute(sql::FORGET_ANSWERS, params![before.micros(), limit]).map(drop)
    }

    pub(super) fn set_paused(&mut self, status: &QueueStatus) -> Result<(), SqliteError> {
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
    ) -> Result<Vec<(Timestamp, RowId)>, SqliteError> {
        let mut statement = self.connection().prepare_cached(sql::PURGEABLE).map_err(sqlite_error)?;
        let mut found = Vec::new();
        // One query per state, so that sagas of a state that is kept for ever are not scanned each time.
        for state in states {
            let params = rusqlite::params![state.code(), before.micros(), limit];
            let of_state = statement.query_map(params, |row| Ok((row.get(1)?, RowId(row.get(0)?))));
            let of_state = of_state.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(sqlite_error)?;
            found.extend(of_state);
        }
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    pub(super) fn weigh_one(&self, id: RowId) -> Result<RemovalCounts, SqliteError> {
        let newest = self.newest_of(id)?.unwrap_or_default();
        let count = |sql, params: &[i64]| self.number(sql, rusqlite::params_from_iter(params));
        let of_chain = count(sql::COUNT_EVENTS, &[newest.0, 0])?;
        let (older, compensations) =
            (count(sql::COUNT_OLD_EVENTS, &[id.0])?, count(sql::COUNT_COMPENSATIONS, &[id.0])?);
        let size = |count: Option<i64>| usize::try_from(count.unwrap_or_default()).unwrap_or(usize::MAX);
        Ok(RemovalCounts { events: size(of_chain) + size(older), compensations: size(compensations), newest })
    }

    pub(super) fn remove(&mut self, id: RowId) -> Result<(), SqliteError> {
        let newest = self.newest_of(id)?.unwrap_or_default();
        let (queue, state) = {
            let mut statement = self.connection().prepare_cached(sql::COUNTED_AS).map_err(sqlite_error)?;
            statement.query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sqlite_error)?
        };
        self.state_counts.removed(queue, state);
        self.execute(sql::REMOVE_EVENTS, params![newest.0, 0])?;
        for sql in [sql::REMOVE_OLD_EVENTS, sql::REMOVE_COMPENSATIONS, sql::REMOVE_ENDED, sql::REMOVE_SAGA] {
            self.execute(sql, params![id.0])?;
        }
        self.execute(sql::RAISE_META, params!["row_floor", id.0]).map(drop)
    }

    pub(super) fn compact(&self, through: Revision) -> Result<(), SqliteError> {
        self.execute(sql::RAISE_META, params!["compacted", through.0]).map(drop)
    }
}
