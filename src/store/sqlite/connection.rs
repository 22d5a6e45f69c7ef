//! Opens databases: the only module that opens connections (a test over the sources checks this). It never creates the
//! file: [`crate::private_files`] does.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, config::DbConfig};

/// Opens an existing database to read and write.
pub fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens an existing database to read. If it has no log, SQLite makes one, as readers need it.
pub fn open_to_read(path: &Path) -> Result<Connection, rusqlite::Error> {
    open_with(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Opens a database that nobody changes meanwhile and that has no log. Creates no files beside it.
pub fn open_unchanging(path: &Path) -> Result<Connection, rusqlite::Error> {
    let Some(text) = path.to_str() else { return open_to_read(path) };
    let escaped = text.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    open_with(Path::new(&format!("file:{escaped}?immutable=1")), flags)
}

/// An empty database in memory.
pub fn in_memory() -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_in_memory()?;
    harden(&connection)?;
    Ok(connection)
}

/// Makes SQLite plan each statement once. Otherwise a statement on a table with a partial index is planned again
/// whenever a parameter is bound, in case its value makes the index usable; our statements contain the index's
/// condition.
pub fn keep_query_plans(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn open_with(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    harden(&connection)?;
    Ok(connection)
}

/// A database's content must not do harm: its schema can't call functions with side effects, and no statement can
/// change the schema table or the tables behind a virtual table.
fn harden(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_distrust_the_schema_and_create_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a?b%20#.db");
        for open in [open, open_to_read, open_unchanging] {
            assert!(open(&path).is_err() && !path.exists());
        }
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let all = [open(&path), open_to_read(&path), open_unchanging(&path), in_memory()];
        for connection in all {
            let connection = connection.unwrap();
            assert!(!connection.db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA).unwrap());
            assert!(connection.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE).unwrap());
        }
    }
}
