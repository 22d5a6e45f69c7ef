//! The reading connections: a pool, each `query_only`, each read one bounded snapshot.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use parking_lot::Mutex;
use r2d2::{ManageConnection, Pool};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::domain::{
    command::QueueStatus,
    event::Event,
    ids::{QueueName, Revision},
    saga::{Saga, State},
    text::{Actor, Text},
    time::Timestamp,
};

use super::{
    super::{
        EventQuery, ListQuery, Moment, QueueCounts, Reader, SagaKey, SagaPage, StoreError,
        query::Cursor,
        rows::{RowId, RowsError},
    },
    Beside, codec,
    codes::Coded,
    keep_plans,
    load::{compensations, events, find, json_array, rows_error},
    ready::{LookAtReady, Ready, count_ready},
    sql,
};

/// Most rows that one snapshot looks at, wanted or not: a few milliseconds, so that the log can be reused.
const ROWS_PER_SNAPSHOT: usize = 5000;
/// Pages that a backup copies at a time, and its pause between: about 100 MB/s at most.
const BACKUP_PAGES: i32 = 256;
const BACKUP_PAUSE: Duration = Duration::from_millis(10);
/// How long a read waits for a free connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);

/// Opens reading connections.
pub struct ReadConnections {
    path: PathBuf,
}

impl ManageConnection for ReadConnections {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> Result<Connection, rusqlite::Error> {
        // Read-write, since a reader of a WAL database may have to make its index; `query_only` keeps it from writing.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        keep_plans(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), rusqlite::Error> {
        connection.query_row("SELECT 1", [], |_| Ok(()))
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        // A read that ended within its transaction must not pin its snapshot.
        !connection.is_autocommit()
    }
}

/// SQLite as those who only look see it.
pub struct SqliteReader {
    pool: Pool<ReadConnections>,
    beside: Beside,
    ready: Mutex<Option<LookAtReady>>,
}

impl SqliteReader {
    /// A pool of `size` reading connections.
    pub fn open(path: PathBuf, size: usize, beside: Beside) -> Result<Self, r2d2::Error> {
        let pool = Pool::builder()
            .max_size(size as u32)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(CONNECTION_WAIT)
            .build(ReadConnections { path })?;
        Ok(SqliteReader { pool, beside, ready: Mutex::default() })
    }

    /// What is ready, by queue.
    fn ready(&self, connection: &Connection, now: Timestamp) -> Result<BTreeMap<i64, Ready>, RowsError> {
        let known = self.ready.lock().clone();
        if let Some(known) = known.filter(|known| known.holds_at(now)) {
            return Ok(known.by_queue);
        }
        let look = count_ready(connection, now)?;
        *self.ready.lock() = Some(look.clone());
        Ok(look.by_queue)
    }

    /// Looks at one snapshot.
    fn look<T>(&self, look: impl FnOnce(&Connection) -> Result<T, RowsError>) -> Result<T, StoreError> {
        let mut connection =
            self.pool.get().map_err(|e| StoreError::Unavailable(format!("no reading connection: {e}")))?;
        // Only now: the gate must not stay open for a read that still waits for its connection.
        let _open = self.beside.gate.read();
        let snapshot = connection.transaction().map_err(|e| read_error(rows_error(e)))?;
        look(&snapshot).map_err(read_error)
    }
}

fn read_error(error: RowsError) -> StoreError {
    match error {
        RowsError::Corrupt(what) => StoreError::Corrupt(what),
        RowsError::Full => StoreError::Unavailable("the disk is full".into()),
        RowsError::Broken(what) => StoreError::Unavailable(what),
    }
}

fn meta(connection: &Connection, key: &str) -> Result<i64, RowsError> {
    connection.prepare_cached(sql::META).and_then(|mut s| s.query_row([key], |row| row.get(0))).map_err(rows_error)
}

fn head(connection: &Connection) -> Result<Revision, RowsError> {
    let head = connection.prepare_cached(sql::HEAD).and_then(|mut s| s.query_row([], |row| row.get(0)));
    head.map(Revision).map_err(rows_error)
}

/// Whether the history can be read on from behind a revision.
fn check_position(connection: &Connection, after: Revision) -> Result<Result<(), StoreError>, RowsError> {
    let oldest = Revision(meta(connection, "compacted")?);
    if after < oldest {
        return Ok(Err(StoreError::Compacted { oldest }));
    }
    let in_gap = connection.prepare_cached(sql::GAP_AT).and_then(|mut s| s.exists([after.0]));
    let head = head(connection)?.max(oldest);
    if after > head || in_gap.map_err(rows_error)? {
        return Ok(Err(StoreError::UnknownRevision { head }));
    }
    Ok(Ok(()))
}

/// At most `limit` events behind `from`, and the revision up to which they were looked for.
fn stretch(
    connection: &Connection,
    query: &EventQuery,
    from: Revision,
    limit: usize,
) -> Result<(Vec<Event>, Revision), RowsError> {
    let queues = queue_filter(&query.queues);
    let through = query.through.0;
    if let Some(task_id) = &query.task_id {
        let params = params![task_id.as_str(), from.0, through, limit, query.marked_only, queues];
        let mut statement = connection.prepare_cached(sql::EVENTS_OF_TASK).map_err(rows_error)?;
        return Ok((events(&mut statement, params)?, query.through));
    }
    // A filter that wants little must not make one snapshot last.
    let end = connection
        .prepare_cached(sql::EVENTS_WINDOW)
        .and_then(|mut s| s.query_row(params![from.0, through, ROWS_PER_SNAPSHOT], |row| row.get(0)).optional());
    let end = end.map_err(rows_error)?.unwrap_or(through);
    let statement = if query.marked_only { sql::EVENTS_MARKED } else { sql::EVENTS };
    let mut statement = connection.prepare_cached(statement).map_err(rows_error)?;
    Ok((events(&mut statement, params![from.0, end, queues, limit])?, Revision(end)))
}

fn queue_filter(queues: &[QueueName]) -> Option<String> {
    if queues.is_empty() { None } else { Some(json_array(queues.iter().map(QueueName::as_str))) }
}

/// Reads sagas with their compensations.
fn sagas(
    connection: &Connection,
    statement: &'static str,
    params: impl rusqlite::Params,
) -> Result<Vec<(RowId, Saga)>, RowsError> {
    let mut statement = connection.prepare_cached(statement).map_err(rows_error)?;
    let mut rows = statement.query(params).map_err(rows_error)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(rows_error)? {
        let (id, mut saga, count) = codec::saga(row)?;
        if count > 0 {
            saga.compensations = compensations(connection, id)?;
        }
        found.push((id, saga));
    }
    Ok(found)
}

impl Reader for SqliteReader {
    fn get(&self, key: &SagaKey) -> Result<Option<Saga>, StoreError> {
        self.look(|connection| Ok(find(connection, key)?.map(|(_, saga)| saga)))
    }

    fn list(&self, query: &ListQuery) -> Result<SagaPage, StoreError> {
        let statement = match (query.filter.implies_in_flight(), query.newest_first) {
            (false, false) => sql::LIST,
            (false, true) => sql::LIST_NEWEST,
            (true, false) => sql::LIST_IN_FLIGHT,
            (true, true) => sql::LIST_IN_FLIGHT_NEWEST,
        };
        let start = query.after.map_or(if query.newest_first { i64::MAX } else { 0 }, |cursor| cursor.0);
        // One more than wanted tells whether more follows; a page that looked at its bound ends there.
        self.look(|connection| {
            let mut page = SagaPage::default();
            let mut statement = connection.prepare_cached(statement).map_err(rows_error)?;
            let mut rows = statement.query(params![start, ROWS_PER_SNAPSHOT]).map_err(rows_error)?;
            let (mut looked_at, mut last) = (0, None);
            while let Some(row) = rows.next().map_err(rows_error)? {
                if page.sagas.len() == query.limit {
                    page.next = last;
                    return Ok(page);
                }
                let (id, mut saga, count) = codec::saga(row)?;
                looked_at += 1;
                last = Some(Cursor(id.0));
                if query.filter.matches(&saga, &query.moment) {
                    if count > 0 {
                        saga.compensations = compensations(connection, id)?;
                    }
                    page.sagas.push((Cursor(id.0), saga));
                }
            }
            page.next = last.filter(|_| looked_at == ROWS_PER_SNAPSHOT);
            Ok(page)
        })
    }

    fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let (mut found, mut from) = (Vec::new(), query.after);
        loop {
            let (events, end) = self.look(|connection| {
                // In the same snapshot, each time: what was purged meanwhile must not be passed over in silence.
                if !query.whole
                    && let Err(gone) = check_position(connection, from)?
                {
                    return Ok(Err(gone));
                }
                stretch(connection, query, from, query.limit - found.len()).map(Ok)
            })??;
            found.extend(events);
            from = end;
            if found.len() >= query.limit || from >= query.through {
                return Ok(found);
            }
        }
    }

    fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError> {
        let found = self.look(|c| sagas(c, sql::ENDED, params![state.code(), before.micros(), limit]))?;
        Ok(found.into_iter().map(|(_, saga)| saga).collect())
    }

    fn stale(
        &self,
        queues: &[QueueName],
        after: Revision,
        through: Revision,
        limit: usize,
    ) -> Result<Vec<(Revision, Saga)>, StoreError> {
        let queues = queue_filter(queues);
        let found = self.look(|c| sagas(c, sql::STALE, params![after.0, through.0, queues, limit]))?;
        Ok(found.into_iter().filter_map(|(_, saga)| Some((saga.reported_stale()?, saga))).collect())
    }

    fn counts(&self, moment: &Moment) -> Result<Vec<QueueCounts>, StoreError> {
        // First what is in memory: every queue in it is then in the snapshot, too.
        let mut counted = self.beside.counts.lock().clone();
        self.look(|connection| {
            let ready = self.ready(connection, moment.now)?;
            let mut all = Vec::new();
            for (id, status) in queue_statuses(connection)? {
                let count = counted.remove(&id).unwrap_or_default();
                let ready = ready.get(&id).copied().unwrap_or_default();
                all.push(QueueCounts {
                    status,
                    states: count.states(),
                    ready: ready.sagas,
                    stale: count.stale(),
                    oldest_ready_age: ready.since.map(|since| moment.now.since(since)),
                });
            }
            Ok(all)
        })
    }

    fn queues(&self) -> Result<Vec<QueueStatus>, StoreError> {
        self.look(|connection| Ok(queue_statuses(connection)?.into_iter().map(|(_, status)| status).collect()))
    }

    fn backup(&self, path: &std::path::Path) -> Result<Revision, StoreError> {
        let unavailable = |error: rusqlite::Error| StoreError::Unavailable(format!("the backup failed: {error}"));
        let mut copy = Connection::open(path).map_err(unavailable)?;
        // Not through the gate, which would be open for as long as the copy takes. One snapshot, or the copy would begin
        // anew with each commit; the log grows meanwhile.
        let connection = self.pool.get().map_err(|e| StoreError::Unavailable(e.to_string()))?;
        {
            let snapshot = connection.unchecked_transaction().map_err(unavailable)?;
            // It begins with its first read; without one, each step of the copy would take a snapshot of its own.
            head(&snapshot).map_err(read_error)?;
            let backup = rusqlite::backup::Backup::new(&snapshot, &mut copy).map_err(unavailable)?;
            backup.run_to_completion(BACKUP_PAGES, BACKUP_PAUSE, None).map_err(unavailable)?;
        }
        head(&copy).map_err(read_error)
    }
}

/// All queues with their numbers.
fn queue_statuses(connection: &Connection) -> Result<Vec<(i64, QueueStatus)>, RowsError> {
    let corrupt = |e: crate::domain::ids::Malformed| RowsError::Corrupt(format!("a queue: {}", e.0));
    let mut statement = connection.prepare_cached(sql::QUEUES).map_err(rows_error)?;
    let mut rows = statement.query([]).map_err(rows_error)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(rows_error)? {
        let name: String = row.get(0).map_err(rows_error)?;
        let actor: Option<String> = row.get(2).map_err(rows_error)?;
        let reason: String = row.get(3).map_err(rows_error)?;
        let change_time: Option<i64> = row.get(4).map_err(rows_error)?;
        let status = QueueStatus {
            queue: QueueName::parse(&name).map_err(corrupt)?,
            paused: row.get(1).map_err(rows_error)?,
            actor: actor.map(|actor| Actor::parse(&actor)).transpose().map_err(corrupt)?,
            reason: Text::parse(&reason).map_err(corrupt)?,
            change_time: change_time.map(Timestamp::from_micros),
        };
        all.push((row.get(5).map_err(rows_error)?, status));
    }
    Ok(all)
}
