//! Rejections. A rejected command did not happen, and nothing was written for it.

use std::sync::Arc;

use super::{
    ids::{FencingToken, OwnerId, QueueName, TaskId},
    saga::State,
    text::Text,
    time::{Span, Timestamp},
};

/// A refused command: which saga it is about, and why it was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRefusal {
    /// The saga it is about, when it is about one.
    pub task_id: Option<TaskId>,
    /// Its state, when it was found.
    pub state: Option<State>,
    /// Its index in a batch, from 0.
    pub index: Option<usize>,
    /// Why.
    pub why: Rejection,
}

impl CommandRefusal {
    /// A refusal that concerns no particular saga.
    pub fn plain(why: Rejection) -> Self {
        CommandRefusal { task_id: None, state: None, index: None, why }
    }
}

/// What a worker learns when its heartbeat was refused without ending the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnextendedLease {
    /// Until when.
    pub expire_time: Timestamp,
    /// Why the worker is to stop; absent: it is to go on.
    pub cancel_reason: Option<Text>,
}

/// Why a command was refused. The reasons are those of the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No such saga.
    SagaNotFound,
    /// The queue never held a saga and was never paused.
    QueueNotFound {
        /// Which was asked for.
        queue: QueueName,
    },
    /// No compensation at this position.
    CompensationNotFound {
        /// Which was asked for.
        position: u32,
    },
    /// A task or saga id is taken.
    SagaExists {
        /// `task_id` or `saga_id`.
        field: &'static str,
    },
    /// The `request_id` came with other content before.
    RequestIdReused,
    /// Terminal sagas don't change.
    SagaTerminal,
    /// A live lease stands.
    LeaseHeld {
        /// Whose.
        owner: OwnerId,
        /// Its token.
        token: FencingToken,
        /// Until when, as stored.
        expire_time: Timestamp,
        /// When to ask again.
        retry_after: Span,
    },
    /// Reserved for somebody else.
    DispatchedElsewhere {
        /// For whom.
        assignee: OwnerId,
        /// Until when.
        expire_time: Timestamp,
        /// When to ask again.
        retry_after: Span,
    },
    /// Its delay has not passed.
    NotReady {
        /// When it is ready.
        not_before: Timestamp,
        /// When to ask again.
        retry_after: Span,
    },
    /// The saga's lease expired a short while ago, and its last effects may still arrive.
    Settling {
        /// Until when.
        settle_until: Timestamp,
        /// When to ask again.
        retry_after: Span,
    },
    /// Not in this state.
    WrongState {
        /// What is in the way.
        detail: Arc<str>,
    },
    /// Not stale, or stale under another lease than the one named.
    NotStale {
        /// The token of the current or last lease, if there is one.
        token: Option<FencingToken>,
        /// Whether the saga is stale under that lease.
        stale: bool,
        /// Its state.
        state: State,
    },
    /// The saga can't fail for good without a compensation record.
    CompensationRequired,
    /// Some compensations are still pending.
    CompensationPending {
        /// Which kinds, separated by commas.
        kinds: Arc<str>,
    },
    /// Compensations run in reverse order: a later one must be settled first.
    CompensationOrder {
        /// The one to settle first.
        first: u32,
    },
    /// Too many compensations.
    CompensationLimit,
    /// The heartbeat would not extend the lease.
    LeaseNotExtended(UnextendedLease),
    /// The lease reached the policy's `execution_timeout`.
    ExecutionTimeout(UnextendedLease),
    /// The lease reached the policy's `progress_timeout`.
    ProgressTimeout(UnextendedLease),
    /// The lease ran out.
    LeaseExpired {
        /// When.
        expire_time: Timestamp,
    },
    /// A later lease, a decision or a revocation ended it.
    LeaseSuperseded,
    /// The lease is somebody else's.
    NotOwner {
        /// Whose.
        owner: OwnerId,
    },
    /// There is no such lease.
    NoLease,
    /// The caller may not touch this queue.
    NotPermitted {
        /// Which.
        queue: QueueName,
    },
}

impl Rejection {
    /// A call that does not belong to the saga's state.
    pub(super) fn wrong_state(detail: &str) -> Self {
        Rejection::WrongState { detail: detail.into() }
    }
}
