//! [`ReadyIndex`]: ready sagas that only some callers can claim, in memory: sagas to be compensated, by the kinds that
//! are pending, and reserved ones, by their assignee.
//!
//! Where any caller may take the next saga, a window of the first ones is enough (`ready_windows.rs`). But a caller
//! that handles only some kinds would have to skip every saga ahead that it can't take, possibly tens of thousands
//! that wait for a handler of their kinds. The index is rebuilt from a scan at start and updated with each change. It
//! takes about 200 bytes per saga that is reserved or waits to be compensated.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    hash::Hash,
    ops::Bound,
    sync::Arc,
};

use crate::domain::{
    ids::{OwnerId, QueueName},
    lease::LeasePurpose,
    saga::{Saga, State},
    text::Kind,
};

use super::{DerivedFields, ReadyPosition, RowId, RowIdBuildHasher};

/// Kinds of compensations: sorted, without duplicates.
pub type KindSet = Arc<[Kind]>;

/// A ready saga that only some callers can claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyEntry {
    /// Higher first.
    pub priority: i32,
    /// The saga's queue.
    pub queue: QueueName,
    /// Who can claim it.
    pub eligibility: Eligibility,
}

/// Who can claim a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// Callers that compensate and handle all of these kinds.
    Kinds(KindSet),
    /// One owner, to execute it.
    Assignee(OwnerId),
}

impl ReadyEntry {
    /// The index entry of a saga, if it has one.
    pub fn of(saga: &Saga, derived: &DerivedFields) -> Option<Self> {
        let eligibility = if saga.state == State::Compensating && derived.ready == Some(LeasePurpose::Compensate) {
            Eligibility::Kinds(pending_kinds(saga))
        } else if saga.state == State::Dispatched
            // The delay is over if something later is due next.
            && saga.not_before.is_none_or(|ready| derived.due.is_some_and(|due| due.at > ready))
        {
            Eligibility::Assignee(saga.reservation.as_ref()?.assignee.clone())
        } else {
            return None;
        };
        Some(ReadyEntry { priority: saga.spec.priority, queue: saga.spec.queue.clone(), eligibility })
    }
}

fn pending_kinds(saga: &Saga) -> KindSet {
    let pending = saga.compensations.iter().filter(|compensation| !compensation.is_settled());
    pending.map(|compensation| compensation.spec.kind.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

type ReadyOrder = BTreeSet<ReadyPosition>;

/// Ready sagas that only some callers can claim.
#[derive(Debug, Default)]
pub struct ReadyIndex {
    compensating: HashMap<QueueName, BTreeMap<KindSet, ReadyOrder>>,
    reserved: HashMap<(OwnerId, QueueName), ReadyOrder>,
    entries: HashMap<RowId, ReadyEntry, RowIdBuildHasher>,
}

impl ReadyIndex {
    /// Sets or clears a saga's entry.
    pub fn set(&mut self, id: RowId, entry: Option<ReadyEntry>) {
        if self.entries.get(&id) == entry.as_ref() {
            return;
        }
        let before = match &entry {
            Some(entry) => self.entries.insert(id, entry.clone()),
            None => self.entries.remove(&id),
        };
        if let Some(ReadyEntry { priority, queue, eligibility }) = &before {
            let place = (Reverse(*priority), id);
            match eligibility {
                Eligibility::Kinds(kinds) => {
                    if let Some(sets) = self.compensating.get_mut(queue) {
                        if let Some(places) = sets.get_mut(kinds) {
                            places.remove(&place);
                            if places.is_empty() {
                                sets.remove(kinds);
                            }
                        }
                        if sets.is_empty() {
                            self.compensating.remove(queue);
                        }
                    }
                }
                Eligibility::Assignee(assignee) => {
                    remove_from(&mut self.reserved, &(assignee.clone(), queue.clone()), &place);
                }
            }
        }
        if let Some(ReadyEntry { priority, queue, eligibility }) = entry {
            let place = (Reverse(priority), id);
            match eligibility {
                Eligibility::Kinds(kinds) => {
                    self.compensating.entry(queue).or_default().entry(kinds).or_default().insert(place);
                }
                Eligibility::Assignee(assignee) => {
                    self.reserved.entry((assignee, queue)).or_default().insert(place);
                }
            }
        }
    }

    /// A saga's entry.
    pub fn get(&self, id: RowId) -> Option<&ReadyEntry> {
        self.entries.get(&id)
    }

    /// Sagas of a queue that are reserved for an owner and claimable, by priority, then creation: at most `limit`.
    pub fn reserved(&self, assignee: &OwnerId, queue: &QueueName, limit: usize) -> Vec<ReadyPosition> {
        let places = self.reserved.get(&(assignee.clone(), queue.clone()));
        places.into_iter().flatten().take(limit).copied().collect()
    }

    /// The owners that can claim reserved sagas of a queue, in no order. Scans the reservations of all queues.
    pub fn assignees(&self, queue: &QueueName) -> impl Iterator<Item = &OwnerId> {
        self.reserved.keys().filter(move |(_, of)| of == queue).map(|(assignee, _)| assignee)
    }

    /// The distinct sets of pending kinds among the sagas of a queue that wait to be compensated.
    pub fn kind_sets(&self, queue: &QueueName) -> impl Iterator<Item = &KindSet> {
        self.compensating.get(queue).into_iter().flat_map(BTreeMap::keys)
    }

    /// Sagas of a queue that wait to be compensated and whose pending kinds are all among `kinds`, by priority, then
    /// creation: at most `limit`. Adds to `looked_at` what it examined.
    pub fn of_kinds(&self, queue: &QueueName, kinds: &[Kind], limit: usize, looked_at: &mut u64) -> Vec<ReadyPosition> {
        let Some(sets) = self.compensating.get(queue) else { return Vec::new() };
        let mut in_order: Vec<_> = covered(sets, kinds, looked_at).into_iter().map(|places| places.iter()).collect();
        // A merge: the first of each set; after each one taken, the next of its set.
        let mut firsts: BinaryHeap<_> = in_order
            .iter_mut()
            .enumerate()
            .filter_map(|(set, places)| places.next().map(|place| Reverse((place, set))))
            .collect();
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(Reverse((place, set))) = firsts.pop()
        {
            *looked_at += 1;
            found.push(*place);
            firsts.extend(in_order[set].next().map(|place| Reverse((place, set))));
        }
        found
    }
}

/// Removes an item from one of the sets of an index; an empty set is dropped.
pub(super) fn remove_from<K: Eq + Hash, T: Ord>(index: &mut HashMap<K, BTreeSet<T>>, key: &K, item: &T) {
    if let Some(set) = index.get_mut(key) {
        set.remove(item);
        if set.is_empty() {
            index.remove(key);
        }
    }
}

/// The sets that contain only these kinds. The sets are sorted, so after a set with a foreign kind the search skips
/// all sets that share its prefix up to that kind: any number of them costs one step.
fn covered<'a>(sets: &'a BTreeMap<KindSet, ReadyOrder>, kinds: &[Kind], looked_at: &mut u64) -> Vec<&'a ReadyOrder> {
    let kinds: Vec<&Kind> = kinds.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let mut found = Vec::new();
    let mut from = Bound::Included(Vec::<Kind>::new());
    loop {
        let bound = match &from {
            Bound::Included(set) => Bound::Included(&set[..]),
            Bound::Excluded(set) => Bound::Excluded(&set[..]),
            Bound::Unbounded => Bound::Unbounded,
        };
        let Some((set, places)) = sets.range::<[Kind], _>((bound, Bound::Unbounded)).next() else { return found };
        *looked_at += 1;
        let Some(foreign) = set.iter().position(|kind| kinds.binary_search(&kind).is_err()) else {
            found.push(places);
            from = Bound::Excluded(set.to_vec());
            continue;
        };
        // The next possible set has a wanted kind greater than the foreign one in its place, or greater than the kind
        // before it in that one's place, and so on.
        let next = (0..=foreign).rev().find_map(|at| {
            let next = kinds.get(kinds.partition_point(|kind| **kind <= set[at]))?;
            Some(set[..at].iter().chain([*next]).cloned().collect())
        });
        match next {
            Some(set) => from = Bound::Included(set),
            None => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue() -> QueueName {
        QueueName::parse("q").unwrap()
    }

    fn kind(name: &str) -> Kind {
        Kind::parse(name).unwrap()
    }

    fn set(names: &[&str]) -> KindSet {
        names.iter().map(|name| kind(name)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn entry(priority: i32, eligibility: Eligibility) -> Option<ReadyEntry> {
        Some(ReadyEntry { priority, queue: queue(), eligibility })
    }

    fn ids(found: &[ReadyPosition]) -> Vec<i64> {
        found.iter().map(|(_, id)| id.0).collect()
    }

    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

    proptest! {
        #[test]
        fn a_search_by_kinds_finds_the_same_as_a_full_scan(
            sagas in prop::collection::vec((prop::collection::vec(0..6usize, 0..4), -2..2i32), 0..60),
            wanted in prop::collection::vec(0..6usize, 1..5),
            limit in 1..20usize,
        ) {
            let mut index = ReadyIndex::default();
            let names = |places: &[usize]| places.iter().map(|place| NAMES[*place]).collect::<Vec<_>>();
            let mut expected = Vec::new();
            for (id, (kinds, priority)) in (1..).zip(&sagas) {
                index.set(RowId(id), entry(*priority, Eligibility::Kinds(set(&names(kinds)))));
                if kinds.iter().all(|kind| wanted.contains(kind)) {
                    expected.push((Reverse(*priority), id));
                }
            }
            expected.sort_unstable();
            expected.truncate(limit);
            let wanted: Vec<Kind> = names(&wanted).into_iter().map(kind).collect();
            let found = index.of_kinds(&queue(), &wanted, limit, &mut 0);
            prop_assert_eq!(ids(&found), expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        }
    }

    #[test]
    fn s12_sagas_with_other_kinds_are_not_scanned() {
        let mut index = ReadyIndex::default();
        // Each saga has a different set of kinds. The sets sort before, between and after the wanted one.
        for n in 0..40_000i64 {
            let stuck = ["a".to_owned(), format!("m-{n}"), "z".to_owned()];
            let stuck: Vec<&str> = stuck.iter().map(String::as_str).skip(n as usize % 2).collect();
            index.set(RowId(n), entry(9, Eligibility::Kinds(set(&stuck))));
        }
        index.set(RowId(50_000), entry(0, Eligibility::Kinds(set(&["a", "z"]))));
        let mut looked_at = 0;
        let found = index.of_kinds(&queue(), &[kind("a"), kind("b"), kind("z")], 100, &mut looked_at);
        assert_eq!(ids(&found), [50_000]);
        assert!(looked_at < 12, "{looked_at}");
    }

    #[test]
    fn the_index_follows_changes() {
        let mut index = ReadyIndex::default();
        let w = OwnerId::parse("w").unwrap();
        index.set(RowId(1), entry(0, Eligibility::Assignee(w.clone())));
        index.set(RowId(2), entry(5, Eligibility::Assignee(w.clone())));
        index.set(RowId(3), entry(0, Eligibility::Kinds(set(&["a"]))));
        assert_eq!(ids(&index.reserved(&w, &queue(), 10)), [2, 1]);
        assert_eq!(ids(&index.reserved(&w, &queue(), 1)), [2]);
        let before = index.get(RowId(1)).cloned();
        index.set(RowId(1), None);
        index.set(RowId(3), entry(0, Eligibility::Kinds(set(&["b"]))));
        index.set(RowId(3), None);
        index.set(RowId(4), entry(0, Eligibility::Kinds(set(&[]))));
        assert_eq!(ids(&index.of_kinds(&queue(), &[kind("a")], 10, &mut 0)), [4]);
        index.set(RowId(1), before);
        assert_eq!(ids(&index.reserved(&w, &queue(), 10)), [2, 1]);
        for id in 1..=4 {
            index.set(RowId(id), None);
        }
        assert!(index.compensating.is_empty() && index.reserved.is_empty() && index.entries.is_empty());
    }
}
