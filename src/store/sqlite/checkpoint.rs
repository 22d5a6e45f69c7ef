//! Checkpoints: from the log into the database, so that the log stays within its bound.
//!
//! SQLite's own are off, since it swallows their errors. Ours copy a little whenever enough has gathered, which never
//! waits for anyone. Only when readers have kept the log from being reused until it has reached its bound does the
//! writer shut the gate to new reads, let the ones under way end (they are bounded), and start the log anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use rusqlite::Connection;

use super::{super::rows::RowsError, load::rows_error, sql};

/// Pages of 4 KiB that gather before a checkpoint: 4 MiB, about what a disk writes in the time of a few syncs.
const GATHERED_PAGES: u64 = 1024;
/// The same while nobody waits: then it disturbs nobody.
const GATHERED_PAGES_IDLE: u64 = 256;
const PAGE_BYTES: u64 = 4096;
/// How long the writer waits for the locks of other processes, which tools take for moments.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for reads that don't come through the gate before it lets the log grow further.
const RESTART_WAIT: Duration = Duration::from_millis(20);
/// How often a restart is tried again while the log grows by its bound once more.
const RETRIES_PER_BOUND: u64 = 8;

/// The gate through which every read goes.
pub type Gate = Arc<RwLock<()>>;

/// Keeps the log bounded.
pub struct Checkpoints {
    /// Pages in the log, as of the last commit.
    log_pages: Arc<AtomicU64>,
    /// Pages in the log when it was last copied.
    copied: u64,
    max_pages: u64,
    /// From how many pages on to start the log anew.
    retry_at: u64,
    gate: Gate,
}

impl Checkpoints {
    /// Takes over the checkpoints of a writing connection; the log is to stay below `max_bytes`.
    pub fn take_over(connection: &mut Connection, max_bytes: u64, gate: Gate) -> Result<Self, RowsError> {
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(rows_error)?;
        let log_pages = Arc::new(AtomicU64::new(0));
        let seen = log_pages.clone();
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
                seen.store(pages.unsigned_abs().into(), Ordering::Relaxed);
                Ok(())
            }))
            .map_err(rows_error)?;
        connection.busy_timeout(BUSY_WAIT).map_err(rows_error)?;
        let max_pages = max_bytes / PAGE_BYTES;
        Ok(Checkpoints { log_pages, copied: 0, max_pages, retry_at: max_pages, gate })
    }

    /// Copies what has gathered, if it is enough; starts the log anew, if it has reached its bound.
    pub fn keep_bounded(&mut self, connection: &Connection, idle: bool) -> Result<(), RowsError> {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages < self.copied {
            // The log has begun anew by itself, as it does when all of it was copied and nobody reads it.
            self.copied = 0;
            self.retry_at = self.max_pages;
        }
        if pages >= self.retry_at {
            if !self.restart(connection)? {
                // A backup, or another process. Asking again at once would only stall the writer again.
                self.retry_at = pages + self.max_pages / RETRIES_PER_BOUND;
                tracing::warn!(log_pages = pages, "a long read keeps the database's log from being started anew");
            }
        } else if pages - self.copied >= if idle { GATHERED_PAGES_IDLE } else { GATHERED_PAGES } {
            self.run(connection, sql::CHECKPOINT_PASSIVE)?;
            self.copied = pages;
        }
        Ok(())
    }

    /// Copies everything and makes the next commit start the log anew. Waits for the bounded reads under way, and a
    /// little for others; returns whether it could.
    pub fn restart(&mut self, connection: &Connection) -> Result<bool, RowsError> {
        let gate = self.gate.clone();
        let _shut = gate.write();
        connection.busy_timeout(RESTART_WAIT).map_err(rows_error)?;
        let done = self.run(connection, sql::CHECKPOINT_RESTART);
        connection.busy_timeout(BUSY_WAIT).map_err(rows_error)?;
        if done? {
            return Ok(false);
        }
        self.copied = 0;
        self.retry_at = self.max_pages;
        self.log_pages.store(0, Ordering::Relaxed);
        Ok(true)
    }

    /// Runs a checkpoint; returns whether something was in its way.
    fn run(&self, connection: &Connection, checkpoint: &'static str) -> Result<bool, RowsError> {
        let busy = connection.prepare_cached(checkpoint).and_then(|mut s| s.query_row([], |row| row.get::<_, i64>(0)));
        busy.map(|busy| busy != 0).map_err(rows_error)
    }
}
