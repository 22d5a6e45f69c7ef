//! Restores a store from a backup.
//!
//! The copy doesn't have the tokens and revisions that the lost store assigned after it. So everything that the
//! restored store assigns is far above whatever the lost store can have assigned, and positions in the lost history
//! are known not to exist.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rusqlite::OptionalExtension;

use crate::{
    domain::{
        bounds::{NUMBERS_LEFT, REVISION_MAX},
        ids::Revision,
        time::Timestamp,
    },
    private_files,
};

use super::{
    super::REVISION_JUMP,
    check::{CheckReport, check_file, create_newest_views},
    connection,
    load::meta,
    open_checks::{partial, remove_database, take_directory},
    open_error::{OpenError, open_error},
    sql,
    values::corrupt_value,
};

/// 2026-01-01, in microseconds: the assumed time of a copy without events.
const BEFORE_ANY_COPY: i64 = 1_767_225_600_000_000;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory or the copy can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory already has a store.
    #[error("{path} exists already; sagad restores into an empty directory only, so that no store is lost by mistake")]
    Exists { path: PathBuf },
    /// The copy is damaged.
    #[error("the copy {path} is damaged, and nothing was restored: {problem}")]
    Damaged { path: PathBuf, problem: String },
    /// Files can't be copied or synced.
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreResult {
    /// The verification of the copy.
    pub report: CheckReport,
    /// The next revision, and the next token, is at least this.
    pub next_revision: Revision,
}

/// Restores `copy` into `data`. The copy is verified, and the store synced before it gets its name. `now` makes two
/// restores from one copy differ.
pub fn restore(copy: &Path, data: &Path, now: Timestamp) -> Result<RestoreResult, RestoreError> {
    let _lock = take_directory(data)?;
    let path = data.join("sagad.db");
    for existing in [path.clone(), data.join("sagad.db-wal")] {
        if existing.exists() {
            return Err(RestoreError::Exists { path: existing });
        }
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| RestoreError::Io { path, error }
    };
    // Built under another name: an interrupted restore leaves no file that could be mistaken for a store.
    let partial = partial(data);
    remove_database(&partial).map_err(io(&partial))?;
    copy_file(copy, &partial).map_err(io(copy))?;
    let restored = whole(&partial, copy).and_then(|report| match jump(&partial, report.head, now) {
        Ok(next_revision) => Ok(RestoreResult { report, next_revision }),
        Err(error) => Err(open_error(copy, &error).into()),
    });
    match restored {
        Ok(_) => private_files::rename_synced(&partial, &path).map_err(io(&path))?,
        Err(_) => remove_database(&partial).map_err(io(&partial))?,
    }
    restored
}

/// Verifies the copied file; errors name the original.
fn whole(partial: &Path, copy: &Path) -> Result<CheckReport, RestoreError> {
    let path = copy.to_owned();
    let mut report = match check_file(partial) {
        Ok(report) => report,
        Err(OpenError::Damaged { what, .. }) => return Err(RestoreError::Damaged { path, problem: what }),
        Err(OpenError::Foreign { found, .. }) => return Err(OpenError::Foreign { path, found }.into()),
        Err(OpenError::Newer { found, .. }) => return Err(OpenError::Newer { path, found }.into()),
        Err(other) => return Err(other.into()),
    };
    if report.problems.is_empty() {
        return Ok(report);
    }
    Err(RestoreError::Damaged { path, problem: report.problems.swap_remove(0) })
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = private_files::create_new(to)?;
    io::copy(&mut source, &mut target).map(drop)
}

/// Raises the next revision above all that were assigned since the copy.
fn jump(path: &Path, head: Revision, now: Timestamp) -> Result<Revision, rusqlite::Error> {
    let connection = connection::open(path)?;
    // No log beside the file until it has its name.
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The copy may have an older schema version, which the next start of the daemon migrates.
    create_newest_views(&connection, connection.pragma_query_value(None, "user_version", |row| row.get(0))?)?;
    let floor: Revision = meta(&connection, "revision_floor")?;
    let last_event = connection.query_row(sql::LAST_EVENT_TIME, [], |row| row.get(1)).optional()?;
    let copied_at = last_event.unwrap_or(Timestamp::from_micros(BEFORE_ANY_COPY));
    // One more for each microsecond since then, which is more than a store assigns. So a second restore from the same
    // copy is above all that was assigned after the first.
    let next = floor.max(head.after(1)).0.saturating_add(REVISION_JUMP).saturating_add(now.since(copied_at).micros());
    if next > REVISION_MAX - NUMBERS_LEFT {
        return Err(corrupt_value(format!(
            "the next revision would be {next}, with too few left up to {REVISION_MAX}"
        )));
    }
    connection.execute(sql::RAISE_META, rusqlite::params!["revision_floor", next])?;
    // Switched before the rename: an interrupted switch leaves a journal, with which the file can't be inspected.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(Revision(next))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::store::sqlite::open_writer;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn healthy_copy(dir: &Path) -> PathBuf {
        let copy = dir.join("copy");
        drop(open_writer(&copy, 1 << 20).unwrap());
        Connection::open(&copy).unwrap().execute_batch(include_str!("healthy.sql")).unwrap();
        copy
    }

    #[test]
    fn p9_revisions_jump_after_a_restore() {
        let dir = tempfile::tempdir().unwrap();
        let copy = healthy_copy(dir.path());
        let data = dir.path().join("data");
        let restored = restore(&copy, &data, NOW).unwrap();
        assert_eq!(restored.report.sagas, 1);
        let (_, opening, _) = open_writer(&data.join("sagad.db"), 1 << 20).unwrap();
        assert_eq!((opening.head, opening.next_revision), (Revision(2), restored.next_revision));
        assert!(opening.next_revision.0 > REVISION_JUMP);
        assert!(matches!(restore(&copy, &data, NOW), Err(RestoreError::Exists { .. })));
    }

    #[test]
    fn a_copy_of_an_older_version_is_restored_unmigrated() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        Connection::open(&copy).unwrap().execute_batch(include_str!("store_2.sql")).unwrap();
        let data = dir.path().join("data");
        let restored = restore(&copy, &data, NOW).unwrap();
        assert_eq!((restored.report.sagas, restored.report.events), (13, 33));
        let path = data.join("sagad.db");
        let version = |path| Connection::open(path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0));
        assert_eq!(version(&path), Ok(2));
        let (_, opening, _) = open_writer(&path, 1 << 20).unwrap();
        assert_eq!((opening.head, opening.next_revision), (Revision(36), restored.next_revision));
        assert_eq!(version(&path), Ok(3));
        assert_eq!(check_file(&path).unwrap().problems, Vec::<String>::new());
    }

    #[test]
    fn a_damaged_copy_is_refused_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let copy = healthy_copy(dir.path());
        Connection::open(&copy).unwrap().execute_batch("UPDATE work SET revision = 1").unwrap();
        let data = dir.path().join("data");
        assert!(matches!(restore(&copy, &data, NOW), Err(RestoreError::Damaged { .. })));
        assert!(!data.join("sagad.db").exists() && !data.join("sagad.db.partial").exists());
    }
}
