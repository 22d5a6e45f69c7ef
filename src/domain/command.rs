//! All commands that change something, already validated: well formed and within bounds.

use std::sync::Arc;

use super::{
    compensation::{CompensationOutcome, CompensationSpec},
    ids::{FencingToken, OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::{Lease, LeasePurpose},
    policy::Policy,
    principal::Requester,
    saga::{Saga, State},
    text::{Actor, Blob, Kind, Labels, Text},
    time::{Span, Timestamp},
};

/// One command for the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Creates sagas: all of them or none.
    Create(Vec<Creation>),
    /// Claims the next sagas of some queues.
    ClaimNext(ClaimNext),
    /// A change of one saga.
    Change(Change),
    /// Pauses or resumes a queue for `ClaimNext`.
    SetPaused(SetPaused),
    /// Removes old terminal sagas.
    Purge(Purge),
}

/// What a caller says about a new saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Unique.
    pub task_id: TaskId,
    /// Unique.
    pub saga_id: SagaId,
    /// Where it waits.
    pub queue: QueueName,
    /// Higher first.
    pub priority: i32,
    /// The issue it is about.
    pub issue: Option<i64>,
    /// The branch it works on.
    pub branch: Text,
    /// The worktree it works in.
    pub worktree: Text,
    /// For finding it.
    pub labels: Labels,
    /// For the worker.
    pub payload: Blob,
    /// What undoes it; no two with the same kind and target.
    pub compensations: Vec<CompensationSpec>,
    /// What happens by itself.
    pub policy: Policy,
    /// Not to be claimed before now and this.
    pub delay: Span,
    /// The task that this one resubmits.
    pub retry_of: Option<TaskId>,
}

impl Creation {
    /// A saga with all defaults. Its saga id is the task id.
    pub fn new(task_id: TaskId, queue: QueueName) -> Self {
        Creation {
            saga_id: task_id.to_saga_id(),
            task_id,
            queue,
            priority: 0,
            issue: None,
            branch: Text::default(),
            worktree: Text::default(),
            labels: Labels::default(),
            payload: Blob::default(),
            compensations: Vec::new(),
            policy: Policy::default(),
            delay: Span::ZERO,
            retry_of: None,
        }
    }
}

/// A request to claim the next sagas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNext {
    /// The queues to claim from: at least one, none twice.
    pub queues: Vec<QueueName>,
    /// For whom.
    pub owner: OwnerId,
    /// The lease's length.
    pub ttl: Span,
    /// The most sagas to claim; at least 1.
    pub max_sagas: usize,
    /// How long to wait if nothing is ready; zero: don't wait.
    pub wait: Span,
    /// To do or to undo the work.
    pub purpose: LeasePurpose,
    /// For compensation: only sagas whose pending kinds are all among these; empty: any saga.
    pub kinds: Vec<Kind>,
}

/// A change of one saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which saga.
    pub task_id: TaskId,
    /// What is to happen.
    pub operation: Operation,
}

/// The lease that a call claims to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its owner.
    pub owner: OwnerId,
    /// Its token.
    pub token: FencingToken,
}

/// An operation on one saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Requires the lease.
    ByHolder(Holder, HolderOperation),
    /// Doesn't require the lease.
    Unleased(UnleasedOperation),
}

/// Operations that require the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderOperation {
    /// Extends the lease.
    Heartbeat {
        /// A new length; absent: as it is.
        ttl: Option<Span>,
        /// How far the work is; absent: as it was.
        progress: Option<Blob>,
    },
    /// Gives the lease back.
    Release {
        /// Not to be claimed before now and this.
        delay: Span,
        /// Why.
        reason: Text,
        /// How far the work is; absent: as it was.
        progress: Option<Blob>,
    },
    /// Registers, before an effect, what undoes it.
    RegisterCompensation {
        /// What undoes it; no two with the same kind and target.
        compensations: Vec<CompensationSpec>,
    },
    /// The work is done.
    Complete {
        /// What came of it.
        result: Blob,
        /// Why it ends, if there is something to say.
        reason: Text,
        /// How far the work is; absent: as it was.
        progress: Option<Blob>,
    },
    /// The work failed.
    Fail {
        /// Why.
        reason: Text,
        /// What undoes what it left behind; no two with the same kind and target.
        compensations: Vec<CompensationSpec>,
        /// Whether trying again may help.
        retryable: bool,
        /// How far the work is; absent: as it was.
        progress: Option<Blob>,
    },
    /// Reports how one compensation went.
    RecordCompensation {
        /// Which.
        position: u32,
        /// How it went.
        outcome: CompensationOutcome,
        /// What there is to say about it.
        detail: Text,
    },
    /// Reports that everything is undone.
    Compensate {
        /// Why, if there is something to say.
        reason: Text,
    },
    /// To park it for a person.
    Quarantine {
        /// Why.
        reason: Text,
    },
}

/// Operations that don't require the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnleasedOperation {
    /// Reserves the saga for a worker.
    Dispatch {
        /// For whom.
        assignee: OwnerId,
        /// For how long.
        ttl: Span,
        /// Who asks.
        actor: Actor,
        /// Why.
        reason: Text,
    },
    /// Takes the lease.
    Claim {
        /// For whom.
        owner: OwnerId,
        /// For how long.
        ttl: Span,
        /// To do or to undo the work.
        purpose: LeasePurpose,
        /// Why.
        reason: Text,
    },
    /// Declares that a compensation is not needed.
    WaiveCompensation {
        /// Which.
        position: u32,
        /// Who asks.
        actor: Actor,
        /// Why.
        reason: Text,
    },
    /// To park it for a person.
    Quarantine {
        /// Who asks.
        actor: Actor,
        /// Why.
        reason: Text,
        /// Even under a live lease.
        revoke_lease: bool,
    },
    /// Decides what becomes of a stale saga.
    Recover {
        /// What becomes of it.
        decision: RecoveryDecision,
        /// Who decides.
        actor: Actor,
        /// Why.
        reason: Text,
        /// The expired lease that the decision is about; absent: whichever expired.
        token: Option<FencingToken>,
        /// Only check whether it would be accepted.
        validate_only: bool,
    },
    /// Ends a live lease; the saga is stale at once.
    RevokeLease {
        /// Which lease; any other stays.
        token: FencingToken,
        /// Who asks.
        actor: Actor,
        /// Why.
        reason: Text,
    },
    /// Cancels the work.
    RequestCancel {
        /// Who asks.
        actor: Actor,
        /// Why.
        reason: Text,
        /// Even under a live lease, at once.
        revoke_lease: bool,
    },
    /// Adds a note, or amends the terminal reason.
    Annotate {
        /// Who asks.
        actor: Actor,
        /// The note.
        note: Text,
        /// More, by name.
        details: Labels,
        /// The amended reason.
        terminal_reason: Option<Text>,
    },
}

/// What becomes of a stale saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryDecision {
    /// It waits for a worker again.
    Requeue,
    /// Its compensations are run.
    Compensate,
    /// It is parked for a person.
    Quarantine,
}

impl RecoveryDecision {
    /// Its name in the history, as in the contract without the prefix.
    pub const fn name(self) -> &'static str {
        match self {
            RecoveryDecision::Requeue => "REQUEUE",
            RecoveryDecision::Compensate => "COMPENSATE",
            RecoveryDecision::Quarantine => "QUARANTINE",
        }
    }
}

/// Pause or resume a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPaused {
    /// Which.
    pub queue: QueueName,
    /// True to pause, false to resume.
    pub paused: bool,
    /// Refuse if the queue never held a saga and was never paused.
    pub must_exist: bool,
    /// Who asks.
    pub actor: Actor,
    /// Why.
    pub reason: Text,
}

/// Remove old terminal sagas with their history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Terminal states only, each once; at least one.
    pub states: Vec<State>,
    /// Unchanged for longer than this.
    pub older_than: Span,
    /// Only these sagas, each only if it still has this revision; empty: all that match.
    pub only: Vec<(TaskId, Revision)>,
    /// At most so many.
    pub max_sagas: usize,
    /// Who asks.
    pub actor: Actor,
    /// Why.
    pub reason: Text,
    /// Only count.
    pub validate_only: bool,
}

/// A command with its `request_id` and requester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// The caller's `request_id`, if given.
    pub key: Option<RequestKey>,
    /// Who asks; none if the daemon doesn't authenticate callers.
    pub by: Option<Arc<Requester>>,
}

/// A `request_id` with a digest of its request, so that a reused id is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The UUID.
    pub id: [u8; 16],
    /// Of the rpc's name and the request's content.
    pub digest: [u8; 16],
}

/// What an accepted command answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The saga as it is now.
    Saga(Arc<Saga>),
    /// Sagas, in the order asked for.
    Sagas(Vec<Arc<Saga>>),
    /// A heartbeat's answer.
    Lease(LeaseAnswer),
    /// A queue as it is now.
    Queue(QueueStatus),
    /// What a purge removed.
    Purged(PurgeResult),
}

/// A heartbeat's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The lease as it is now.
    pub lease: Lease,
    /// Why the worker must stop; absent: it may continue.
    pub cancel_reason: Option<Text>,
}

/// A queue, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its name.
    pub queue: QueueName,
    /// Whether `ClaimNext` gets nothing from it.
    pub paused: bool,
    /// Who last paused or resumed it.
    pub actor: Option<Actor>,
    /// Why.
    pub reason: Text,
    /// When.
    pub change_time: Option<Timestamp>,
}

/// What a purge removed, or would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeResult {
    /// Sagas.
    pub sagas: usize,
    /// Their events.
    pub events: usize,
    /// Whether matching ones are left.
    pub more: bool,
    /// The newest event removed. The history is compacted up to here.
    pub through: Revision,
}
