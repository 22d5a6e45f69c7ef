//! The SQLite backend: one file in WAL mode, synced at each commit; one writing connection, a pool of reading ones.

mod cache;
pub mod check;
mod checkpoint;
mod codec;
mod codes;
mod counts;
pub mod guard;
mod load;
pub mod migrate;
#[cfg(test)]
mod plans;
mod reader;
mod ready;
pub mod restore;
mod rows;
mod shrink;
mod sql;
pub mod vacuum;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension, config::DbConfig};

use crate::{
    clock::Clock,
    domain::{
        ids::{QueueName, Revision},
        lease::Absence,
        time::{Span, Timestamp},
        transition::Due,
    },
    mutants::{self, Mutant},
};

pub use self::rows::SqliteRows;

/// The decoding of single rows, for the fuzzer: with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use super::codec::{compensation, event, saga};
}

use self::{
    checkpoint::{Checkpoints, Gate},
    counts::{Counts, Tally},
    guard::{
        Found, OpenError, SCHEMA_VERSION, inspect, make_database, open_error, refuse_unrestored, remove_database,
        take_directory,
    },
    migrate::{MIGRATIONS, migrate},
    reader::SqliteReader,
};
use super::{
    Reader, Store,
    handle::Shared,
    rows::{Opening, RowId},
    writer::{self, WriterBounds, WriterThread},
};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; made if it is not there.
    pub data: PathBuf,
    /// How long leases from before an absence of the coordinator stand at least from its return on.
    pub restart_grace: Span,
    /// Most changes that wait for the writer.
    pub queue: usize,
    /// Most changes in one transaction.
    pub batch: usize,
    /// Reading connections.
    pub readers: usize,
    /// Most held `ClaimNext` calls.
    pub max_waiting: usize,
    /// The log's bound, in bytes.
    pub max_wal_bytes: u64,
}

/// Opens the store, or makes it, and starts its writer. Blocks while an older schema is brought up to date.
pub fn open(options: &Options, clock: Arc<dyn Clock>) -> Result<(Store, WriterThread), OpenError> {
    let lock = take_directory(&options.data)?;
    refuse_unrestored(&options.data)?;
    let path = options.data.join("sagad.db");
    let (rows, opening, beside) = open_rows(&path, options.max_wal_bytes)?;
    clock.advance_to(opening.last_time);

    let now = clock.now();
    // Whatever was running when the last run ended has been without a coordinator since.
    let absence = Absence { returned_at: now, grace: options.restart_grace };
    let shared = Shared::new(clock, opening.head, absence, rows.log_meter());
    let reader = open_reader(&path, options.readers, beside)?;
    let description = format!("sqlite {} at {}", rusqlite::version(), path.display());
    let (store, messages) = Store::new(options.queue, Arc::new(reader), options.readers, shared.clone(), &description);
    let bounds =
        WriterBounds { batch: options.batch, waiting: options.max_waiting, restart_grace: options.restart_grace };
    let writer = writer::spawn(rows, opening, messages, shared, bounds, lock)
        .map_err(|e| OpenError::Unusable { path, what: e.to_string() })?;
    Ok((store, writer))
}

/// What the reading half shares with the writing one, beside the file.
#[derive(Clone)]
pub struct Beside {
    gate: Gate,
    counts: Counts,
}

/// Opens the writing connection and reads what the engine has to know. For [`open`], and for tests that drive an engine
/// themselves.
pub fn open_rows(path: &Path, max_wal_bytes: u64) -> Result<(SqliteRows, Opening, Beside), OpenError> {
    let found = match inspect(path)? {
        Found::Nothing => make(path)?,
        found @ Found::Ours(_) => found,
    };
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let mut connection = Connection::open(path).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    if mutants::on(Mutant::SynchronousNormal) {
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    }
    keep_plans(&connection).map_err(failed)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    connection.pragma_update(None, "cache_size", -16384).map_err(failed)?;
    migrate(&mut connection, found, MIGRATIONS).map_err(failed)?;
    let (opening, counted) = opening(&mut connection).map_err(failed)?;
    let tally = Tally::new(counted, opening.head);
    let counts = tally.committed();
    let last_row = last_row(&connection).map_err(failed)?;
    let gate = Gate::default();
    let checkpoints = Checkpoints::take_over(&mut connection, max_wal_bytes, gate.clone())
        .map_err(|e| OpenError::Unusable { path: path.to_owned(), what: e.to_string() })?;
    Ok((SqliteRows::new(connection, checkpoints, last_row, tally), opening, Beside { gate, counts }))
}

/// Plans a connection's statements once. Otherwise a statement on a table with a partial index is planned anew whenever a
/// parameter is bound, in case its value makes the index fit; ours say what makes it fit.
fn keep_plans(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// The reading half of an opened file. For [`open`], and for tests that drive an engine themselves.
pub fn open_reader(path: &Path, size: usize, beside: Beside) -> Result<impl Reader + use<>, OpenError> {
    let unusable = |e: r2d2::Error| OpenError::Unusable { path: path.to_owned(), what: e.to_string() };
    SqliteReader::open(path.to_owned(), size, beside).map_err(unusable)
}

/// Makes an empty store. It has its name only once it is whole and synced: so what has the name and is no store is
/// damaged, and is not taken for one that was never begun.
fn make(path: &Path) -> Result<Found, OpenError> {
    let unfinished = path.with_extension("db.new");
    let failed = |error: rusqlite::Error| open_error(&unfinished, &error);
    let io = |error: std::io::Error| OpenError::Unusable { path: path.to_owned(), what: error.to_string() };
    remove_database(&unfinished).map_err(io)?;
    make_database(&unfinished).map_err(io)?;
    let mut connection = Connection::open(&unfinished).map_err(failed)?;
    // No log beside the file: it is to be whole by itself.
    connection.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // Before the first table, or it takes a copy of everything: so that pages can be given back.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    migrate(&mut connection, Found::Nothing, MIGRATIONS).map_err(failed)?;
    // Not later, under its name: a switch that is cut off leaves a journal, which no look at the file gets past.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    std::fs::File::open(&unfinished).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&unfinished, path).map_err(io)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(Found::Ours(SCHEMA_VERSION))
}

/// Reads what is known at the start. Revisions that an earlier run may have given, and of which a lost tail of the log
/// would leave no trace, are never given again: the next one is above all that were reserved, and those in between are
/// kept as a gap in which no watch can resume.
fn opening(connection: &mut Connection) -> Result<(Opening, counts::ByQueue), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let number = |sql: &str| {
        let value = transaction.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).optional();
        value.map(|value| value.flatten().unwrap_or(0))
    };
    let meta = |key: &str| transaction.query_row(sql::META, [key], |row| row.get::<_, i64>(0));
    let head = number(sql::HEAD)?.max(meta("compacted")?);
    let next_revision = (head + 1).max(meta("revision_floor")?);
    if next_revision > head + 1 {
        transaction.execute(sql::ADD_GAP, [head, next_revision - 1])?;
    }
    let last_time = number(sql::LAST_EVENT_TIME)?.max(number(sql::LAST_HEARTBEAT_TIME)?).max(meta("last_time")?);
    let mut due = Vec::new();
    let mut paused = Vec::new();
    {
        let mut statement = transaction.prepare(sql::DUE)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let running_since = row.get::<_, Option<i64>>(2)?.map(Timestamp::from_micros);
            due.push((RowId(row.get(0)?), Due { at: Timestamp::from_micros(row.get(1)?), running_since }));
        }
        let mut statement = transaction.prepare(sql::PAUSED)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            paused.extend(QueueName::parse(&row.get::<_, String>(0)?).ok());
        }
    }
    let counted = counts::open(&transaction)?;
    transaction.commit()?;
    let opening = Opening {
        head: Revision(head),
        next_revision: Revision(next_revision),
        // Later than anything in the store, so that an absence is told from what happens after it.
        last_time: Timestamp::from_micros(last_time + 1),
        due,
        paused,
    };
    Ok((opening, counted))
}

fn last_row(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let floor: i64 = connection.query_row(sql::META, ["row_floor"], |row| row.get(0))?;
    let last: i64 = connection.query_row(sql::LAST_ROW, [], |row| row.get(0))?;
    Ok(floor.max(last))
}
