//! The recovery worker: claims sagas to be compensated, runs their compensations in reverse order, records each
//! outcome, and finishes them. It never reports more than it knows: a kind without a handler, or one that keeps
//! failing, quarantines the saga with the kind in the reason.
//!
//! It gets sagas from two sources. `ClaimNext` returns sagas that are compensating already. With `stale`, `WatchStale`
//! reports running sagas whose lease expired, and these are claimed by id. Each source has its own slots, so that one
//! that waits in the coordinator never blocks the other.

mod stale;
mod undo;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Client, LeaseKeeper, Note, Notes, Shutdown, WorkerError,
    claims::{Claimed, Claims},
    starts::FailedStarts,
    time::Moment,
    worker::DRAIN_PATIENCE,
};
use crate::proto::{Compensation, LeasePurpose, Saga};

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
pub struct Undo<'a> {
    /// The saga, as it is now.
    pub saga: &'a Saga,
    /// Which of its compensations.
    pub compensation: &'a Compensation,
    /// The lease under which it runs.
    pub lease: &'a LeaseKeeper,
    /// Set when the worker must end at once: stop and return [`Undone::Stopped`].
    pub kill: &'a CancellationToken,
}

/// How an attempt at a compensation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
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
    fn undo(&self, undo: Undo<'_>) -> impl Future<Output = Undone> + Send;
}

/// The state shared by all tasks of a recovery worker.
struct Recovery<H> {
    client: Client,
    options: RecoveryOptions,
    handler: H,
    shutdown: Shutdown,
    notes: Notes,
    starts: FailedStarts,
}

/// Runs until told to stop, or with `drain` until there is nothing left. Waits for running compensations before it
/// returns.
///
/// ```no_run
/// use std::{sync::Arc, time::Duration};
///
/// use sagad::client::{
///     Client, Shutdown,
///     recovery::{self, CompensationHandler, RecoveryOptions, Undo, Undone},
/// };
///
/// struct Files;
///
/// impl CompensationHandler for Files {
///     fn handles(&self, kind: &str) -> bool {
///         kind == "remove-file"
///     }
///
///     async fn undo(&self, undo: Undo<'_>) -> Undone {
///         match std::fs::remove_file(&undo.compensation.target) {
///             // Whoever undid it before may have died before it was recorded.
///             Err(error) if error.kind() != std::io::ErrorKind::NotFound => Undone::Failed(error.to_string()),
///             Err(_) | Ok(()) => Undone::Done(String::new()),
///         }
///     }
/// }
///
/// # async fn example(client: Client) -> Result<(), sagad::client::WorkerError> {
/// let options = RecoveryOptions {
///     queues: vec!["default".into()],
///     owner_id: format!("my-host:{}", std::process::id()),
///     ttl: Duration::from_secs(30),
///     concurrency: 1,
///     stale: true,
///     drain: false,
///     kinds: Vec::new(),
///     attempts: 3,
/// };
/// recovery::run(client, options, Files, Shutdown::default(), Arc::new(|note| println!("{note}"))).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The coordinator refused a claim or a watch (an invalid queue, no permission); with `drain`, also if it was away for
/// a minute; without, it is waited for. Or compensations could not be started five times in a row.
pub async fn run<H: CompensationHandler>(
    client: Client,
    options: RecoveryOptions,
    handler: H,
    shutdown: Shutdown,
    notes: Notes,
) -> Result<(), WorkerError> {
    // An error here stops only this worker, not others that share the switches.
    let shutdown = Shutdown { drain: shutdown.drain.child_token(), kill: shutdown.kill };
    let starts = FailedStarts::new(shutdown.drain.clone());
    let recovery = Arc::new(Recovery { client, options, handler, shutdown, notes, starts });
    let result = if recovery.options.drain {
        stale::drain(&recovery).await
    } else {
        // If one source fails, the other is stopped, so that the error is not hidden by a healthy half.
        let both = async {
            tokio::try_join!(guarded(&recovery, claim_next(&recovery)), guarded(&recovery, stale::follow(&recovery)))
        };
        both.await.map(|_| ())
    };
    match recovery.starts.error() {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

async fn guarded<H>(recovery: &Recovery<H>, source: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    let result = source.await;
    if result.is_err() {
        recovery.shutdown.drain.cancel();
    }
    result
}

/// Claims sagas that are compensating already. With `drain`, until there are none.
async fn claim_next<H: CompensationHandler>(recovery: &Arc<Recovery<H>>) -> Result<(), Status> {
    let options = &recovery.options;
    let claims = Claims {
        client: recovery.client.clone(),
        queues: options.queues.clone(),
        owner_id: options.owner_id.clone(),
        ttl: options.ttl,
        purpose: LeasePurpose::Compensate,
        kinds: options.kinds.clone(),
        wait: !options.drain,
        patience: options.drain.then_some(DRAIN_PATIENCE),
        notes: Arc::clone(&recovery.notes),
    };
    let mut pool = Pool::new(recovery);
    let result = loop {
        let Some(slot) = pool.free_slot().await else { break Ok(()) };
        // Checked after the slot: the work that had it before may just have failed to start.
        recovery.starts.pause().await;
        match claims.next(1, &recovery.shutdown.drain).await {
            Ok(Claimed::Stopped) => break Ok(()),
            Err(status) => break Err(status),
            Ok(Claimed::Sagas(sagas, _)) if sagas.is_empty() && options.drain => break Ok(()),
            Ok(Claimed::Sagas(sagas, asked)) => {
                // At most one was asked for.
                if let Some(saga) = sagas.into_iter().next() {
                    pool.start(saga, asked, slot);
                }
            }
        }
    };
    pool.finish().await;
    result
}

/// Permission to compensate one more saga.
type Slot = OwnedSemaphorePermit;

/// The sagas of one source that are being compensated, at most `concurrency` at a time.
struct Pool<'a, H> {
    recovery: &'a Arc<Recovery<H>>,
    slots: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl<'a, H: CompensationHandler> Pool<'a, H> {
    fn new(recovery: &'a Arc<Recovery<H>>) -> Self {
        let slots = Arc::new(Semaphore::new(recovery.options.concurrency.max(1)));
        Self { recovery, slots, running: JoinSet::new() }
    }

    /// Waits for a free slot and takes it; `None` if told to stop.
    async fn free_slot(&mut self) -> Option<Slot> {
        while self.running.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = self.recovery.shutdown.drain.cancelled() => None,
            permit = Arc::clone(&self.slots).acquire_owned() => permit.ok(),
        }
    }

    /// Starts to compensate a saga that was just claimed.
    fn start(&mut self, saga: Saga, asked: Moment, slot: Slot) {
        let recovery = Arc::clone(self.recovery);
        self.running.spawn(async move {
            let _slot = slot;
            let task_id = saga.task_id.clone();
            match LeaseKeeper::start(&recovery.client, &saga, asked).await {
                Ok(lease) => {
                    (recovery.notes)(Note::claimed(&saga));
                    let note = undo::undo_all(&recovery, saga, &lease).await;
                    (recovery.notes)(note);
                }
                Err(lost) => (recovery.notes)(Note::Lost { task_id, lost }),
            }
        });
    }

    async fn finish(&mut self) {
        while self.running.join_next().await.is_some() {}
    }
}
