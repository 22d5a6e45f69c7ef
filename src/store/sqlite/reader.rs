//! [`SqliteReader`]: a pool of `query_only` connections; each read is one bounded snapshot.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use parking_lot::Mutex;
use r2d2::{ManageConnection, Pool};
use rusqlite::{Connection, OptionalExtension, params};

use crate::private_files;
use crate::{
    coordinator::{RowId, encoded_size},
    domain::{
        bounds::ANSWER_BYTES,
        command::QueueStatus,
        event::Event,
        ids::{QueueName, Revision, TaskId},
        saga::{Saga, State},
        text::{Actor, Text},
        time::Timestamp,
    },
};

use super::{
    super::{
        EventQuery, ListQuery, PageBounds, QueueStats, ReadTime, Reader, SagaKey, SagaPage, ScanPage, StoreError,
        columns::{codes::Coded, decode},
        query::Cursor,
        ready_snapshot::{ReadyCount, ReadySnapshot},
    },
    checkpoint::ReadLock,
    connection::{self, keep_query_plans},
    error::SqliteError,
    history,
    load::{compensations, events, find, json_array, meta},
    ready_counts::count_ready,
    sql,
    state_counts::SharedCounts,
    values,
};

/// Most rows that one snapshot scans, matching or not: a few milliseconds, so that the log can be restarted.
const ROWS_PER_SNAPSHOT: usize = 5000;
/// Pages that a backup copies at a time, and the pause after them: at most about 100 MB/s.
const BACKUP_PAGES: i32 = 256;
const BACKUP_PAUSE: Duration = Duration::from_millis(10);
/// How long a read waits for a free connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);

/// What the readers share with the writer, besides the file.
#[derive(Clone)]
pub struct ReaderShared {
    pub(super) read_lock: ReadLock,
    pub(super) counts: SharedCounts,
}

/// Opens the reading connections of the pool.
pub struct ReadConnections {
    path: PathBuf,
}

impl ManageConnection for ReadConnections {
    type Connection = Connection;
    type Error = rusqlite::Error;

    fn connect(&self) -> Result<Connection, rusqlite::Error> {
        // Opened read-write, since a reader of a WAL database may have to create its index; `query_only` keeps it from
        // writing.
        let connection = connection::open(&self.path)?;
        keep_query_plans(&connection)?;
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
        // A connection that is still in a transaction must not keep its snapshot.
        !connection.is_autocommit()
    }
}

/// Reads a store in SQLite.
pub struct SqliteReader {
    pool: Pool<ReadConnections>,
    /// Backups have connections of their own, since they would occupy one of the pool for minutes.
    backups: ReadConnections,
    shared: ReaderShared,
    ready: Mutex<Option<ReadySnapshot>>,
}

impl SqliteReader {
    /// A pool of `size` reading connections.
    pub fn open(path: PathBuf, size: usize, shared: ReaderShared) -> Result<Self, r2d2::Error> {
        let backups = ReadConnections { path: path.clone() };
        let pool = Pool::builder()
            .max_size(size as u32)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(CONNECTION_WAIT)
            .build(ReadConnections { path })?;
        Ok(SqliteReader { pool, backups, shared, ready: Mutex::default() })
    }

    /// The ready sagas, counted by queue.
    fn ready(&self, connection: &Connection, now: Timestamp) -> Result<BTreeMap<i64, ReadyCount>, SqliteError> {
        let known = self.ready.lock().clone();
        if let Some(known) = known.filter(|known| known.holds_at(now)) {
            return Ok(known.by_queue);
        }
        let look = count_ready(connection, now)?;
        *self.ready.lock() = Some(look.clone());
        Ok(look.by_queue)
    }

    /// Reads from one snapshot.
    fn look<T>(&self, look: impl FnOnce(&Connection) -> Result<T, SqliteError>) -> Result<T, StoreError> {
        let mut connection =
            self.pool.get().map_err(|e| StoreError::Unavailable(format!("no reading connection: {e}")))?;
        // Taken only now: a read that still waits for a connection must not hold the lock.
        let _open = self.shared.read_lock.read();
        let snapshot = connection.transaction().map_err(|e| read_error(e.into()))?;
        look(&snapshot).map_err(read_error)
    }
}

fn read_error(error: SqliteError) -> StoreError {
    match error {
        SqliteError::Corrupt(what) => StoreError::Corrupt(what),
        SqliteError::Full => StoreError::Unavailable("the disk is full".into()),
        SqliteError::Broken(what) | SqliteError::Unwritten(what) | SqliteError::Gone(what) => {
            StoreError::Unavailable(what)
        }
    }
}

fn head(connection: &Connection) -> Result<Revision, SqliteError> {
    Ok(connection.prepare_cached(sql::HEAD)?.query_row([], |row| row.get(0))?)
}

/// Checks that the history can be read from a revision on.
fn check_position(connection: &Connection, after: Revision) -> Result<Result<(), StoreError>, SqliteError> {
    let oldest: Revision = meta(connection, "compacted")?;
    if after < oldest {
        return Ok(Err(StoreError::Compacted { oldest }));
    }
    let in_gap = connection.prepare_cached(sql::GAP_AT).and_then(|mut s| s.exists([after.0]));
    let head = head(connection)?.max(oldest);
    if after > head || in_gap? {
        return Ok(Err(StoreError::UnknownRevision { head }));
    }
    Ok(Ok(()))
}

/// The matching events of a bounded part of the history.
fn stretch(connection: &Connection, query: &EventQuery) -> Result<ScanPage<Event>, SqliteError> {
    let queues = queue_filter(&query.queues);
    let (after, limit) = (query.after.0, query.limit);
    if let Some(task_id) = &query.task_id {
        return of_task(connection, task_id, query);
    }
    let (statement, of_window) = if query.marked_only {
        (sql::EVENTS_MARKED, sql::EVENTS_MARKED_WINDOW)
    } else {
        (sql::EVENTS, sql::EVENTS_WINDOW)
    };
    let through = if queues.is_some() {
        window(connection, of_window, params![after, query.through.0, ROWS_PER_SNAPSHOT], query.through)?
    } else {
        query.through
    };
    let mut statement = connection.prepare_cached(statement)?;
    let found = events(&mut statement, params![after, through.0, queues, limit])?;
    Ok(ScanPage::of_events(found, limit, through))
}

/// Like [`stretch`], for the history of one saga.
fn of_task(connection: &Connection, task_id: &TaskId, query: &EventQuery) -> Result<ScanPage<Event>, SqliteError> {
    let mut statement = connection.prepare_cached(sql::PLACE_OF_TASK)?;
    let place = statement.query_row([task_id.as_str()], |row| Ok((RowId(row.get(0)?), Revision(row.get(1)?))));
    let Some((id, newest)) = place.optional()? else {
        return Ok(ScanPage { found: Vec::new(), through: query.through });
    };
    // A query that skips events scans at most this many.
    let passes_over = query.marked_only || !query.queues.is_empty();
    let most = if passes_over { ROWS_PER_SNAPSHOT + 1 } else { query.limit };
    let revisions = history::of_saga(connection, id, newest, query.after, query.through, most)?;
    let through = match revisions.last() {
        Some(last) if passes_over && revisions.len() == most => *last,
        Some(_) | None => query.through,
    };
    let mut statement = connection.prepare_cached(sql::EVENT_BY_REVISION)?;
    let mut found = Vec::new();
    for revision in revisions {
        found.extend(events(&mut statement, [revision.0])?.into_iter().filter(|event| query.matches(event)));
        if found.len() == query.limit {
            break;
        }
    }
    Ok(ScanPage::of_events(found, query.limit, through))
}

/// The end of the part that a filtering read scans: a filter that matches little must not make one snapshot last long.
fn window(
    connection: &Connection,
    statement: &'static str,
    params: impl rusqlite::Params,
    through: Revision,
) -> Result<Revision, SqliteError> {
    let end = connection.prepare_cached(statement).and_then(|mut s| s.query_row(params, |row| row.get(0)).optional());
    Ok(end?.map_or(through, Revision))
}

fn queue_filter(queues: &[QueueName]) -> Option<String> {
    if queues.is_empty() { None } else { Some(json_array(queues.iter().map(QueueName::as_str))) }
}

/// Loads sagas with their compensations.
fn sagas(
    connection: &Connection,
    statement: &'static str,
    params: impl rusqlite::Params,
) -> Result<Vec<(RowId, Saga)>, SqliteError> {
    sagas_while(connection, statement, params, |_| true)
}

/// Like [`sagas`], until `go_on` returns false; that saga is included.
fn sagas_while(
    connection: &Connection,
    statement: &'static str,
    params: impl rusqlite::Params,
    mut go_on: impl FnMut(&Saga) -> bool,
) -> Result<Vec<(RowId, Saga)>, SqliteError> {
    let mut statement = connection.prepare_cached(statement)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, mut saga, count) = decode::saga(row)?;
        if count > 0 {
            saga.compensations = compensations(connection, id)?;
        }
        let last = !go_on(&saga);
        found.push((id, saga));
        if last {
            break;
        }
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
        // Reads one more than wanted to know whether more follows. A page also ends when it has scanned its bound, or
        // holds as many bytes as an answer.
        self.look(|connection| {
            let mut page = SagaPage::default();
            let mut statement = connection.prepare_cached(statement)?;
            let mut rows = statement.query(params![start, ROWS_PER_SNAPSHOT])?;
            let (mut looked_at, mut bytes, mut last) = (0, 0, None);
            while let Some(row) = rows.next()? {
                if page.sagas.len() == query.limit {
                    page.next = last;
                    return Ok(page);
                }
                let (id, mut saga, count) = decode::saga(row)?;
                if query.filter.matches(&saga, &query.read_time) {
                    if count > 0 {
                        saga.compensations = compensations(connection, id)?;
                    }
                    bytes += encoded_size(&saga);
                    if bytes > ANSWER_BYTES && !page.sagas.is_empty() {
                        page.next = last;
                        return Ok(page);
                    }
                    page.sagas.push((Cursor(id.0), saga));
                }
                looked_at += 1;
                last = Some(Cursor(id.0));
            }
            page.next = last.filter(|_| looked_at == ROWS_PER_SNAPSHOT);
            Ok(page)
        })
    }

    fn events(&self, query: &EventQuery) -> Result<ScanPage<Event>, StoreError> {
        self.look(|connection| {
            // Checked in the same snapshot: events purged meanwhile must not be skipped silently.
            if !query.whole
                && let Err(gone) = check_position(connection, query.after)?
            {
                return Ok(Err(gone));
            }
            stretch(connection, query).map(Ok)
        })?
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
        bounds: PageBounds,
    ) -> Result<ScanPage<(Revision, Saga)>, StoreError> {
        let queues = queue_filter(queues);
        let mut bytes = 0;
        let (found, through) = self.look(|c| {
            let through = if queues.is_some() {
                window(c, sql::STALE_WINDOW, params![after.0, through.0, ROWS_PER_SNAPSHOT], through)?
            } else {
                through
            };
            // The saga that exceeds the bound is read, but dropped.
            let found = sagas_while(c, sql::STALE, params![after.0, through.0, queues, bounds.sagas], |saga| {
                bytes += encoded_size(saga);
                bytes <= bounds.bytes
            })?;
            Ok((found, through))
        })?;
        let found = found.into_iter().filter_map(|(_, saga)| Some((saga.reported_stale()?, saga)));
        Ok(bounds.admitted(found, through))
    }

    fn counts(&self, read_time: &ReadTime) -> Result<Vec<QueueStats>, StoreError> {
        // Memory is read first: every queue in it is then also in the snapshot.
        let mut counted = self.shared.counts.lock().clone();
        self.look(|connection| {
            let ready = self.ready(connection, read_time.now)?;
            let mut all = Vec::new();
            let mut statement = connection.prepare_cached(sql::QUEUES_BRIEF)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                let name: String = row.get(1)?;
                let queue = QueueName::parse(&name).map_err(corrupt_queue)?;
                let paused = row.get(2)?;
                let count = counted.remove(&id).unwrap_or_default();
                let ready = ready.get(&id).copied().unwrap_or_default();
                all.push(QueueStats {
                    queue,
                    paused,
                    states: count.states(),
                    ready: ready.sagas,
                    stale: count.stale(),
                    oldest_ready_age: ready.since.map(|since| read_time.now.since(since)),
                });
            }
            Ok(all)
        })
    }

    fn queues(&self, after: Option<&QueueName>, limit: usize) -> Result<Vec<QueueStatus>, StoreError> {
        let found = self.look(|connection| queue_statuses(connection, after, limit))?;
        Ok(found.into_iter().map(|(_, status)| status).collect())
    }

    fn backup(&self, path: &std::path::Path) -> Result<Revision, StoreError> {
        let unavailable = |error: rusqlite::Error| StoreError::Unavailable(format!("the backup failed: {error}"));
        private_files::create_new(path).map_err(|e| StoreError::Unavailable(format!("the backup failed: {e}")))?;
        let mut copy = connection::open(path).map_err(unavailable)?;
        // Doesn't take the read lock, which would be held as long as the copy takes. The copy is one snapshot, or it
        // would start again with each commit; the log grows meanwhile.
        let connection = self.backups.connect().map_err(unavailable)?;
        {
            let snapshot = connection.unchecked_transaction().map_err(unavailable)?;
            // The snapshot starts with its first read; without one, each step of the copy would take its own.
            head(&snapshot).map_err(read_error)?;
            let backup = rusqlite::backup::Backup::new(&snapshot, &mut copy).map_err(unavailable)?;
            backup.run_to_completion(BACKUP_PAGES, BACKUP_PAUSE, None).map_err(unavailable)?;
        }
        head(&copy).map_err(read_error)
    }
}

fn corrupt_queue(error: crate::domain::ids::Malformed) -> SqliteError {
    SqliteError::Corrupt(format!("a queue: {}", error.0))
}

/// The queues after one of them, by name, with their numbers: at most `limit`.
pub(super) fn queue_statuses(
    connection: &Connection,
    after: Option<&QueueName>,
    limit: usize,
) -> Result<Vec<(i64, QueueStatus)>, SqliteError> {
    let mut statement = connection.prepare_cached(sql::QUEUES)?;
    // No name is empty.
    let after = after.map_or("", QueueName::as_str);
    let mut rows = statement.query(params![after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let actor: Option<String> = row.get(2)?;
        let reason: String = row.get(3)?;
        let status = QueueStatus {
            queue: QueueName::parse(&name).map_err(corrupt_queue)?,
            paused: row.get(1)?,
            actor: actor.map(|actor| Actor::stored(&actor)).transpose().map_err(corrupt_queue)?,
            reason: Text::stored(&reason).map_err(corrupt_queue)?,
            change_time: values::column(row, 4)?,
        };
        all.push((row.get(5)?, status));
    }
    Ok(all)
}
