//! The recovery worker: claims sagas to be compensated, undoes what they left behind in reverse order, records each
//! outcome, and finishes them. It never claims more than it knows: a kind without a handler, or one that keeps
//! failing, parks the saga with the kind named.
//!
//! Two sources feed it. `ClaimNext` gives out sagas that are compensating already. With `stale`, `WatchStale` tells
//! of running sagas whose lease ran out, and these are claimed by id; each source has slots of its own, so that one
//! waiting in the coordinator never holds up the other.

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

/// What a recovery worker takes, and how.
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
    /// End when there is nothing left to compensate, rather than wait for more. What has to settle first is waited
    /// for; what another worker holds is not.
    pub drain: bool,
    /// Take only sagas whose pending compensations are all of these kinds. Empty: any, and a kind without a handler parks
    /// its saga rather than leave it lying. It has no bearing on those that come by `stale`.
    pub kinds: Vec<String>,
    /// After so many recorded failures of one compensation, those of earlier workers included, the saga is parked.
    pub attempts: i32,
}

/// One compensation to be run, as its handler sees it.
#[derive(Debug)]
pub struct Undo<'a> {
    /// The saga, as it is now.
    pub saga: &'a Saga,
    /// Which of its compensations.
    pub compensation: &'a Compensation,
    /// The lease under which it runs.
    pub lease: &'a LeaseKeeper,
    /// Set when the worker was told to end at once: stop, and answer [`Undone::Stopped`].
    pub kill: &'a CancellationToken,
}

/// How an attempt at a compensation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// What it names is undone; the text goes into the history.
    Done(String),
    /// It failed, for this reason.
    Failed(String),
    /// It could not be started, for this reason, which says nothing about the saga: a missing program, no memory. Nothing is
    /// recorded, and the saga is given back with a delay. After five times in a row the worker ends with
    /// [`WorkerError::CannotStart`].
    NotStarted(String),
    /// It was ended because the lease is lost or the worker has to end: whether it is undone is not known, and
    /// nothing is recorded.
    Stopped(String),
}

/// The undoing. An undo may run more than once, so it must succeed when there is nothing left to undo.
pub trait CompensationHandler: Send + Sync + 'static {
    /// Whether this handler can undo compensations of `kind`.
    fn handles(&self, kind: &str) -> bool;

    /// Undoes one. To be stopped when the lease is lost, and on `kill`.
    fn undo(&self, undo: Undo<'_>) -> impl Future<Output = Undone> + Send;
}

/// What all tasks of one recovery worker share.
struct Recovery<H> {
    client: Client,
    options: RecoveryOptions,
    handler: H,
    shutdown: Shutdown,
    notes: Notes,
    starts: FailedStarts,
}

/// Recovers until told to stop, or with `drain` until there is nothing left. Running undos are awaited before it
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
/// The coordinator's refusal of a claim or a watch (an invalid queue, no permission); with `drain`, also its being
/// away for a minute. Without, it is waited for. And undos that could not be started five times in a row.
pub async fn run<H: CompensationHandler>(
    client: Client,
    options: RecoveryOptions,
    handler: H,
    shutdown: Shutdown,
    notes: Notes,
) -> Result<(), WorkerError> {
    // An error here stops this worker, and no other one that is told to end by the same switches.
    let shutdown = Shutdown { drain: shutdown.drain.child_token(), kill: shutdown.kill };
    let starts = FailedStarts::new(shutdown.drain.clone());
    let recovery = Arc::new(Recovery { client, options, handler, shutdown, notes, starts });
    let result = if recovery.options.drain {
        stale::drain(&recovery).await
    } else {
        // The first source to fail stops the other, so that an error does not hide behind a healthy half.
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

/// The sagas that are compensating already, as the coordinator hands them out. With `drain`, until there are none.
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
        // Behind the slot: what had it before may just have failed to start.
        recovery.starts.pause().await;
        match claims.next(1, &recovery.shutdown.drain).await {
            Ok(Claimed::Stopped) => break Ok(()),
            Err(status) => break Err(status),
            Ok(Claimed::Sagas(sagas, _)) if sagas.is_empty() && options.drain => break Ok(()),
            Ok(Claimed::Sagas(sagas, asked)) => {
                // One was asked for, so at most one came.
                if let Some(saga) = sagas.into_iter().next() {
                    pool.start(saga, asked, slot);
                }
            }
        }
    };
    pool.finish().await;
    result
}

/// The right to have one more saga being undone.
type Slot = OwnedSemaphorePermit;

/// The sagas of one source that are being undone, at most `concurrency` at a time.
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

    /// Waits until there is a slot and takes it; `None` when told to stop.
    async fn free_slot(&mut self) -> Option<Slot> {
        while self.running.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = self.recovery.shutdown.drain.cancelled() => None,
            permit = Arc::clone(&self.slots).acquire_owned() => permit.ok(),
        }
    }

    /// Starts to undo a saga just claimed.
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
