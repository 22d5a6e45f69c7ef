//! Every refusal. A refusal means: it did not happen, and nothing was written for it.

use std::sync::Arc;

use super::{
    ids::{FencingToken, OwnerId, QueueName, TaskId},
    saga::State,
    text::Text,
    time::{Span, Timestamp},
};

/// A refused command: what about, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The saga it is about, when it is about one.
    pub task_id: Option<TaskId>,
    /// Its state, when it was found.
    pub state: Option<State>,
    /// Which of a batch, counted from 0.
    pub index: Option<usize>,
    /// Why.
    pub why: Rejection,
}

impl Refusal {
    /// A refusal that is about no saga in particular.
    pub fn plain(why: Rejection) -> Self {
        Refusal { task_id: None, state: None, index: None, why }
    }
}

/// What a worker whose heartbeat was refused must know: its lease stands until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingLease {
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
    /// Nothing is known of such a queue.
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
    /// The last effects of a lease that ran out may still arrive.
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
        /// The lease that stands or ran out last, if there is one.
        token: Option<FencingToken>,
        /// Whether it is stale, under that lease.
        stale: bool,
        /// Its state.
        state: State,
    },
    /// Failing needs a compensation record.
    CompensationRequired,
    /// Something is not undone yet.
    CompensationPending {
        /// Which kinds, separated by commas.
        kinds: Arc<str>,
    },
    /// Undo runs in reverse: a later one comes first.
    CompensationOrder {
        /// The one to settle first.
        first: u32,
    },
    /// Too many compensations.
    CompensationLimit,
    /// The heartbeat would not extend the lease.
    LeaseNotExtended(StandingLease),
    /// The lease has reached its longest execution.
    ExecutionTimeout(StandingLease),
    /// The lease has reached its longest time without progress.
    ProgressTimeout(StandingLease),
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
