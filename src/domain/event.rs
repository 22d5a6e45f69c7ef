//! The history: one event for each thing that happened, never changed afterwards.

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
    pub details: EventDetails,
    /// For those who watch stale sagas.
    pub mark: Option<StaleMark>,
}

/// What an entry of the details takes beside its text: two strings and their place in the map.
const DETAIL_BYTES: usize = 96;
/// What the details of a claim take once they are put into words.
const CLAIM_DETAILS_BYTES: usize = 3 * DETAIL_BYTES + 72;

/// What else an event tells, by name: a map, read through [`Deref`]. Claims are most of what happens, and few of them are ever
/// looked at, so what a claim tells is put into words when somebody reads it for the first time.
#[derive(Clone, Debug, Default)]
pub struct EventDetails {
    claim: Option<ClaimDetails>,
    words: OnceLock<BTreeMap<String, String>>,
}

/// What the event of a claim tells beside its columns.
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

    /// What was given as the details of a claim.
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

/// By what they tell.
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
    /// About how many bytes of memory it takes.
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
    fn what_a_claim_tells_is_the_same_map_put_into_words_late() {
        let claim = ClaimDetails { purpose: LeasePurpose::Execute, expire_time: Timestamp::ZERO, attempt: 2 };
        let words = [("attempt", "2"), ("expire_time", "1970-01-01T00:00:00.000000Z"), ("purpose", "EXECUTE")];
        let words: BTreeMap<_, _> = words.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let (late, read) = (EventDetails::of_claim(claim), EventDetails::from(words.clone()));
        assert_eq!((&late, &*late), (&read, &words));
        assert_ne!(late, EventDetails::of_claim(ClaimDetails { attempt: 3, ..claim }));
        assert_ne!(late, EventDetails::default());
        // What it weighs does not depend on whether somebody has looked.
        assert!(late.weight() >= read.weight() && late.weight() == EventDetails::of_claim(claim).weight());
    }
}
