//! [`Coordinator`]: what is known between two turns.

use std::collections::HashSet;

use crate::domain::{
    ids::{QueueName, Revision},
    lease::Absence,
    saga::Saga,
    time::Timestamp,
    transition::ReadyAfterDue,
};

use super::{
    Agenda, Caller, Derived, NextDue, Opening, ReadyEntry, ReadyIndex, RowHasher, RowId, StoredDue, Waiters, Wake,
    cache::SagaCache, windows::Windows,
};

/// What is known between two turns, and changed by them alone.
pub struct Coordinator<C> {
    /// Held calls.
    pub waiters: Waiters<C>,
    /// How many calls may be held.
    pub max_waiting: usize,
    /// How many candidates and sets of kinds claims looked at, and how many held ones were tried, for tests that count.
    pub looked_at: u64,
    pub(super) agenda: Agenda,
    /// What `ClaimNext` could give to some callers only.
    pub(super) ready: ReadyIndex,
    /// The next that it could give to any.
    pub(super) windows: Windows,
    pub(super) cache: SagaCache,
    /// Sagas whose stored rows can't be changed.
    pub(super) unwritable: HashSet<RowId, RowHasher>,
    /// Queues that give nothing to `ClaimNext`.
    pub(super) paused: HashSet<QueueName>,
    /// The last absence.
    pub(super) absence: Absence,
    /// The revision of the next event.
    pub(super) next_revision: Revision,
    /// The place of the next saga.
    pub(super) next_row: RowId,
    /// What became claimable, and was not looked at yet for held calls.
    pub(super) woken: Vec<Wake>,
    /// The time of the last call or sweep: no later one has an earlier time.
    pub(super) time: Timestamp,
    /// When answers were last forgotten.
    pub(super) forgot_at: Timestamp,
    /// Whether no more calls are held.
    pub(super) draining: bool,
}

impl<C: Caller> Coordinator<C> {
    /// On a store that has been opened, back from `absence`, at a time.
    pub fn new(opening: Opening, absence: Absence, max_waiting: usize, now: Timestamp) -> Self {
        let mut coordinator = Coordinator {
            waiters: Waiters::default(),
            max_waiting,
            looked_at: 0,
            agenda: Agenda::default(),
            ready: ReadyIndex::default(),
            windows: Windows::default(),
            cache: SagaCache::default(),
            unwritable: HashSet::default(),
            paused: opening.paused.into_iter().collect(),
            absence,
            next_revision: opening.next_revision,
            next_row: opening.next_row,
            woken: Vec::new(),
            time: now,
            forgot_at: now,
            draining: false,
        };
        for StoredDue { id, due, queue, state } in opening.due {
            let next = NextDue { due, queue, ready: ReadyAfterDue::of_state(state) };
            coordinator.agenda.set(id, Some(next), &absence);
        }
        for (id, entry) in opening.ready {
            coordinator.ready.set(id, Some(entry));
        }
        coordinator
    }

    /// The coordinator is back from an absence.
    pub fn returned(&mut self, absence: Absence) {
        self.absence = absence;
        self.agenda.after_absence(&absence);
    }

    /// The revision that the next event gets.
    pub fn next_revision(&self) -> Revision {
        self.next_revision
    }

    /// The last absence.
    pub fn absence(&self) -> Absence {
        self.absence
    }

    /// From now on, until the next start, a saga counts as one that can't be read: a commit found that its stored rows are not
    /// those that were read. Otherwise what is due to it would make every turn fail.
    pub fn set_aside(&mut self, id: RowId) {
        self.cache.forget(id);
        self.unwritable.insert(id);
    }

    /// What is due when.
    pub fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// When there is something to do although nobody calls: `now`, if held calls are still to be served with what became
    /// claimable.
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        let serve = (!self.woken.is_empty()).then_some(now);
        [self.agenda.next(), self.waiters.next_deadline(), serve].into_iter().flatten().min()
    }

    /// Whether a turn at this time would have something to do although nobody calls.
    pub fn has_work(&self, now: Timestamp) -> bool {
        self.agenda.due_by(now).is_some() || !self.woken.is_empty() || self.waiters.has_until_swept()
    }

    /// No more calls are held from now on. (Those that are held are for whoever says this to let go.)
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Follows a saga in memory.
    pub(super) fn note(&mut self, id: RowId, saga: &Saga, derived: &Derived) {
        let next =
            derived.due.map(|due| NextDue { due, queue: saga.spec.queue.clone(), ready: ReadyAfterDue::of(saga) });
        self.agenda.set(id, next, &self.absence);
        self.ready.set(id, ReadyEntry::of(saga, derived));
        self.windows.set(id, saga, derived.ready);
    }
}
