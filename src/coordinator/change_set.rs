//! [`ChangeSet`]: all changes of a turn, which a backend makes durable in one transaction.

use std::sync::Arc;

use crate::domain::{command::QueueStatus, event::Event, ids::Revision, saga::Saga, time::Timestamp};

use super::{DerivedFields, RowId, StoredAnswer};

/// The net change of one saga in a turn, however many calls changed it.
#[derive(Clone, Debug)]
pub struct SagaChange {
    /// Its place.
    pub id: RowId,
    /// The stored saga; none: it is new.
    pub before: Option<Arc<Saga>>,
    /// The stored derived fields, if known.
    pub derived_before: Option<DerivedFields>,
    /// The saga after the turn; none: it is not written, because it was removed later.
    pub after: Option<Arc<Saga>>,
    /// Its derived fields after the turn.
    pub derived: DerivedFields,
}

/// An event that is added to the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedEvent {
    /// Its saga's row.
    pub saga: RowId,
    /// The revision of the saga's previous event; none: it is the first.
    pub prev: Option<Revision>,
    /// The event.
    pub event: Event,
}

/// All changes of a turn. After [`super::Backend::commit`] has returned, either all of them are stored or none.
#[derive(Debug, Default)]
pub struct ChangeSet {
    /// Sagas in the order in which they were first changed, so new ones in order of creation.
    pub sagas: Vec<SagaChange>,
    /// Sagas to remove with everything that belongs to them. They are removed first, since new sagas may have their
    /// ids.
    pub removed: Vec<RowId>,
    /// New events, by revision.
    pub events: Vec<AppendedEvent>,
    /// Answers to requests with a `request_id`.
    pub answers: Vec<([u8; 16], StoredAnswer)>,
    /// Queues that were paused or resumed; a later entry overrides an earlier one.
    pub queues: Vec<QueueStatus>,
    /// Events up to here may have been removed.
    pub compacted: Option<Revision>,
    /// Remove answers of this time or earlier: at most this many, the oldest first.
    pub forget_answers: Option<(Timestamp, usize)>,
}

impl ChangeSet {
    /// True if there is nothing to write.
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
