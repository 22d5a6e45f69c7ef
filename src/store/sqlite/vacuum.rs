//! Gives all free pages back at once, on a store that no daemon has open; and makes an older store able to give pages
//! back while in use.
//!
//! SQLite rewrites the whole store in one transaction: if interrupted, nothing has happened.

use std::path::Path;

use super::{
    connection,
    open_checks::{inspect, refuse_unrestored, take_directory},
    open_error::{FoundDatabase, OpenError, SCHEMA_VERSION, open_error},
    schema, sql,
};

/// The result of a vacuum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VacuumResult {
    /// Bytes of the database before.
    pub before: u64,
    /// Bytes of the database after.
    pub after: u64,
}

/// Makes the store in a directory as small as possible, and able to give pages back while in use. Needs as much room
/// beside the store as it will have, and as much again for the log.
///
/// # Errors
/// There is no store, it is in use or can't be used, or the disk is full; then nothing has changed.
pub fn vacuum(data: &Path) -> Result<VacuumResult, OpenError> {
    let path = data.join("sagad.db");
    if !path.exists() {
        return Err(OpenError::Unusable { path, what: "there is no store here".into() });
    }
    let _lock = take_directory(data)?;
    refuse_unrestored(data)?;
    let unusable = |what: String| OpenError::Unusable { path: path.clone(), what };
    let found = inspect(&path)?;
    match found {
        FoundDatabase::Ours(version) if version == SCHEMA_VERSION => {}
        FoundDatabase::Ours(_) => {
            return Err(unusable("it is of an older version: start the daemon on it once".into()));
        }
        FoundDatabase::Nothing => return Err(unusable("there is no store in it".into())),
    }
    let size = || path.metadata().map(|metadata| metadata.len()).map_err(|e| unusable(e.to_string()));
    let before = size()?;
    write_anew(&path, found)?;
    Ok(VacuumResult { before, after: size()? })
}

fn write_anew(path: &Path, found: FoundDatabase) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let connection = connection::open(path).map_err(failed)?;
    schema::verify(&connection, path, found)?;
    for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("auto_vacuum", "INCREMENTAL")] {
        connection.pragma_update(None, name, value).map_err(failed)?;
    }
    connection.execute_batch(sql::VACUUM).map_err(failed)?;
    connection.query_row(sql::CHECKPOINT_TRUNCATE, [], |_| Ok(())).map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::open_writer;
    use super::*;

    #[test]
    fn vacuum_shrinks_an_older_store_and_enables_incremental_vacuum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        drop(open_writer(&path, 1 << 20).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(include_str!("healthy.sql")).unwrap();
        // Older versions created stores without `auto_vacuum`.
        connection.execute_batch("PRAGMA auto_vacuum = NONE; VACUUM;").unwrap();
        connection.execute_batch("CREATE TABLE big AS SELECT hex(zeroblob(2000000)) AS x; DROP TABLE big").unwrap();
        drop(connection);
        let report = super::super::check::check(dir.path()).unwrap();
        assert!(report.free_bytes > 3_000_000 && report.problem_count == 0, "{report:?}");

        let vacuumed = vacuum(dir.path()).unwrap();
        assert!(vacuumed.before > 4_000_000 && vacuumed.after < 300_000, "{vacuumed:?}");
        let report = super::super::check::check(dir.path()).unwrap();
        assert_eq!((report.free_bytes, report.sagas, report.problem_count), (0, 1, 0));
        let mode = Connection::open(&path).unwrap().query_row(sql::AUTO_VACUUM, [], |row| row.get::<_, i64>(0));
        assert_eq!(mode, Ok(2));
    }

    #[test]
    fn vacuum_refuses_a_missing_or_locked_store() {
        let dir = tempfile::tempdir().unwrap();
        assert!(vacuum(dir.path()).unwrap_err().to_string().contains("no store"));
        drop(open_writer(&dir.path().join("sagad.db"), 1 << 20).unwrap());
        let lock = take_directory(dir.path()).unwrap();
        assert!(matches!(vacuum(dir.path()), Err(OpenError::Locked { .. })));
        drop(lock);
        vacuum(dir.path()).unwrap();
    }
}
