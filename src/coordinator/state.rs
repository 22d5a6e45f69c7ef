//! [`Coordinator`]: the state in memory between two turns.

use std::collections::HashSet;

use crate::domain::{
    ids::{QueueName, Revision},
    lease::RestartGrace,
    saga::Saga,
    time::Timestamp,
    transition::ReadyPurposes,
};

use super::{
    Caller, Claimable, DerivedFields, DueEntry, DueIndex, HeldClaims, InitialState, ReadyEntry, ReadyIndex, RowId,
    RowIdBuildHasher, cache::SagaCache, ready_windows::ReadyWindows,
};

/// The state in memory between two turns. Only turns change it.
pub struct Coordinator<C> {
    /// Held calls.
    pub held_claims: HeldClaims<C>,
    /// How many calls may be held.
    pub max_waiting: usize,
    /// How many candidates and sets of kinds claims examined, and how many held ones were tried; for tests.
    pub looked_at: u64,
    pub(super) due_index: DueIndex,
    /// Ready sagas that only some callers can claim.
    pub(super) ready: ReadyIndex,
    /// The next sagas that any caller can claim.
    pub(super) windows: ReadyWindows,
    pub(super) cache: SagaCache,
    /// Sagas whose stored rows were found damaged by a commit.
    pub(super) unwritable: HashSet<RowId, RowIdBuildHasher>,
    /// Paused queues.
    pub(super) paused: HashSet<QueueName>,
    /// The last absence.
    pub(super) grace: RestartGrace,
    /// The revision of the next event.
    pub(super) next_revision: Revision,
    /// The place of the next saga.
    pub(super) next_row: RowId,
    /// What became claimable and was not offered to held calls yet.
    pub(super) claimable: Vec<Claimable>,
    /// The time of the last call or sweep. Later ones never have an earlier time.
    pub(super) time: Timestamp,
    /// When old answers were last removed.
    pub(super) forgot_at: Timestamp,
    /// True if no more calls are held.
    pub(super) draining: bool,
}

impl<C: Caller> Coordinator<C> {
    /// Starts at `now` on an opened store, with the grace after the absence before.
    pub fn new(opening: InitialState, grace: RestartGrace, max_waiting: usize, now: Timestamp) -> Self {
        let mut coordinator = Coordinator {
            held_claims: HeldClaims::default(),
            max_waiting,
            looked_at: 0,
            due_index: DueIndex::default(),
            ready: ReadyIndex::default(),
            windows: ReadyWindows::default(),
            cache: SagaCache::default(),
            unwritable: HashSet::default(),
            paused: opening.paused.into_iter().collect(),
            grace,
            next_revision: opening.next_revision,
            next_row: opening.next_row,
            claimable: Vec::new(),
            time: now,
            forgot_at: now,
            draining: false,
        };
        for (id, entry) in opening.due {
            coordinator.due_index.set(id, Some(entry), &grace);
        }
        for (id, entry) in opening.ready {
            coordinator.ready.set(id, Some(entry));
        }
        coordinator
    }

    /// Applies the grace after an absence.
    pub fn returned(&mut self, grace: RestartGrace) {
        self.grace = grace;
        self.due_index.apply_grace(&grace);
    }

    /// The revision that the next event gets.
    pub fn next_revision(&self) -> Revision {
        self.next_revision
    }

    /// The last absence.
    pub fn grace(&self) -> RestartGrace {
        self.grace
    }

    /// Treats a saga as unreadable until the next start, because a commit found that its stored rows are not those
    /// that were read. Otherwise what is due to it would make every turn fail.
    pub fn set_aside(&mut self, id: RowId) {
        self.cache.forget(id);
        self.unwritable.insert(id);
    }

    /// What is due when.
    pub fn due_index(&self) -> &DueIndex {
        &self.due_index
    }

    /// When there is something to do without a call: `now` if held calls are still to be answered with what became
    /// claimable.
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        let serve = (!self.claimable.is_empty()).then_some(now);
        [self.due_index.next(), self.held_claims.next_deadline(), serve].into_iter().flatten().min()
    }

    /// True if a turn at this time would have something to do without a call.
    pub fn has_work(&self, now: Timestamp) -> bool {
        self.due_index.due_by(now).is_some() || !self.claimable.is_empty() || self.held_claims.has_until_swept()
    }

    /// Stops holding calls. (The caller of this answers those that are held.)
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Updates the indexes with a changed saga.
    pub(super) fn note(&mut self, id: RowId, saga: &Saga, derived: &DerivedFields) {
        let next =
            derived.due.map(|due| DueEntry { due, queue: saga.spec.queue.clone(), ready: ReadyPurposes::of(saga) });
        self.due_index.set(id, next, &self.grace);
        self.ready.set(id, ReadyEntry::of(saga, derived));
        self.windows.set(id, saga, derived.ready);
    }
}
