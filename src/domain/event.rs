//! The history: one event for each thing that happened, never changed afterwards.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ids::{FencingToken, OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::StaleCause,
    saga::State,
    text::Actor,
    time::Timestamp,
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// The saga was created.
    Created,
    /// It was reserved for a worker.
    Dispatched,
    /// A lease was taken.
    Claimed,
    /// A lease was given back.
    Released,
    /// It waits for a worker again.
    Requeued,
    /// A lease ran out.
    LeaseExpired,
    /// It was decided what becomes of a stale saga.
    RecoveryDecided,
    /// Somebody asked for the work to be given up.
    CancelRequested,
    /// A compensation was registered.
    CompensationRegistered,
    /// A compensation was tried, done or waived.
    CompensationSettled,
    /// Its compensations are to be run.
    Compensating,
    /// Terminal.
    Completed,
    /// Terminal.
    Failed,
    /// A failure will be retried.
    RetryScheduled,
    /// Terminal.
    Compensated,
    /// Terminal.
    Quarantined,
    /// A note was added, or the reason amended.
    Annotated,
}

impl EventType {
    /// All of them, in the order of their places.
    pub const ALL: [EventType; 17] = [
        EventType::Created,
        EventType::Dispatched,
        EventType::Claimed,
        EventType::Released,
        EventType::Requeued,
        EventType::LeaseExpired,
        EventType::RecoveryDecided,
        EventType::CancelRequested,
        EventType::CompensationRegistered,
        EventType::CompensationSettled,
        EventType::Compensating,
        EventType::Completed,
        EventType::Failed,
        EventType::RetryScheduled,
        EventType::Compensated,
        EventType::Quarantined,
        EventType::Annotated,
    ];
}

/// What became of a stale saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// Another lease, or the same work under a new one.
    Reclaimed,
    /// Waiting for a worker again.
    Requeued,
    /// To be undone.
    Compensating,
    /// Terminal.
    Terminal,
}

/// What an event means to those who watch for stale sagas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaleMark {
    /// The saga became stale with this event.
    Stale {
        /// Who held the lease.
        owner: OwnerId,
        /// The lease's token.
        token: FencingToken,
        /// When the lease ended.
        expire_time: Timestamp,
        /// What bounded it.
        cause: StaleCause,
    },
    /// It ceased to be.
    Resolved(Resolution),
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the order of all events; its own.
    pub revision: Revision,
    /// Of which saga.
    pub task_id: TaskId,
    /// Of which saga.
    pub saga_id: SagaId,
    /// The saga's queue.
    pub queue: QueueName,
    /// When, on the coordinator's clock.
    pub time: Timestamp,
    /// What.
    pub kind: EventType,
    /// Who: a worker, a person, or `sagad`.
    pub actor: Option<Actor>,
    /// Why.
    pub reason: Arc<str>,
    /// The state before; none for a creation.
    pub from_state: Option<State>,
    /// The state after.
    pub to_state: State,
    /// The lease it is about, if any.
    pub token: Option<FencingToken>,
    /// More, by name.
    pub details: BTreeMap<String, String>,
    /// For those who watch stale sagas.
    pub mark: Option<StaleMark>,
}
