//! Every change that can be asked for, validated: what is here is well formed and within bounds.

use std::sync::Arc;

use super::{
    compensation::{CompensationOutcome, CompensationSpec},
    ids::{FencingToken, OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::{Lease, LeasePurpose},
    policy::Policy,
    principal::Behalf,
    saga::{Saga, State},
    text::{Actor, Blob, Kind, Labels, Text},
    time::{Span, Timestamp},
};

/// One change, as the store takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// New sagas: all or none.
    Create(Vec<Creation>),
    /// The next sagas of some queues.
    ClaimNext(ClaimNext),
    /// A change of one saga.
    Change(Change),
    /// A queue gives nothing to `ClaimNext`, or does again.
    SetPaused(SetPaused),
    /// Old terminal sagas are removed.
    Purge(Purge),
}

/// A saga to be.
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
    /// With nothing special about it: what may be left out is as if it were. Its saga's id is the task's.
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

/// A wish for the next sagas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNext {
    /// From these queues; at least one, each once.
    pub queues: Vec<QueueName>,
    /// For whom.
    pub owner: OwnerId,
    /// The lease's length.
    pub ttl: Span,
    /// At most so many, at least 1.
    pub max_sagas: usize,
    /// How long to wait for one; zero: not at all.
    pub wait: Span,
    /// To do or to undo the work.
    pub purpose: LeasePurpose,
    /// For compensation: only sagas whose pending kinds are all among these; empty: any.
    pub kinds: Vec<Kind>,
}

/// A change of one saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which saga.
    pub task_id: TaskId,
    /// What is to happen.
    pub verb: Verb,
}

/// Who claims to hold the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its owner.
    pub owner: OwnerId,
    /// Its token.
    pub token: FencingToken,
}

/// What is to happen to a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// By the holder of a lease.
    Held(Holder, HeldVerb),
    /// By anyone else.
    Free(FreeVerb),
}

/// What the holder of a lease can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldVerb {
    /// To keep the lease.
    Heartbeat {
        /// A new length; absent: as it is.
        ttl: Option<Span>,
        /// How far the work is; absent: as it was.
        progress: Option<Blob>,
    },
    /// To give the lease back.
    Release {
        /// Not to be claimed before now and this.
        delay: Span,
        /// Why.
        reason: Text,
        /// How far the work is; absent: as it was.
        progress: Option<Blob>,
    },
    /// To say, before an effect, what undoes it.
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
    /// What came of undoing one thing.
    RecordCompensation {
        /// Which.
        position: u32,
        /// How it went.
        outcome: CompensationOutcome,
        /// What there is to say about it.
        detail: Text,
    },
    /// All is undone.
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

/// What can be asked for without holding the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FreeVerb {
    /// To reserve it for a worker.
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
    /// To take a lease.
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
    /// To declare that a compensation is not needed.
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
    /// The decision on a stale saga.
    Recover {
        /// What becomes of it.
        decision: RecoveryDecision,
        /// Who decides.
        actor: Actor,
        /// Why.
        reason: Text,
        /// The lease that it is about; absent: whichever ran out.
        token: Option<FencingToken>,
        /// Only to learn whether it would be accepted.
        validate_only: bool,
    },
    /// To end a live lease as revoked: the saga is stale at once.
    RevokeLease {
        /// Which lease; any other stays.
        token: FencingToken,
        /// Who asks.
        actor: Actor,
        /// Why.
        reason: Text,
    },
    /// To give the work up.
    RequestCancel {
        /// Who asks.
        actor: Actor,
        /// Why.
        reason: Text,
        /// Even under a live lease, at once.
        revoke_lease: bool,
    },
    /// To add a note, or to amend a terminal reason.
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
    /// Whether it is to give nothing.
    pub paused: bool,
    /// Refused for a queue of which nothing is known.
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
    /// These alone, each if it still has this revision; empty: all that match.
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

/// A command with what is needed to recognize its repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// The caller's `request_id`, if given.
    pub key: Option<RequestKey>,
    /// On whose behalf; none where callers are not known.
    pub by: Option<Arc<Behalf>>,
}

/// A `request_id` with a digest of what it came with.
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
    Purged(Purged),
}

/// A heartbeat's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The lease as it is now.
    pub lease: Lease,
    /// Why the worker is to stop; absent: it is to go on.
    pub cancel_reason: Option<Text>,
}

/// A queue, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Its name.
    pub queue: QueueName,
    /// Whether it gives nothing to `ClaimNext`.
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
pub struct Purged {
    /// Sagas.
    pub sagas: usize,
    /// Their events.
    pub events: usize,
    /// Whether matching ones are left.
    pub more: bool,
    /// The newest event removed: what lies below it is compacted.
    pub through: Revision,
}
