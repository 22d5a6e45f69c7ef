//! [`DueIndex`]: when something is due to which saga, in memory: live leases, reservations, delays, overdue
//! compensations.
//!
//! The store has no index on expiry times, since every heartbeat would have to update it. This index is rebuilt from a
//! scan at start and updated with each change.

use std::collections::{BTreeSet, HashMap};

use crate::domain::{
    ids::QueueName,
    lease::{LeasePurpose, RestartGrace},
    time::Timestamp,
    transition::{Due, ReadyPurposes},
};

use super::{RowId, RowIdBuildHasher};

/// What is due next to one saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueEntry {
    /// When.
    pub due: Due,
    /// The saga's queue.
    pub queue: QueueName,
    /// For which purposes it may be ready then.
    pub ready: ReadyPurposes,
}

/// Sagas ordered by when something is due to them.
type DueOrder = BTreeSet<(Timestamp, RowId)>;

#[derive(Clone, Debug)]
struct IndexedDue {
    /// The instant, given the last absence.
    at: Timestamp,
    next: DueEntry,
}

/// What is due to all sagas.
#[derive(Debug, Default)]
pub struct DueIndex {
    order: DueOrder,
    /// The same, only of sagas that may become ready, by queue and purpose, so that a claim finds them behind any number
    /// of others.
    by_queue: HashMap<QueueName, [DueOrder; LeasePurpose::ALL.len()]>,
    entries: HashMap<RowId, IndexedDue, RowIdBuildHasher>,
}

impl DueIndex {
    /// Sets or clears what is due to a saga.
    pub fn set(&mut self, id: RowId, next: Option<DueEntry>, grace: &RestartGrace) {
        let entry = next.map(|next| IndexedDue { at: next.due.effective(grace), next });
        let place = |entry: &Option<IndexedDue>| entry.as_ref().map(|entry| (entry.at, entry.next.ready));
        let after = entry.clone();
        let before = match entry {
            Some(entry) => self.entries.insert(id, entry),
            None => self.entries.remove(&id),
        };
        if place(&before) != place(&after) {
            if let Some(IndexedDue { at, next }) = &before {
                self.order.remove(&(*at, id));
                self.unlink(id, *at, next);
            }
            if let Some(IndexedDue { at, next }) = &after {
                self.order.insert((*at, id));
                self.link(id, *at, next);
            }
        }
    }

    /// What is due next to a saga.
    pub fn get(&self, id: RowId) -> Option<&DueEntry> {
        self.entries.get(&id).map(|entry| &entry.next)
    }

    fn link(&mut self, id: RowId, at: Timestamp, next: &DueEntry) {
        if next.ready == ReadyPurposes::default() {
            return;
        }
        let of_queue = self.by_queue.entry(next.queue.clone()).or_default();
        for purpose in LeasePurpose::ALL.into_iter().filter(|purpose| next.ready.includes(*purpose)) {
            of_queue[purpose as usize].insert((at, id));
        }
    }

    fn unlink(&mut self, id: RowId, at: Timestamp, next: &DueEntry) {
        let Some(of_queue) = self.by_queue.get_mut(&next.queue) else { return };
        for order in &mut *of_queue {
            order.remove(&(at, id));
        }
        if of_queue.iter().all(DueOrder::is_empty) {
            self.by_queue.remove(&next.queue);
        }
    }

    /// The next instant at which something is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The saga whose due time is the earliest, if that is not after `now`.
    pub fn due_by(&self, now: Timestamp) -> Option<RowId> {
        first_by(&self.order, now)
    }

    /// All sagas to which something is due by `now`, the earliest first.
    pub fn all_due_by(&self, now: Timestamp) -> impl Iterator<Item = RowId> {
        self.order.iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// Like [`Self::due_by`], among the sagas of a queue that may become ready for a purpose.
    pub fn due_for(&self, purpose: LeasePurpose, queue: &QueueName, now: Timestamp) -> Option<RowId> {
        first_by(&self.by_queue.get(queue)?[purpose as usize], now)
    }

    /// True if something is due to this saga by `now`.
    pub fn is_due(&self, id: RowId, now: Timestamp) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.at <= now)
    }

    /// Recomputes all due times after an absence. Not within a turn.
    pub fn apply_grace(&mut self, grace: &RestartGrace) {
        self.order.clear();
        self.by_queue.clear();
        let mut entries = std::mem::take(&mut self.entries);
        for (id, IndexedDue { at, next }) in &mut entries {
            *at = next.due.effective(grace);
            self.order.insert((*at, *id));
            self.link(*id, *at, next);
        }
        self.entries = entries;
    }
}

fn first_by(order: &DueOrder, now: Timestamp) -> Option<RowId> {
    order.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{saga::State, time::Span};

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn of(due: Due, queue: &str, state: State) -> Option<DueEntry> {
        Some(DueEntry { due, queue: QueueName::parse(queue).unwrap(), ready: ReadyPurposes::of_state(state) })
    }

    #[test]
    fn entries_are_in_due_order_and_follow_changes() {
        let grace = RestartGrace::default();
        let mut due_index = DueIndex::default();
        let due = |t| of(Due { at: at(t), grace_reference: Some(at(0)) }, "q", State::Running);
        due_index.set(RowId(1), due(30), &grace);
        due_index.set(RowId(2), due(20), &grace);
        assert_eq!(due_index.next(), Some(at(20)));
        assert_eq!(due_index.due_by(at(19)), None);
        assert_eq!(due_index.due_by(at(20)), Some(RowId(2)));
        assert!(due_index.is_due(RowId(2), at(20)) && !due_index.is_due(RowId(1), at(20)));
        due_index.set(RowId(2), due(40), &grace);
        assert_eq!(due_index.due_by(at(30)), Some(RowId(1)));
        due_index.set(RowId(1), None, &grace);
        due_index.set(RowId(2), None, &grace);
        assert_eq!(due_index.next(), None);
    }

    #[test]
    fn p6_grace_postpones_leases_but_not_delays() {
        let mut due_index = DueIndex::default();
        let grace = RestartGrace::default();
        due_index.set(RowId(1), of(Due { at: at(30), grace_reference: Some(at(0)) }, "q", State::Running), &grace);
        due_index.set(RowId(2), of(Due { at: at(40), grace_reference: None }, "q", State::Planned), &grace);
        due_index.apply_grace(&RestartGrace { returned_at: at(50), length: Span::from_micros(100).unwrap() });
        assert_eq!(due_index.due_by(at(149)), Some(RowId(2)));
        let execute =
            |due_index: &DueIndex, t| due_index.due_for(LeasePurpose::Execute, &QueueName::parse("q").unwrap(), at(t));
        assert_eq!(execute(&due_index, 149), Some(RowId(2)));
        due_index.set(RowId(2), None, &grace);
        assert_eq!(due_index.next(), Some(at(150)));
        assert_eq!((execute(&due_index, 149), execute(&due_index, 150)), (None, Some(RowId(1))));
    }

    #[test]
    fn due_sagas_are_found_by_queue_and_purpose() {
        let grace = RestartGrace::default();
        let mut due_index = DueIndex::default();
        let due = |queue, state| of(Due { at: at(1), grace_reference: None }, queue, state);
        due_index.set(RowId(1), due("p", State::Planned), &grace);
        due_index.set(RowId(2), due("q", State::Compensating), &grace);
        due_index.set(RowId(3), due("q", State::Quarantined), &grace);
        let found = |due_index: &DueIndex| {
            ["p", "q"].map(|queue| {
                let queue = QueueName::parse(queue).unwrap();
                [LeasePurpose::Execute, LeasePurpose::Compensate]
                    .map(|purpose| due_index.due_for(purpose, &queue, at(1)))
            })
        };
        assert_eq!(found(&due_index), [[Some(RowId(1)), None], [None, Some(RowId(2))]]);
        let before = due_index.get(RowId(2)).cloned();
        due_index.set(RowId(1), due("p", State::Running), &grace);
        due_index.set(RowId(2), None, &grace);
        due_index.set(RowId(2), due("q", State::Quarantined), &grace);
        assert_eq!(found(&due_index), [[Some(RowId(1)), Some(RowId(1))], [None, None]]);
        due_index.set(RowId(2), before, &grace);
        assert_eq!(found(&due_index), [[Some(RowId(1)), Some(RowId(1))], [None, Some(RowId(2))]]);
        for id in 1..=3 {
            due_index.set(RowId(id), None, &grace);
        }
        assert!(due_index.by_queue.is_empty() && due_index.order.is_empty() && due_index.entries.is_empty());
    }
}
