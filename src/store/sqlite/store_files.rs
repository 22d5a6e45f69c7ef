//! [`StoreFiles`]: checks that the store's files are still those that were opened, and whether the disk has room.
//!
//! It only looks up names and never opens SQLite's files: closing the database file would drop SQLite's locks on it.

use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::private_files;

use super::error::SqliteError;
use crate::mutants::{self, Mutant};

/// What is written to find out whether there is room: more than the page that found none, and than any block.
static PROBE: [u8; 64 << 10] = [0; 64 << 10];

/// The files that the store has open.
pub(super) struct StoreFiles {
    directory: PathBuf,
    /// The database, its log and the lock file, each with its device and inode.
    open: Vec<(PathBuf, (u64, u64))>,
}

impl StoreFiles {
    /// The files that have the names now. Missing ones are not checked: a test has no lock file.
    pub(super) fn of(database: &Path) -> Self {
        let names = [database.to_owned(), database.with_extension("db-wal"), database.with_file_name("sagad.lock")];
        let open = names.into_iter().filter_map(|path| identity(&path).ok().map(|identity| (path, identity)));
        StoreFiles { directory: private_files::directory_of(database).to_owned(), open: open.collect() }
    }

    /// Checks that each name still leads to the file that was opened. It takes a few microseconds.
    pub(super) fn are_in_place(&self) -> Result<(), SqliteError> {
        if mutants::on(Mutant::StoreGoneUnnoticed) {
            return Ok(());
        }
        for (path, opened) in &self.open {
            let what = match identity(path) {
                Ok(found) if found == *opened => continue,
                Ok(_) => "was replaced by another file",
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    "was removed or renamed"
                }
                // For example, the directory may not be searched any more: nothing is known about the file.
                Err(_) => continue,
            };
            return Err(SqliteError::Gone(format!("{} {what}", path.display())));
        }
        Ok(())
    }

    /// True if a write to the store's disk fails for lack of room: no free block, or a used-up quota.
    ///
    /// SQLite reports a used-up quota like any other failed write and doesn't pass on errno, so this writes a file of
    /// its own to find out. A commit that was refused so did not happen: its last frame, which completes it, was not
    /// written. (If a disk fails for another reason just when a quota is used up, it counts as full.)
    pub(super) fn lack_room(&self) -> bool {
        let probed = private_files::unnamed(&self.directory).and_then(|file| file.write_all_at(&PROBE, 0));
        probed.is_err_and(|error| matches!(error.kind(), io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull))
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p3_a_replaced_file_is_noticed_even_with_the_same_content() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("sagad.db");
        let names = ["sagad.db", "sagad.db-wal", "sagad.lock"].map(|name| dir.path().join(name));
        names.iter().for_each(|name| fs::write(name, "x").unwrap());
        let files = StoreFiles::of(&database);
        files.are_in_place().unwrap();
        for name in &names {
            let aside = dir.path().join("aside");
            fs::rename(name, &aside).unwrap();
            let gone = files.are_in_place().unwrap_err();
            assert_eq!(gone, SqliteError::Gone(format!("{} was removed or renamed", name.display())));
            fs::write(name, "x").unwrap();
            let replaced = files.are_in_place().unwrap_err();
            assert_eq!(replaced, SqliteError::Gone(format!("{} was replaced by another file", name.display())));
            fs::rename(&aside, name).unwrap();
            files.are_in_place().unwrap();
        }
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(files.are_in_place().is_err() && !files.lack_room(), "a missing directory is not a full disk");
    }
}
