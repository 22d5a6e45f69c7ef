//! [`ChangeSet`]: what a turn comes to, for a backend to make durable in one transaction.

use std::sync::Arc;

use crate::domain::{command::QueueStatus, event::Event, ids::Revision, saga::Saga, time::Timestamp};

use super::{Derived, RowId, StoredAnswer};

/// What becomes of one saga in a turn, however many calls changed it.
#[derive(Clone, Debug)]
pub struct SagaChange {
    /// Its place.
    pub id: RowId,
    /// What is stored of it; none: it is new.
    pub before: Option<Arc<Saga>>,
    /// What is stored as derived from that, if it is known.
    pub derived_before: Option<Derived>,
    /// What it is from now on; none: it is not to be written, since it was removed later.
    pub after: Option<Arc<Saga>>,
    /// What is derived from it, for finding it again.
    pub derived: Derived,
}

/// An event that is added to the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its saga's place.
    pub saga: RowId,
    /// The revision of the saga's event before; none: it is the first.
    pub prev: Option<Revision>,
    /// The event.
    pub event: Event,
}

/// What a turn comes to. All of it, or nothing, is there when [`super::Backend::commit`] has returned.
#[derive(Debug, Default)]
pub struct ChangeSet {
    /// Sagas in the order in which they were first changed, so new ones in order of creation.
    pub sagas: Vec<SagaChange>,
    /// Sagas that are removed with all that is their own, before anything else: new ones may have their ids.
    pub removed: Vec<RowId>,
    /// What is added to the history, by revision.
    pub events: Vec<Appended>,
    /// Answers to requests that can be repeated.
    pub answers: Vec<([u8; 16], StoredAnswer)>,
    /// Queues that were paused or resumed; a later entry stands over an earlier one.
    pub queues: Vec<QueueStatus>,
    /// The history has gaps up to here from now on: events were removed.
    pub compacted: Option<Revision>,
    /// Answers that were given at this time or before are to be forgotten: at most so many, the oldest first.
    pub forget_answers: Option<(Timestamp, usize)>,
}

impl ChangeSet {
    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        self.sagas.is_empty()
            && self.events.is_empty()
            && self.answers.is_empty()
            && self.queues.is_empty()
            && self.removed.is_empty()
            && self.compacted.is_none()
            && self.forget_answers.is_none()
    }
}
