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

/// What an entry of the details takes beside its text: two strings and their place in the map.
const DETAIL_BYTES: usize = 96;

impl Event {
    /// About how many bytes of memory it takes.
    pub fn weight(&self) -> usize {
        let owner = match &self.mark {
            Some(StaleMark::Stale { owner, .. }) => owner.as_str().len(),
            Some(StaleMark::Resolved(_)) | None => 0,
        };
        let names = [self.task_id.as_str(), self.saga_id.as_str(), self.queue.as_str(), &self.reason];
        let names = names.iter().map(|name| name.len()).sum::<usize>();
        let actor = self.actor.as_ref().map_or(0, |actor| actor.as_str().len());
        let details = self.details.iter().map(|(key, value)| DETAIL_BYTES + key.len() + value.len()).sum::<usize>();
        size_of::<Event>() + names + actor + owner + details
    }
}
