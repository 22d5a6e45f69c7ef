//! [`RecoveryOptions`] and the interface of a compensation's handler.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    client::{Client, LeaseKeeper, Notes, Shutdown, failed_starts::FailedStarts},
    proto::{Compensation, Saga},
};

/// Options of a recovery worker.
#[derive(Clone, Debug)]
pub struct RecoveryOptions {
    /// The queues to recover, at least one.
    pub queues: Vec<String>,
    /// Who claims; unique to this worker.
    pub owner_id: String,
    /// The leases' length, 100 ms to 24 h.
    pub ttl: Duration,
    /// How many sagas at a time from each source, at least 1.
    pub concurrency: usize,
    /// Whether to compensate running sagas whose lease ran out as well.
    pub stale: bool,
    /// End when there is nothing left to compensate instead of waiting for more. Sagas that must settle first are
    /// waited for; sagas that another worker holds are not.
    pub drain: bool,
    /// Claim only sagas whose pending compensations are all of these kinds. Empty: any; a kind without a handler then
    /// quarantines its saga instead of leaving it. Doesn't apply to sagas found by `stale`.
    pub kinds: Vec<String>,
    /// After this many recorded failures of one compensation, including those of earlier workers, the saga is
    /// quarantined.
    pub attempts: i32,
}

/// A compensation to run, as its handler gets it.
#[derive(Debug)]
pub struct CompensationRun<'a> {
    /// The saga, as it is now.
    pub saga: &'a Saga,
    /// Which of its compensations.
    pub compensation: &'a Compensation,
    /// The lease under which it runs.
    pub lease: &'a LeaseKeeper,
    /// Set when the worker must end at once: stop and return [`CompensationResult::Stopped`].
    pub kill: &'a CancellationToken,
}

/// How an attempt at a compensation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompensationResult {
    /// The effect is undone; the text goes into the history.
    Done(String),
    /// It failed, for this reason.
    Failed(String),
    /// It could not be started, for a reason that has nothing to do with the saga: a missing program, no memory.
    /// Nothing is recorded, and the saga is released with a delay. After five times in a row the worker ends with
    /// [`WorkerError::CannotStart`].
    NotStarted(String),
    /// It was stopped because the lease is lost or the worker must end: whether the effect is undone is not known, and
    /// nothing is recorded.
    Stopped(String),
}

/// Runs compensations. One may run more than once, so it must succeed if there is nothing left to undo.
pub trait CompensationHandler: Send + Sync + 'static {
    /// Whether this handler can undo compensations of `kind`.
    fn handles(&self, kind: &str) -> bool;

    /// Runs one compensation. Must stop when the lease is lost, and on `kill`.
    fn undo(&self, undo: CompensationRun<'_>) -> impl Future<Output = CompensationResult> + Send;
}

/// The state shared by all tasks of a recovery worker.
pub(super) struct Recovery<H> {
    pub(super) client: Client,
    pub(super) options: RecoveryOptions,
    pub(super) handler: H,
    pub(super) shutdown: Shutdown,
    pub(super) notes: Notes,
    pub(super) failed_starts: FailedStarts,
}
