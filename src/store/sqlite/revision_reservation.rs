//! Reserves revisions before they are assigned. A power loss can lose the tail of the log, and with it every trace of
//! the revisions assigned there. A reservation is checkpointed, so it is in the database file itself; the next start
//! continues above all that were reserved.

use crate::{
    coordinator::{BackendError, ChangeSet},
    domain::ids::Revision,
    mutants::{self, Mutant},
};

use super::{
    super::RESERVED,
    writer::{OpenedSqliteWriter, RevisionReservation, SqliteWriter},
};

/// After how many revisions a reservation that a read prevented is tried again.
const RETRY: usize = 1 << 16;

impl OpenedSqliteWriter {
    /// Makes the writer for this thread and reserves the first revisions.
    ///
    /// # Errors
    /// No revisions can be reserved: the disk is full or fails, or another process reads the database.
    pub fn start(self) -> Result<SqliteWriter, BackendError> {
        let mut rows = self.into_writer();
        rows.reserve(rows.reservation.next)?;
        Ok(rows)
    }
}

impl SqliteWriter {
    /// Reserves more revisions if a commit needs them; returns the next revision after it. If a long read prevents it,
    /// it is retried until the end of the block.
    pub(super) fn reserve_for(&mut self, changes: &ChangeSet) -> Result<Revision, BackendError> {
        // Events of sagas removed in the same turn are published but not stored; `compacted` is at least their
        // revision.
        let newest = changes.events.last().map(|appended| appended.event.revision).max(changes.compacted);
        let next = newest.map_or(self.reservation.next, |newest| newest.after(1).max(self.reservation.next));
        self.reserve(next)?;
        Ok(next)
    }

    fn reserve(&mut self, next: Revision) -> Result<(), BackendError> {
        if next < self.reservation.more_at || mutants::on(Mutant::RevisionsNotReserved) {
            return Ok(());
        }
        let end = next.after(RESERVED);
        if self.between(|rows| rows.raise_floor(end))? {
            self.reservation = RevisionReservation { end, more_at: next.after(RESERVED / 2), ..self.reservation };
        } else if next.after(RETRY) > self.reservation.end {
            let what = match self.reservation.end == self.reservation.next {
                true => "another process reads the database and keeps its log from being checkpointed",
                false => "no revisions can be reserved: a read has been in the way for millions",
            };
            return Err(BackendError::Unavailable(what.into()));
        } else {
            self.reservation.more_at = next.after(RETRY);
        }
        Ok(())
    }

    /// Writes the reserved end again, to find out whether the disk takes a write, without changing anything.
    pub(super) fn try_to_write(&mut self) -> Result<(), BackendError> {
        self.between(|rows| rows.raise_floor(rows.reservation.end)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{connection, load::meta, open_writer};
    use super::*;
    use crate::coordinator::Backend;

    /// A turn that assigns revisions up to this one.
    fn up_to(revision: i64) -> ChangeSet {
        ChangeSet { compacted: Some(Revision(revision)), ..ChangeSet::default() }
    }

    /// The value in the database without its log: what is left after a power loss in the worst case.
    fn floor_without_log(path: &Path) -> Revision {
        let copy = path.with_file_name("copy.db");
        std::fs::copy(path, &copy).unwrap();
        meta(&connection::open_unchanging(&copy).unwrap(), "revision_floor").unwrap()
    }

    /// A read transaction that keeps the log from being restarted.
    fn reading(path: &Path) -> rusqlite::Connection {
        let reader = connection::open_to_read(path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
        reader
    }

    #[test]
    fn p9_revisions_are_reserved_before_they_are_assigned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        let (rows, opening, _) = open_writer(&path, 1 << 20).unwrap();
        let mut rows = rows.start().unwrap();
        let (first, block) = (opening.next_revision.0, RESERVED as i64);
        assert_eq!(floor_without_log(&path).0, first + block, "before any revision is assigned");
        for given in [first + block / 2 - 2, first + block / 2, first + block + 7, first + 9 * block] {
            rows.commit(&up_to(given)).unwrap();
            assert!(floor_without_log(&path).0 > given, "{given} could be assigned again");
        }
        rows.close(crate::domain::time::Timestamp::ZERO).unwrap();
        drop(rows);
        let (_, opening, _) = open_writer(&path, 1 << 20).unwrap();
        assert_eq!(opening.next_revision.0, first + 9 * block + 1, "a clean shutdown leaves no gap");
    }

    #[test]
    fn p9_a_long_read_blocks_commits_only_at_the_end_of_the_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        let (rows, opening, _) = open_writer(&path, 1 << 20).unwrap();
        let mut rows = rows.start().unwrap();
        let end = opening.next_revision.0 + RESERVED as i64;
        rows.commit(&up_to(1)).unwrap();
        let reader = reading(&path);
        for given in [end - RESERVED as i64 / 3, end - RETRY as i64 - 2] {
            rows.commit(&up_to(given)).unwrap();
            assert_eq!(floor_without_log(&path).0, end, "the read blocks the reservation");
        }
        let before = rows.reservation.next;
        let refused = rows.commit(&up_to(end + 5));
        assert!(
            matches!(&refused, Err(BackendError::Unavailable(what)) if what.contains("for millions")),
            "{refused:?}"
        );
        assert_eq!(rows.reservation.next, before, "the commit did not happen");
        drop(reader);
        rows.commit(&up_to(end + 5)).unwrap();
        assert!(floor_without_log(&path).0 > end + 5);
    }

    #[test]
    fn p9_the_writer_does_not_start_while_another_process_blocks_the_first_reservation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        let (rows, _, _) = open_writer(&path, 1 << 20).unwrap();
        let _reader = reading(&path);
        let refused = rows.start().map(drop);
        assert!(
            matches!(&refused, Err(BackendError::Unavailable(what)) if what.contains("another process")),
            "{refused:?}"
        );
    }
}
