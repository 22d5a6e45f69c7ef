//! Events: the history of a saga. An event is never changed.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use super::{
    ids::{FencingToken, OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::{LeasePurpose, StaleCause},
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
    /// All types, in the order of their discriminants.
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

/// What an event means to watchers of stale sagas.
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
    /// The saga is no longer stale.
    Resolved(Resolution),
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique, and increasing over all events of the store.
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
    pub details: EventDetails,
    /// For watchers of stale sagas.
    pub mark: Option<StaleMark>,
}

/// Memory of one detail without its text: two strings and a map entry.
const DETAIL_BYTES: usize = 96;
/// Memory of a claim's details once they are rendered as text.
const CLAIM_DETAILS_BYTES: usize = 3 * DETAIL_BYTES + 72;

/// Further details of an event, by name; read it as a map through [`Deref`]. Most events are claims and few are ever
/// read, so a claim's details are rendered as text when they are first read.
#[derive(Clone, Debug, Default)]
pub struct EventDetails {
    claim: Option<ClaimDetails>,
    words: OnceLock<BTreeMap<String, String>>,
}

/// The details of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimDetails {
    /// What the lease is for.
    pub purpose: LeasePurpose,
    /// When it ends, unless it is extended.
    pub expire_time: Timestamp,
    /// How many claims for execution the saga has had by now.
    pub attempt: u32,
}

impl EventDetails {
    /// Those of a claim.
    pub fn of_claim(claim: ClaimDetails) -> Self {
        EventDetails { claim: Some(claim), words: OnceLock::new() }
    }

    /// The details as they were given, if the event is a claim.
    pub fn claim(&self) -> Option<ClaimDetails> {
        self.claim
    }

    fn weight(&self) -> usize {
        if self.claim.is_some() {
            return CLAIM_DETAILS_BYTES;
        }
        self.iter().map(|(key, value)| DETAIL_BYTES + key.len() + value.len()).sum()
    }
}

impl Deref for EventDetails {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &BTreeMap<String, String> {
        self.words.get_or_init(|| match self.claim {
            None => BTreeMap::new(),
            Some(ClaimDetails { purpose, expire_time, attempt }) => BTreeMap::from([
                ("purpose".to_owned(), purpose.name().to_owned()),
                ("expire_time".to_owned(), expire_time.to_string()),
                ("attempt".to_owned(), attempt.to_string()),
            ]),
        })
    }
}

impl From<BTreeMap<String, String>> for EventDetails {
    fn from(words: BTreeMap<String, String>) -> Self {
        EventDetails { claim: None, words: words.into() }
    }
}

/// Compares the rendered maps; a claim's details need no rendering.
impl PartialEq for EventDetails {
    fn eq(&self, other: &Self) -> bool {
        match (self.claim, other.claim) {
            (Some(claim), Some(other)) => claim == other,
            (None, _) | (_, None) => **self == **other,
        }
    }
}

impl Eq for EventDetails {}

impl Event {
    /// Approximate memory in bytes.
    pub fn weight(&self) -> usize {
        let owner = match &self.mark {
            Some(StaleMark::Stale { owner, .. }) => owner.as_str().len(),
            Some(StaleMark::Resolved(_)) | None => 0,
        };
        let names = [self.task_id.as_str(), self.saga_id.as_str(), self.queue.as_str(), &self.reason];
        let names = names.iter().map(|name| name.len()).sum::<usize>();
        let actor = self.actor.as_ref().map_or(0, |actor| actor.as_str().len());
        size_of::<Event>() + names + actor + owner + self.details.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claims_details_are_the_same_when_formatted_late() {
        let claim = ClaimDetails { purpose: LeasePurpose::Execute, expire_time: Timestamp::ZERO, attempt: 2 };
        let words = [("attempt", "2"), ("expire_time", "1970-01-01T00:00:00.000000Z"), ("purpose", "EXECUTE")];
        let words: BTreeMap<_, _> = words.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let (late, read) = (EventDetails::of_claim(claim), EventDetails::from(words.clone()));
        assert_eq!((&late, &*late), (&read, &words));
        assert_ne!(late, EventDetails::of_claim(ClaimDetails { attempt: 3, ..claim }));
        assert_ne!(late, EventDetails::default());
        // The weight doesn't depend on whether the details were read.
        assert!(late.weight() >= read.weight() && late.weight() == EventDetails::of_claim(claim).weight());
    }
}
