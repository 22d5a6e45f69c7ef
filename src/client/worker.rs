//! The worker: claims sagas from queues, runs a [`Handler`] for each while keeping its lease, and reports the outcome.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::{
    Client, LeaseKeeper, LeaseKey, LeaseLost, LeaseStatus, Note, Notes, ReportRpc, Shutdown, StatusDetails,
    WorkerError,
    claimer::{ClaimResult, Claimer},
    convert,
    failed_starts::FailedStarts,
    retry::RetryOn,
    time::Moment,
};
use crate::proto::{
    CompensationSpec, CompleteRequest, FailRequest, LeasePurpose, QuarantineRequest, RegisterCompensationRequest,
    ReleaseRequest, Saga,
};

/// How long after the lease's deadline an outcome is still reported: the coordinator accepts late results from a lease
/// that nothing has ended, and it may just be restarting.
pub const REPORT_GRACE: Duration = Duration::from_secs(60);

/// How often a draining worker claims again while it still has running work.
const DRAIN_POLL: Duration = Duration::from_secs(1);

/// With `drain`, a coordinator that is away this long is an error, since somebody waits for the end.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// Options of a worker.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The queues to claim from, at least one.
    pub queues: Vec<String>,
    /// Who claims; unique to this worker.
    pub owner_id: String,
    /// The leases' length, 100 ms to 24 h.
    pub ttl: Duration,
    /// How many sagas at a time, at least 1.
    pub concurrency: usize,
    /// End when there is nothing to claim and nothing runs here, instead of waiting for more.
    pub drain: bool,
}

/// A claimed saga, as its handler gets it.
#[derive(Debug)]
pub struct Task {
    /// The saga as it was when it was claimed.
    pub saga: Saga,
    /// Its lease. Check its status: once it is `Lost`, somebody else may do the work.
    pub lease: LeaseKeeper,
    /// Set when the worker must end at once: stop and return [`WorkOutcome::Released`].
    pub kill: CancellationToken,
}

/// How the work on a saga ended.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkOutcome {
    /// It is done.
    Completed {
        /// What came out of it, at most 64 KiB.
        result: Bytes,
        /// A remark for the history.
        reason: String,
    },
    /// It failed. Where failing for good needs a compensation and there is none, the saga is quarantined.
    Failed {
        /// Why, not empty.
        reason: String,
        /// Whether another try may succeed.
        retryable: bool,
        /// What has to be undone and is not registered yet.
        compensations: Vec<CompensationSpec>,
    },
    /// It was not finished and is released for another worker.
    Released {
        /// Why.
        reason: String,
    },
    /// The work could not be started, for a reason that has nothing to do with the saga: a missing program, no memory.
    /// It is released with a delay. After five times in a row the worker ends with [`WorkerError::CannotStart`].
    NotStarted {
        /// Why.
        reason: String,
    },
    /// The lease was lost: nothing is reported.
    Abandoned(LeaseLost),
}

/// The work.
pub trait Handler: Send + Sync + 'static {
    /// Does the work of one saga. Must stop when `task.lease` is `Cancelled` or `Lost`, and on `task.kill`.
    fn run(&self, task: &Task) -> impl Future<Output = WorkOutcome> + Send;
}

/// Runs until told to stop, or with `drain` until there is nothing left. Waits for running work before it returns. The
/// runtime must have several threads if the work ever blocks, since heartbeats are separate tasks.
///
/// ```no_run
/// use std::{sync::Arc, time::Duration};
///
/// use sagad::client::{
///     Client, LeaseStatus, Shutdown,
///     connect::{DEFAULT_SERVER, DEFAULT_TIMEOUT},
///     worker::{self, Handler, WorkOutcome, Task, WorkerOptions},
/// };
/// use sagad::proto::CompensationSpec;
///
/// struct Tables(Client);
///
/// impl Handler for Tables {
///     async fn run(&self, task: &Task) -> WorkOutcome {
///         let undo = CompensationSpec { kind: "drop-table".into(), target: "t_42".into(), ..Default::default() };
///         // Before the effect.
///         if let Err(status) = worker::register(&self.0, &task.lease, vec![undo]).await {
///             return WorkOutcome::Failed { reason: status.to_string(), retryable: true, compensations: Vec::new() };
///         }
///         for step in 0..100 {
///             // Before each effect; it looks at the clock itself.
///             match task.lease.check() {
///                 LeaseStatus::Lost(lost) => return WorkOutcome::Abandoned(lost),
///                 LeaseStatus::Cancelled(reason) => {
///                     return WorkOutcome::Failed { reason, retryable: false, compensations: Vec::new() };
///                 }
///                 LeaseStatus::Held => {}
///             }
///             // One effect, to which the fencing token goes along.
///             task.lease.set_progress(format!("{step}/100").into());
///         }
///         WorkOutcome::Completed { result: "done".into(), reason: String::new() }
///     }
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(DEFAULT_SERVER, DEFAULT_TIMEOUT)?;
/// let options = WorkerOptions {
///     queues: vec!["default".into()],
///     owner_id: format!("my-host:{}", std::process::id()),
///     ttl: Duration::from_secs(30),
///     concurrency: 4,
///     drain: false,
/// };
/// let shutdown = Shutdown::on_signals(|notice| eprintln!("{notice}"))?;
/// let notes = Arc::new(|note| println!("{note}"));
/// worker::run(client.clone(), options, Arc::new(Tables(client)), shutdown, notes).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The coordinator refused a claim (an invalid queue, no permission); with `drain`, also if it was away for a minute;
/// without, it is waited for. Or work could not be started five times in a row.
pub async fn run<H: Handler>(
    client: Client,
    options: WorkerOptions,
    handler: Arc<H>,
    shutdown: Shutdown,
    notes: Notes,
) -> Result<(), WorkerError> {
    let stop = shutdown.drain.child_token();
    let failed_starts = Arc::new(FailedStarts::new(stop.clone()));
    let claimer = Claimer {
        client: client.clone(),
        queues: options.queues.clone(),
        owner_id: options.owner_id.clone(),
        ttl: options.ttl,
        purpose: LeasePurpose::Execute,
        kinds: Vec::new(),
        wait: !options.drain,
        patience: options.drain.then_some(DRAIN_PATIENCE),
        notes: Arc::clone(&notes),
    };
    let slots = Arc::new(Semaphore::new(options.concurrency.max(1)));
    let mut running = JoinSet::new();
    let result = loop {
        while running.try_join_next().is_some() {}
        let Some(mut permits) = free_slots(&slots, &stop).await else { break Ok(()) };
        // Checked after the slot: the work that had it before may just have failed to start.
        failed_starts.pause().await;
        let (sagas, asked) = match claimer.next(permits.len(), &stop).await {
            Ok(ClaimResult::Sagas(sagas, asked)) => (sagas, asked),
            Ok(ClaimResult::Stopped) => break Ok(()),
            Err(status) => break Err(status),
        };
        if sagas.is_empty() && options.drain {
            drop(permits);
            while running.try_join_next().is_some() {}
            if running.is_empty() {
                if failed_starts.look_again() {
                    continue;
                }
                break Ok(());
            }
            // Running work may fail and be planned again, so it is not over yet.
            tokio::time::timeout(DRAIN_POLL, running.join_next()).await.ok();
            continue;
        }
        for saga in sagas {
            let work = Work {
                client: client.clone(),
                handler: Arc::clone(&handler),
                kill: shutdown.kill.clone(),
                notes: Arc::clone(&notes),
                failed_starts: Arc::clone(&failed_starts),
            };
            let permit = permits.pop();
            running.spawn(async move {
                work.on(saga, asked).await;
                drop(permit);
            });
        }
    };
    while running.join_next().await.is_some() {}
    match failed_starts.error() {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

/// Waits for a free slot and takes all free ones; `None` if told to stop.
async fn free_slots(slots: &Arc<Semaphore>, stop: &CancellationToken) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        permit = Arc::clone(slots).acquire_owned() => permit.ok()?,
    };
    let mut permits = vec![first];
    while let Ok(permit) = Arc::clone(slots).try_acquire_owned() {
        permits.push(permit);
    }
    Some(permits)
}

/// The state of the work on one saga.
struct Work<H> {
    client: Client,
    handler: Arc<H>,
    kill: CancellationToken,
    notes: Notes,
    failed_starts: Arc<FailedStarts>,
}

impl<H: Handler> Work<H> {
    /// Keeps the lease of a saga that was just claimed, runs the handler, and reports the outcome.
    async fn on(self, saga: Saga, asked: Moment) {
        let task_id = saga.task_id.clone();
        let lease = match LeaseKeeper::start(&self.client, &saga, asked).await {
            Ok(lease) => lease,
            Err(lost) => return (self.notes)(Note::Lost { task_id, lost }),
        };
        (self.notes)(Note::claimed(&saga));
        let task = Task { saga, lease, kill: self.kill };
        let outcome = self.handler.run(&task).await;
        let note = match outcome {
            WorkOutcome::NotStarted { reason } => {
                give_back(&self.client, &task.lease, &self.failed_starts, task_id, reason).await
            }
            started => {
                self.failed_starts.started();
                report(&self.client, &task.lease, started).await
            }
        };
        (self.notes)(note);
    }
}

/// Releases the saga of work that could not be started.
pub(super) async fn give_back(
    client: &Client,
    lease: &LeaseKeeper,
    failed_starts: &FailedStarts,
    task_id: String,
    reason: String,
) -> Note {
    let delay = failed_starts.failed(&reason);
    let answer = release_after(client, lease, reason.clone(), delay).await;
    failed_starts.given_back(delay);
    Note::reported(task_id, ReportRpc::Release, reason, answer)
}

/// Reports how the work under a lease ended. Retries until the coordinator has accepted or refused it, or until
/// [`REPORT_GRACE`] after the lease's deadline. Heartbeats continue meanwhile. Progress that no heartbeat has
/// delivered is sent along, unless the saga is quarantined.
pub async fn report(client: &Client, lease: &LeaseKeeper, outcome: WorkOutcome) -> Note {
    let task_id = lease.key().task_id.clone();
    let key = lease.key().clone();
    let (report, answer, reason) = match outcome {
        WorkOutcome::Completed { result, reason } => {
            (ReportRpc::Complete, complete(client, lease, key, result, reason.clone()).await, reason)
        }
        WorkOutcome::Failed { reason, retryable, compensations } => {
            let failed = fail(client, lease, key, reason.clone(), retryable, compensations).await;
            match failed {
                Err(status) if StatusDetails::from(&status).is("COMPENSATION_REQUIRED") => {
                    (ReportRpc::Quarantine, quarantine(client, lease, reason.clone()).await, reason)
                }
                other => (ReportRpc::Fail, other, reason),
            }
        }
        WorkOutcome::Released { reason } | WorkOutcome::NotStarted { reason } => {
            (ReportRpc::Release, release(client, lease, reason.clone()).await, reason)
        }
        WorkOutcome::Abandoned(lost) => return Note::Lost { task_id, lost },
    };
    Note::reported(task_id, report, reason, answer)
}

/// Registers compensations. Call it before the effects that they undo. Retries until the lease's deadline.
///
/// # Errors
///
/// The coordinator refused it; `ABORTED` means that the lease is lost. Or no answer came in time: then it is not known
/// whether they are registered, and there must be no effect.
pub async fn register(
    client: &Client,
    lease: &LeaseKeeper,
    compensations: Vec<CompensationSpec>,
) -> Result<Saga, Status> {
    let LeaseKey { task_id, owner_id, fencing_token } = lease.key().clone();
    let request_id = Uuid::new_v4().to_string();
    let request = RegisterCompensationRequest { task_id, owner_id, fencing_token, compensations, request_id };
    let answer = client.ask_again(request, RetryOn::Unknown, || lease.deadline()).await?;
    answer.saga.ok_or_else(|| Status::internal("an answer without a saga"))
}

async fn complete(
    client: &Client,
    lease: &LeaseKeeper,
    LeaseKey { task_id, owner_id, fencing_token }: LeaseKey,
    result: Bytes,
    reason: String,
) -> Result<Option<Saga>, Status> {
    let request_id = Uuid::new_v4().to_string();
    let progress = lease.unsent_progress();
    let request = CompleteRequest { task_id, owner_id, fencing_token, result, reason, request_id, progress };
    let call = client.ask_again(request, RetryOn::Unknown, give_up(lease));
    call.await.map(|answer| answer.saga)
}

async fn fail(
    client: &Client,
    lease: &LeaseKeeper,
    LeaseKey { task_id, owner_id, fencing_token }: LeaseKey,
    reason: String,
    retryable: bool,
    compensations: Vec<CompensationSpec>,
) -> Result<Option<Saga>, Status> {
    let request_id = Uuid::new_v4().to_string();
    let progress = lease.unsent_progress();
    let request =
        FailRequest { task_id, owner_id, fencing_token, reason, compensations, retryable, request_id, progress };
    let call = client.ask_again(request, RetryOn::Unknown, give_up(lease));
    call.await.map(|answer| answer.saga)
}

/// Quarantines the saga, as its holder.
pub async fn quarantine(client: &Client, lease: &LeaseKeeper, reason: String) -> Result<Option<Saga>, Status> {
    let LeaseKey { task_id, owner_id, fencing_token } = lease.key().clone();
    let request_id = Uuid::new_v4().to_string();
    let request =
        QuarantineRequest { task_id, reason, owner_id, fencing_token, request_id, ..QuarantineRequest::default() };
    let call = client.call(request, RetryOn::Unknown, give_up(lease), |mut c, r| async move { c.quarantine(r).await });
    call.await.map(|answer| answer.saga)
}

/// Releases the lease. Unlike the other reports this is refused once the lease has expired, so it is not retried
/// longer.
pub async fn release(client: &Client, lease: &LeaseKeeper, reason: String) -> Result<Option<Saga>, Status> {
    release_after(client, lease, reason, Duration::ZERO).await
}

/// Like [`release`]; the saga can't be claimed again before `delay` has passed.
pub async fn release_after(
    client: &Client,
    lease: &LeaseKeeper,
    reason: String,
    delay: Duration,
) -> Result<Option<Saga>, Status> {
    let LeaseKey { task_id, owner_id, fencing_token } = lease.key().clone();
    let request_id = Uuid::new_v4().to_string();
    let delay = (!delay.is_zero()).then(|| convert::to_proto(delay));
    let progress = lease.unsent_progress();
    let request = ReleaseRequest { task_id, owner_id, fencing_token, delay, reason, request_id, progress };
    client.ask_again(request, RetryOn::Unknown, || lease.deadline()).await.map(|answer| answer.saga)
}

/// Until when a late result is reported. The deadline moves while heartbeats are accepted.
pub(super) fn give_up(lease: &LeaseKeeper) -> impl Fn() -> Moment + '_ {
    || lease.deadline() + REPORT_GRACE
}

/// Waits until the work must stop: the lease is cancelled or lost.
pub async fn must_stop(lease: &LeaseKeeper) -> LeaseStatus {
    let mut status = lease.status();
    let stopped = status.wait_for(|status| *status != LeaseStatus::Held).await;
    match stopped {
        Ok(status) => status.clone(),
        Err(_) => LeaseStatus::Lost(LeaseLost::deadline("its heartbeats ended")),
    }
}

/// Waits until the lease is lost; a requested cancellation doesn't count.
pub async fn lost(lease: &LeaseKeeper) -> LeaseLost {
    let mut status = lease.status();
    let lost = status.wait_for(|status| matches!(status, LeaseStatus::Lost(_))).await;
    match lost.map(|status| status.clone()) {
        Ok(LeaseStatus::Lost(lost)) => lost,
        Ok(LeaseStatus::Held | LeaseStatus::Cancelled(_)) | Err(_) => LeaseLost::deadline("its heartbeats ended"),
    }
}
