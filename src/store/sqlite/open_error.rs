//! [`OpenError`]: why a store can't be opened.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::values;

/// Marks a database as sagad's: "saga" in ASCII.
pub const APPLICATION_ID: i32 = 0x7361_6761;

/// The schema version that this program reads and writes.
pub const SCHEMA_VERSION: i32 = 3;

/// Why a store was not opened. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory can't be used.
    #[error("the data directory {path} can't be used: {error}; choose another with --data or mend its permissions")]
    Directory { path: PathBuf, error: io::Error },
    /// Another daemon has it open.
    #[error(
        "the data directory {path} is in use by another sagad (it holds {lock}); stop that one first or choose \
         another directory with --data"
    )]
    Locked { path: PathBuf, lock: PathBuf },
    /// A restore into the directory was interrupted.
    #[error(
        "{partial} is what a restore left that was cut off: there is no store here yet; run `sagad restore` again, or \
         remove that file to begin with an empty store"
    )]
    Unrestored { partial: PathBuf },
    /// The directory is on a network file system, whose locks and syncs are not reliable.
    #[error(
        "the data directory {path} is on a network file system ({kind}), whose locks and syncs can't be relied on; \
         choose a directory on a local disk with --data"
    )]
    NetworkFileSystem { path: PathBuf, kind: &'static str },
    /// The file is another program's database.
    #[error(
        "{path} is a database of another program (application id {found:#x}); sagad has not touched it; choose \
         another directory with --data"
    )]
    Foreign { path: PathBuf, found: i32 },
    /// The file was written by a later version.
    #[error(
        "{path} was written by a newer sagad (schema {found}, this one knows up to {SCHEMA_VERSION}); install that \
         version or a later one; nothing was changed"
    )]
    Newer { path: PathBuf, found: i32 },
    /// The file is damaged, or no database.
    #[error(
        "{path} is damaged: {what}; nothing was changed; keep a copy of it with its -wal file, and start from a backup"
    )]
    Damaged { path: PathBuf, what: String },
    /// The file can't be read or written.
    #[error("{path} can't be opened: {what}")]
    Unusable { path: PathBuf, what: String },
}

/// What was found in place of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundDatabase {
    /// Nothing yet.
    Nothing,
    /// A database of sagad, with its schema version.
    Ours(i32),
}

/// The error of opening a file on which SQLite failed.
pub fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode;
    let (path, what) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path, what },
        _ => match values::wrong_value(error) {
            Some(what) => OpenError::Damaged { path, what },
            None => OpenError::Unusable { path, what },
        },
    }
}
