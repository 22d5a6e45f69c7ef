//! Opens a store: checks the directory and the file, migrates the schema, and makes the connections.

use std::{path::Path, sync::Arc};

use crate::{
    clock::Clock,
    coordinator::InitialState,
    mutants::{self, Mutant},
    private_files,
};

use super::{
    super::{
        Reader, Store, StoreOptions,
        writer::{self, OpenedBackend, WriterThread},
    },
    checkpoint::{Checkpoints, ReadLock},
    connection::{self, keep_query_plans},
    initial_state::read_initial_state,
    migrate::{MIGRATIONS, migrate},
    open_checks::{inspect, permission_warnings, refuse_unrestored, remove_database, take_directory},
    open_error::{FoundDatabase, OpenError, SCHEMA_VERSION, open_error},
    reader::{ReaderShared, SqliteReader},
    schema,
    state_counts::StateCounts,
    store_files::StoreFiles,
    writer::{OpenedSqliteWriter, RevisionReservation},
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
    let (rows, opening, shared) = open_writer(&path, max_wal_bytes)?;
    permission_warnings(data).iter().for_each(|warning| tracing::warn!("{warning}"));
    let reader = Arc::new(open_reader(&path, options.readers, shared)?);
    let description = format!("sqlite {} at {}", rusqlite::version(), path.display());
    let (log, make) = (rows.log_metrics(), || rows.start());
    writer::start(options, clock, OpenedBackend { make, opening, reader, log, description, guard })
        .map_err(|e| OpenError::Unusable { path, what: e.to_string() })
}

/// Opens the writing connection and reads the coordinator's initial state. For [`open`], and for tests that drive a
/// coordinator themselves.
pub fn open_writer(
    path: &Path,
    max_wal_bytes: u64,
) -> Result<(OpenedSqliteWriter, InitialState, ReaderShared), OpenError> {
    let found = match inspect(path)? {
        FoundDatabase::Nothing => create_store(path)?,
        found @ FoundDatabase::Ours(_) => found,
    };
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let mut connection = connection::open(path).map_err(failed)?;
    schema::verify(&connection, path, found)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    if mutants::on(Mutant::SynchronousNormal) {
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    }
    keep_query_plans(&connection).map_err(failed)?;
    // `sagad check` verifies what foreign keys and CHECKs would verify with each write; a debug build has the CHECKs
    // on.
    connection.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    connection.pragma_update(None, "ignore_check_constraints", cfg!(not(debug_assertions))).map_err(failed)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB).map_err(failed)?;
    migrate(&mut connection, found, MIGRATIONS).map_err(failed)?;
    let (opening, counted) = read_initial_state(&mut connection).map_err(failed)?;
    let state_counts = StateCounts::new(counted, opening.head);
    let counts = state_counts.committed();
    let read_lock = ReadLock::default();
    let checkpoints = Checkpoints::take_over(&mut connection, max_wal_bytes, read_lock.clone())
        .map_err(|e| OpenError::Unusable { path: path.to_owned(), what: e.to_string() })?;
    // The log file exists by now.
    let files = StoreFiles::of(path);
    let reservation = RevisionReservation::none(opening.next_revision);
    Ok((
        OpenedSqliteWriter { connection, checkpoints, state_counts, files, reservation },
        opening,
        ReaderShared { read_lock, counts },
    ))
}

/// The readers of an opened file. For [`open`], and for tests that drive a coordinator themselves.
pub fn open_reader(path: &Path, size: usize, shared: ReaderShared) -> Result<impl Reader + use<>, OpenError> {
    let unusable = |e: r2d2::Error| OpenError::Unusable { path: path.to_owned(), what: e.to_string() };
    SqliteReader::open(path.to_owned(), size, shared).map_err(unusable)
}

/// Creates an empty store. It gets its name only when it is complete and synced, so a file of that name that is no
/// store is damaged, and not an interrupted creation.
pub(super) fn create_store(path: &Path) -> Result<FoundDatabase, OpenError> {
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
    migrate(&mut connection, FoundDatabase::Nothing, MIGRATIONS).map_err(failed)?;
    // Switched before the rename: an interrupted switch leaves a journal, with which the file can't be inspected.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    private_files::rename_synced(&unfinished, path).map_err(io)?;
    Ok(FoundDatabase::Ours(SCHEMA_VERSION))
}
