//! The SQLite backend: one file in WAL mode, synced at each commit; one writing connection, a pool of reading ones.

mod backend;
pub mod check;
mod checkpoint;
mod codec;
mod codes;
mod connection;
mod counts;
mod error;
mod files;
pub mod guard;
mod history;
mod load;
pub mod migrate;
mod more;
#[cfg(test)]
mod plans;
mod reader;
mod ready;
mod reservation;
pub mod restore;
mod rows;
mod schema;
mod shrink;
mod sql;
mod statements;
pub mod vacuum;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension, config::DbConfig};

use crate::{
    clock::Clock,
    coordinator::{Eligibility, InitialState, ReadyEntry, RowId, StoredDue},
    domain::{
        bounds::{HAPPENED_MAX, NUMBERS_LEFT, REVISION_MAX, ROW_MAX},
        ids::{QueueName, Revision},
        saga::State,
        text::Kind,
        time::{Span, Timestamp},
        transition::Due,
    },
    mutants::{self, Mutant},
    private_files,
};

pub use self::rows::{OpenedRows, SqliteRows};

/// The decoding of single rows, for the fuzzer: with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use super::{
        backend::write_and_undo,
        codec::{compensation, event, saga},
        error::RowsError,
    };
}

use self::{
    checkpoint::{Checkpoints, Gate},
    codec::{Quantity, column, senseless},
    codes::Coded,
    counts::{Counts, Tally},
    files::Files,
    guard::{
        Found, OpenError, SCHEMA_VERSION, inspect, open_error, openness, refuse_unrestored, remove_database,
        take_directory,
    },
    load::{each, meta},
    migrate::{MIGRATIONS, migrate},
    more::More,
    reader::SqliteReader,
    reservation::Reservation,
};
use super::{
    Reader, Store, StoreOptions,
    writer::{self, OpenedBackend, WriterThread},
};

/// Page cache of the writing connection, in KiB: enough for its indexes and the changes of a batch. (Readers keep
/// SQLite's default.)
const WRITER_CACHE_KIB: i64 = 16_384;

/// Opens the store in a directory, or creates it, and starts its writer. The log is to stay below `max_wal_bytes`.
/// Blocks while an older schema is migrated.
pub fn open(
    data: &Path,
    max_wal_bytes: u64,
    options: &StoreOptions,
    clock: Arc<dyn Clock>,
) -> Result<(Store, WriterThread), OpenError> {
    let guard = take_directory(data)?;
    refuse_unrestored(data)?;
    let path = data.join("sagad.db");
    let (rows, opening, beside) = open_rows(&path, max_wal_bytes)?;
    openness(data).iter().for_each(|warning| tracing::warn!("{warning}"));
    let reader = Arc::new(open_reader(&path, options.readers, beside)?);
    let description = format!("sqlite {} at {}", rusqlite::version(), path.display());
    let (log, make) = (rows.log_meter(), || rows.start());
    writer::start(options, clock, OpenedBackend { make, opening, reader, log, description, guard })
        .map_err(|e| OpenError::Unusable { path, what: e.to_string() })
}

/// What the readers share with the writer, besides the file.
#[derive(Clone)]
pub struct Beside {
    gate: Gate,
    counts: Counts,
}

/// Opens the writing connection and reads the coordinator's initial state. For [`open`], and for tests that drive a
/// coordinator themselves.
pub fn open_rows(path: &Path, max_wal_bytes: u64) -> Result<(OpenedRows, InitialState, Beside), OpenError> {
    let found = match inspect(path)? {
        Found::Nothing => make(path)?,
        found @ Found::Ours(_) => found,
    };
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let mut connection = connection::open(path).map_err(failed)?;
    schema::verify(&connection, path, found)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    if mutants::on(Mutant::SynchronousNormal) {
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    }
    keep_plans(&connection).map_err(failed)?;
    // `sagad check` verifies what foreign keys and CHECKs would verify with each write; a debug build has the CHECKs
    // on.
    connection.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    connection.pragma_update(None, "ignore_check_constraints", cfg!(not(debug_assertions))).map_err(failed)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB).map_err(failed)?;
    migrate(&mut connection, found, MIGRATIONS).map_err(failed)?;
    let (opening, counted) = opening(&mut connection).map_err(failed)?;
    let tally = Tally::new(counted, opening.head);
    let counts = tally.committed();
    let gate = Gate::default();
    let checkpoints = Checkpoints::take_over(&mut connection, max_wal_bytes, gate.clone())
        .map_err(|e| OpenError::Unusable { path: path.to_owned(), what: e.to_string() })?;
    // The log file exists by now.
    let files = Files::of(path);
    let reservation = Reservation::none(opening.next_revision);
    Ok((OpenedRows { connection, checkpoints, tally, files, reservation }, opening, Beside { gate, counts }))
}

/// Makes SQLite plan each statement once. Otherwise a statement on a table with a partial index is planned again
/// whenever a parameter is bound, in case its value makes the index usable; our statements contain the index's
/// condition.
fn keep_plans(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// The readers of an opened file. For [`open`], and for tests that drive a coordinator themselves.
pub fn open_reader(path: &Path, size: usize, beside: Beside) -> Result<impl Reader + use<>, OpenError> {
    let unusable = |e: r2d2::Error| OpenError::Unusable { path: path.to_owned(), what: e.to_string() };
    SqliteReader::open(path.to_owned(), size, beside).map_err(unusable)
}

/// Creates an empty store. It gets its name only when it is complete and synced, so a file of that name that is no
/// store is damaged, and not an interrupted creation.
fn make(path: &Path) -> Result<Found, OpenError> {
    let unfinished = path.with_extension("db.new");
    let failed = |error: rusqlite::Error| open_error(&unfinished, &error);
    let io = |error: std::io::Error| OpenError::Unusable { path: path.to_owned(), what: error.to_string() };
    remove_database(&unfinished).map_err(io)?;
    private_files::create_new(&unfinished).map_err(io)?;
    let mut connection = connection::open(&unfinished).map_err(failed)?;
    // No log beside the file until it is complete.
    connection.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // Must be set before the first table is created; later it takes a VACUUM. It lets free pages be given back.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    migrate(&mut connection, Found::Nothing, MIGRATIONS).map_err(failed)?;
    // Switched before the rename: an interrupted switch leaves a journal, with which the file can't be inspected.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    private_files::rename_synced(&unfinished, path).map_err(io)?;
    Ok(Found::Ours(SCHEMA_VERSION))
}

/// Reads the initial state. Revisions that an earlier run may have assigned, and that a lost tail of the log may have
/// hidden, are never assigned again: the next one is above all that were reserved, and those between are recorded as a
/// gap from which no watch can resume.
fn opening(connection: &mut Connection) -> Result<(InitialState, counts::ByQueue), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let opening = stored_opening(&transaction)?;
    let (head, last_lost) = (opening.head.0, opening.next_revision.0 - 1);
    if last_lost > head {
        transaction.execute(sql::ADD_GAP, [head, last_lost])?;
    }
    let counted = counts::open(&transaction)?;
    for queue in counted.keys() {
        if !transaction.prepare_cached(sql::QUEUE_BY_ID)?.exists([queue])? {
            return Err(senseless(format!("sagas are counted in queue {queue}, which is not there")));
        }
    }
    transaction.commit()?;
    Ok((opening, counted))
}

/// Reads the stored initial state. Fails on numbers with which no daemon could continue. The verification uses it too.
fn stored_opening(connection: &Connection) -> Result<InitialState, rusqlite::Error> {
    let head: Revision = connection.query_row(sql::HEAD, [], |row| row.get(0))?;
    let head = head.max(meta(connection, "compacted")?);
    let next_revision = head.after(1).max(meta(connection, "revision_floor")?);
    if next_revision.0 > REVISION_MAX - NUMBERS_LEFT {
        let what = format!("the next revision would be {next_revision}, with too few left up to {REVISION_MAX}");
        return Err(senseless(what));
    }
    // Later than anything in the store, so that the absence is after it.
    let last_time = last_time(connection)?.plus(Span::MICROSECOND);
    let names = queue_names(connection)?;
    let (due, ready) = (stored_due(connection, &names)?, stored_ready(connection, &names)?);
    let mut paused = Vec::new();
    each(connection, sql::PAUSED, [], |row| {
        paused.extend(QueueName::parse(&row.get::<_, String>(0)?).ok());
        Ok(())
    })?;
    let next_row = RowId(last_row(connection)? + 1);
    Ok(InitialState { head, next_revision, next_row, last_time, due, ready, paused })
}

/// The time of the newest event, heartbeat or closing.
fn last_time(connection: &Connection) -> Result<Timestamp, rusqlite::Error> {
    let newest = |sql| connection.query_row(sql, [], |row| column::<Option<Timestamp>>(row, 1)).optional();
    let last_event = newest(sql::LAST_EVENT_TIME)?.flatten().unwrap_or_default();
    let last_heartbeat = newest(sql::LAST_HEARTBEAT_TIME)?.flatten().unwrap_or_default();
    let closed: Timestamp = meta(connection, "last_time")?;
    let last = last_event.max(last_heartbeat).max(closed);
    if last.micros() > HAPPENED_MAX {
        let told =
            [("the newest event", last_event), ("the newest heartbeat", last_heartbeat), ("its last end", closed)];
        let of = told.iter().find(|(_, time)| *time == last).map_or("something", |(what, _)| what);
        return Err(senseless(format!("{of} was at {last}, which no clock has said")));
    }
    Ok(last)
}

/// Queue names by number. A damaged name is skipped, and with it sagas that can't be read anyway.
fn queue_names(connection: &Connection) -> Result<HashMap<i64, QueueName>, rusqlite::Error> {
    let mut names = HashMap::new();
    each(connection, sql::QUEUE_NAMES, [], |row| {
        let id = row.get(0)?;
        names.extend(QueueName::parse(&row.get::<_, String>(1)?).ok().map(|name| (id, name)));
        Ok(())
    })?;
    Ok(names)
}

fn stored_due(connection: &Connection, names: &HashMap<i64, QueueName>) -> Result<Vec<StoredDue>, rusqlite::Error> {
    let mut all = Vec::new();
    each(connection, sql::DUE, [], |row| {
        let due = Due { at: column(row, 1)?, grace_reference: column(row, 2)? };
        let (queue, state) = (names.get(&row.get(3)?), State::decode(row.get(4)?));
        if let (Some(queue), Some(state)) = (queue, state) {
            all.push(StoredDue { id: column(row, 0)?, due, queue: queue.clone(), state });
        }
        Ok(())
    })?;
    Ok(all)
}

fn stored_ready(
    connection: &Connection,
    names: &HashMap<i64, QueueName>,
) -> Result<Vec<(RowId, ReadyEntry)>, rusqlite::Error> {
    let mut kinds: BTreeMap<RowId, (i32, i64, BTreeSet<Kind>)> = BTreeMap::new();
    each(connection, sql::READY_TO_COMPENSATE, [], |row| {
        let place = kinds.entry(column(row, 0)?).or_insert((column(row, 1)?, row.get(2)?, BTreeSet::new()));
        place.2.extend(row.get::<_, Option<String>>(3)?.and_then(|kind| Kind::stored(&kind).ok()));
        Ok(())
    })?;
    let mut all = Vec::new();
    for (id, (priority, queue, kinds)) in kinds {
        if let Some(queue) = names.get(&queue) {
            let eligibility = Eligibility::Kinds(kinds.into_iter().collect());
            all.push((id, ReadyEntry { priority, queue: queue.clone(), eligibility }));
        }
    }
    each(connection, sql::RESERVED, [], |row| {
        let due_at: Option<Timestamp> = column(row, 3)?;
        // A damaged value is skipped with its saga, which can't be read either.
        let more = More::parse(row.get_ref(4)?.as_str_or_null()?).unwrap_or_default();
        // If nothing is due after its delay, it is still delayed.
        let delayed = more.not_before.is_some_and(|ready| due_at.is_none_or(|due| due <= ready));
        let reservation = more.reservation.filter(|_| !delayed);
        if let (Some(queue), Some(reservation)) = (names.get(&row.get(2)?), reservation) {
            let eligibility = Eligibility::Assignee(reservation.assignee);
            all.push((column(row, 0)?, ReadyEntry { priority: column(row, 1)?, queue: queue.clone(), eligibility }));
        }
        Ok(())
    })?;
    Ok(all)
}

/// The highest row number of any saga ever.
fn last_row(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let Quantity(floor) = meta(connection, "row_floor")?;
    let Quantity(last) = connection.query_row(sql::LAST_ROW, [], |row| column(row, 0))?;
    connection.query_row(sql::FIRST_ROW, [], |row| column::<Option<RowId>>(row, 0))?;
    let last = floor.max(last);
    if last > ROW_MAX - NUMBERS_LEFT {
        return Err(senseless(format!("the last saga is row {last}, with too few numbers left up to {ROW_MAX}")));
    }
    Ok(last)
}
