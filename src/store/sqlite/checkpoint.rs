//! Checkpoints: copy the log into the database, so that the log stays bounded.
//!
//! SQLite's automatic checkpoints are off, because it hides their errors. Ours copy a part of the log whenever enough
//! has gathered, which never waits. Only if readers keep the log from being restarted until it has reached its bound
//! does the writer block new reads, wait for those that run (they are bounded), and restart the log.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::RwLock;
use rusqlite::Connection;

use crate::metrics::{CheckpointKind, CheckpointOutcome, LogMetrics};

use super::{error::SqliteError, sql};

/// Pages of 4 KiB in the log before a checkpoint: 4 MiB, about what a disk writes in the time of a few syncs.
const GATHERED_PAGES: u64 = 1024;
/// The same while no call waits.
const GATHERED_PAGES_IDLE: u64 = 256;
/// SQLite's default page size, which stores are created with.
pub const PAGE_BYTES: u64 = 4096;
/// How long the writer waits for locks of other processes, which tools hold for moments.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for reads that don't take the read lock before it lets the log grow further.
const RESTART_WAIT: Duration = Duration::from_millis(20);
/// How often a restart is retried while the log grows by its bound again.
const RETRIES_PER_BOUND: u64 = 8;

/// Every read holds it shared; restarting the log holds it exclusively.
pub type ReadLock = Arc<RwLock<()>>;

/// Keeps the log within its bound.
pub struct Checkpoints {
    /// Metrics: bytes of the log as of the last commit, and the checkpoints.
    metrics: Arc<LogMetrics>,
    /// Pages in the log when it was last copied.
    copied: u64,
    max_pages: u64,
    /// From how many pages on to restart the log.
    retry_at: u64,
    read_lock: ReadLock,
}

impl Checkpoints {
    /// Takes over checkpointing of a writing connection; the log is to stay below `max_bytes`.
    pub fn take_over(connection: &mut Connection, max_bytes: u64, read_lock: ReadLock) -> Result<Self, SqliteError> {
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // If a long read made the log's file grow, it is truncated when the log is restarted.
        let limit = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        connection.pragma_update(None, "journal_size_limit", limit)?;
        let metrics = Arc::new(LogMetrics::default());
        let seen = metrics.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            seen.bytes.store(u64::from(pages.unsigned_abs()) * PAGE_BYTES, Ordering::Relaxed);
            Ok(())
        }))?;
        connection.busy_timeout(BUSY_WAIT)?;
        let max_pages = max_bytes / PAGE_BYTES;
        Ok(Checkpoints { metrics, copied: 0, max_pages, retry_at: max_pages, read_lock })
    }

    /// The metrics of the log and its checkpoints.
    pub fn metrics(&self) -> Arc<LogMetrics> {
        self.metrics.clone()
    }

    /// Copies a part of the log if enough has gathered; restarts the log if it has reached its bound.
    pub fn keep_bounded(&mut self, connection: &Connection, idle: bool) -> Result<(), SqliteError> {
        let pages = self.metrics.bytes.load(Ordering::Relaxed) / PAGE_BYTES;
        if pages < self.copied {
            // SQLite has restarted the log itself, as it does when all of it was copied and nobody reads it.
            self.begun_anew();
        }
        if pages >= self.retry_at {
            if !self.restart(connection)? {
                // A backup or another process reads. Trying again at once would only stall the writer again.
                self.retry_at = pages + self.max_pages / RETRIES_PER_BOUND;
                tracing::warn!(log_pages = pages, "a long read keeps the database's log from being started anew");
            }
        } else if pages - self.copied >= if idle { GATHERED_PAGES_IDLE } else { GATHERED_PAGES } {
            self.run(connection, CheckpointKind::Passive)?;
            self.copied = pages;
        }
        Ok(())
    }

    /// True if a read keeps more than half of the log's bound in it, so that maintenance should wait. If all of it can
    /// be copied, the next commit restarts it.
    pub fn is_held(&mut self, connection: &Connection) -> Result<bool, SqliteError> {
        let pages = self.metrics.bytes.load(Ordering::Relaxed) / PAGE_BYTES;
        if pages <= self.max_pages / 2 {
            return Ok(false);
        }
        let copied = connection.prepare_cached(sql::CHECKPOINT_PASSIVE).and_then(|mut statement| {
            statement
                .query_row([], |row| Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?))
        });
        Ok(!copied?)
    }

    /// Copies everything and makes the next commit restart the log. Waits for running bounded reads, and a little for
    /// others; returns true if it succeeded.
    pub fn restart(&mut self, connection: &Connection) -> Result<bool, SqliteError> {
        let read_lock = self.read_lock.clone();
        let _shut = read_lock.write();
        connection.busy_timeout(RESTART_WAIT)?;
        let done = self.run(connection, CheckpointKind::Restart);
        connection.busy_timeout(BUSY_WAIT)?;
        if done? {
            return Ok(false);
        }
        self.begun_anew();
        self.metrics.bytes.store(0, Ordering::Relaxed);
        Ok(true)
    }

    fn begun_anew(&mut self) {
        self.copied = 0;
        self.retry_at = self.max_pages;
        self.metrics.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs a checkpoint; returns true if a read or lock prevented it.
    fn run(&self, connection: &Connection, kind: CheckpointKind) -> Result<bool, SqliteError> {
        let statement = match kind {
            CheckpointKind::Passive => sql::CHECKPOINT_PASSIVE,
            CheckpointKind::Restart => sql::CHECKPOINT_RESTART,
        };
        let busy = connection.prepare_cached(statement).and_then(|mut s| s.query_row([], |row| row.get::<_, i64>(0)));
        let busy = busy.map(|busy| busy != 0);
        self.metrics.checkpointed(
            kind,
            match &busy {
                Ok(false) => CheckpointOutcome::Done,
                Ok(true) => CheckpointOutcome::Busy,
                Err(_) => CheckpointOutcome::Failed,
            },
        );
        Ok(busy?)
    }
}
