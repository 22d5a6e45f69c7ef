//! Checks made before a store is opened: the directory, its lock, and the database file.
//!
//! What is refused is left unchanged.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::private_files;

use super::{
    connection,
    open_error::{APPLICATION_ID, FoundDatabase, OpenError, SCHEMA_VERSION, open_error},
    schema,
};

use crate::mutants::{self, Mutant};

/// File systems whose locks or syncs go over a network, by their statfs(2) numbers.
const NETWORK_FILE_SYSTEMS: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x5346_414F, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x0102_1997, "9P"),
    (0x4750_4653, "GPFS"),
];

/// The name of a network file system, by its number.
pub fn network_file_system(number: u32) -> Option<&'static str> {
    NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// Creates the directory if needed, checks its file system, and takes its lock, which is held as long as the file is
/// open.
///
/// The lock is a separate file, since opening and closing the database file would drop SQLite's locks on it.
pub fn take_directory(path: &Path) -> Result<File, OpenError> {
    let unusable = |error| OpenError::Directory { path: path.to_owned(), error };
    private_files::create_directories(path).map_err(unusable)?;
    let info = rustix::fs::statfs(path).map_err(|e| unusable(e.into()))?;
    // The number has 32 bits, whatever the width of the field.
    if let Some(kind) = network_file_system(info.f_type as u32) {
        return Err(OpenError::NetworkFileSystem { path: path.to_owned(), kind });
    }
    let lock = path.join("sagad.lock");
    let file = private_files::open_or_create(&lock).map_err(unusable)?;
    // Anybody who can open it could hold its lock and keep the daemon from starting.
    private_files::make_private(&file);
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) if mutants::on(Mutant::LockNotTaken) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.to_owned(), lock }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// The file in which a restore builds the store until it is complete.
pub fn partial(data: &Path) -> PathBuf {
    data.join("sagad.db.partial")
}

/// Refuses to create an empty store where a restore was interrupted: it would assign tokens that were assigned before.
pub fn refuse_unrestored(data: &Path) -> Result<(), OpenError> {
    let partial = partial(data);
    if partial.exists() && !data.join("sagad.db").exists() {
        return Err(OpenError::Unrestored { partial });
    }
    Ok(())
}

/// Removes an unfinished database and SQLite's files beside it. A remaining journal would be played back into the next
/// file of that name.
pub fn remove_database(path: &Path) -> io::Result<()> {
    for suffix in ["-journal", "-wal", "-shm", ""] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Warnings about files of the store that others can access, and what to do. SQLite gives its files beside a database
/// the database's mode.
pub fn permission_warnings(data: &Path) -> Vec<String> {
    let told = |path: PathBuf, mode: &str, what: &str| {
        let others = private_files::others_with_access(&path)?;
        let path = path.display();
        Some(format!("{what} {path} is open to {others}; `chmod {mode} {path}` keeps them out"))
    };
    let names = ["sagad.db", "sagad.db-wal", "sagad.lock"];
    let files = names.into_iter().filter_map(|name| told(data.join(name), "600", "the store's file"));
    told(data.to_owned(), "700", "the data directory").into_iter().chain(files).collect()
}

/// Inspects a database without changing it.
pub fn inspect(path: &Path) -> Result<FoundDatabase, OpenError> {
    let log = path.with_extension("db-wal").metadata().map_or(0, |metadata| metadata.len());
    let is_damaged = |what: &str| OpenError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let size = match path.symlink_metadata() {
        // SQLite's files beside the database would be in another directory, and be missed there.
        Ok(metadata) if metadata.is_symlink() => {
            let what = "it is a symbolic link; name the directory that it leads to with --data".to_owned();
            return Err(OpenError::Unusable { path: path.to_owned(), what });
        }
        // A store gets its name only when it is complete, so an empty file is what is left of one.
        Ok(metadata) if metadata.len() == 0 => return Err(is_damaged("it is empty")),
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && log == 0 => return Ok(FoundDatabase::Nothing),
        // SQLite would create a new database and discard the log.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(is_damaged("it is gone, though its -wal file is there"));
        }
        Err(error) => return Err(OpenError::Unusable { path: path.to_owned(), what: error.to_string() }),
    };
    let damaged = |error: rusqlite::Error| open_error(path, &error);
    let log = path.with_extension("db-wal").metadata().map_or(0, |metadata| metadata.len());
    // Even a reader creates a log and its index beside a database in WAL mode. So, unless there is a log to read,
    // SQLite is told that nothing changes and needs neither.
    let opened = if log > 0 { connection::open_to_read(path) } else { connection::open_unchanging(path) };
    let connection = opened.map_err(damaged)?;
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(damaged);
    // Reading the schema shows whether the file is a database at all.
    let objects = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0));
    let objects = objects.map_err(damaged)?;
    let (application, version) = (pragma("application_id")? as i32, pragma("user_version")? as i32);
    if application == 0 && version == 0 && objects == 0 {
        return Err(is_damaged("it holds nothing"));
    }
    if application != APPLICATION_ID && !mutants::on(Mutant::ForeignFileTaken) {
        return Err(OpenError::Foreign { path: path.to_owned(), found: application });
    }
    if version > SCHEMA_VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found: version });
    }
    let expected = pragma("page_count")? * pragma("page_size")?;
    if log == 0 && (size as i64) < expected {
        let what = format!("it is {size} bytes long where {expected} are expected");
        return Err(OpenError::Damaged { path: path.to_owned(), what });
    }
    let Some(known) = usize::try_from(version).ok().filter(|version| *version > 0) else {
        return Err(is_damaged(&format!("it says that its schema is version {version}")));
    };
    if let Some(difference) = schema::difference(&connection, known).map_err(damaged)? {
        return Err(is_damaged(&difference));
    }
    Ok(FoundDatabase::Ours(version))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn p8_network_file_systems_are_detected() {
        assert_eq!(network_file_system(0x6969), Some("NFS"));
        assert_eq!(network_file_system(0xFF53_4D42), Some("CIFS"));
        assert_eq!(network_file_system(0xEF53), None, "ext4 is local");
    }

    #[test]
    fn p8_a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = take_directory(dir.path()).unwrap();
        assert!(matches!(take_directory(dir.path()), Err(OpenError::Locked { .. })));
        drop(first);
        take_directory(dir.path()).unwrap();
    }

    #[test]
    fn p8_damaged_foreign_and_newer_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        assert_eq!(inspect(&path).unwrap(), FoundDatabase::Nothing);

        std::fs::write(&path, b"this is no database at all, but it is long enough to look at").unwrap();
        assert!(matches!(inspect(&path), Err(OpenError::Damaged { .. })));

        std::fs::remove_file(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("PRAGMA application_id = 7; CREATE TABLE t (x);").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(inspect(&path), Err(OpenError::Foreign { found: 7, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);

        other.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99;")).unwrap();
        assert!(matches!(inspect(&path), Err(OpenError::Newer { found: 99, .. })));
    }
}
