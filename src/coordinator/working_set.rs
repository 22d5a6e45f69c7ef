//! The data a turn works on: its own changes, on top of what memory has, on top of what the backend has.

use std::sync::Arc;

use crate::{
    domain::{
        command::Creation,
        draft::Draft,
        event::Event,
        ids::{FencingToken, QueueName, Revision, TaskId},
        lease::LeasePurpose,
        saga::{Saga, State},
        text::Blob,
        time::Timestamp,
        transition::{apply_due, next_due},
    },
    mutants::{self, Mutant},
};

use super::{
    AppendedEvent, Backend, BackendError, Caller, Claimable, ContentBytes, DerivedFields, Eligibility, LoadKey,
    LoadResult, ReadyEntry, ReadyPosition, RemovalCounts, RowId, SagaChange, StoredAnswer, Turn, TurnStep,
    without_contents,
};

/// A saga with its row.
type SagaWithRow = (RowId, Arc<Saga>);

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    /// A saga as this turn changed it, if it did; `Some(None)` if it removed it.
    fn changed(&self, id: RowId) -> Option<Option<&Arc<Saga>>> {
        if self.removed.contains(&id) {
            return Some(None);
        }
        Some(self.changes.sagas.get(*self.touched.get(&id)?)?.after.as_ref())
    }

    /// A task's saga.
    pub(super) fn find(&mut self, task_id: &TaskId) -> Result<Option<SagaWithRow>, BackendError> {
        if let Some(id) = self.tasks.get(task_id).copied()
            && let Some(Some(saga)) = self.changed(id)
        {
            return Ok(Some((id, saga.clone())));
        }
        if let Some(id) = self.coordinator.cache.place(task_id) {
            // If there is none, it was purged.
            match self.load(id)? {
                Some(saga) => return Ok(Some((id, saga))),
                None => self.coordinator.cache.forget_place(task_id),
            }
        }
        self.ask(LoadKey::Task(task_id.clone()))
    }

    /// Loads a saga by its row.
    pub(super) fn load(&mut self, id: RowId) -> Result<Option<Arc<Saga>>, BackendError> {
        if let Some(changed) = self.changed(id) {
            return Ok(changed.cloned());
        }
        if let Some(saga) = self.coordinator.cache.saga(id).cloned() {
            debug_assert!(self.is_stored(id, &saga), "what is kept is what is stored");
            return Ok(Some(saga));
        }
        Ok(self.ask(LoadKey::Row(id))?.map(|(_, saga)| saga))
    }

    fn is_stored(&mut self, id: RowId, saga: &Arc<Saga>) -> bool {
        let stored = self.backend.load(&[LoadKey::Row(id)]);
        stored.is_err() || stored == Ok(vec![LoadResult::Saga(id, saga.clone())])
    }

    /// Loads from the backend, with this turn's changes on top.
    fn ask(&mut self, key: LoadKey) -> Result<Option<SagaWithRow>, BackendError> {
        match self.backend.load(&[key])?.pop() {
            None | Some(LoadResult::Nothing) => Ok(None),
            Some(LoadResult::Unreadable(what)) => Err(BackendError::Corrupt(what)),
            Some(LoadResult::Saga(id, _)) if self.coordinator.unwritable.contains(&id) => {
                Err(BackendError::Corrupt(format!("row {}: it could not be changed before", id.0)))
            }
            Some(LoadResult::Saga(id, saga)) => {
                if let Some(changed) = self.changed(id) {
                    return Ok(changed.cloned().map(|saga| (id, saga)));
                }
                self.coordinator.cache.keep(id, saga.clone(), None);
                self.coordinator.cache.keep_place(id, &saga);
                Ok(Some((id, saga)))
            }
        }
    }

    /// Loads a saga, or returns `None` if it can't be read: a damaged one must not keep the others from what is due to
    /// them.
    pub(super) fn load_readable(&mut self, id: RowId) -> Result<Option<Arc<Saga>>, BackendError> {
        match self.load(id) {
            Err(BackendError::Corrupt(what)) => {
                self.observe_step(TurnStep::Unreadable(id, &what));
                Ok(None)
            }
            loaded => loaded,
        }
    }

    /// Loads a saga without its contents, but with their sizes; without its compensations unless they are wanted.
    pub(super) fn load_without_contents(
        &mut self,
        id: RowId,
        compensations: bool,
    ) -> Result<Option<(Saga, ContentBytes)>, BackendError> {
        if let Some(changed) = self.changed(id) {
            return Ok(changed.map(|saga| without_contents(Saga::clone(saga), compensations)));
        }
        match self.coordinator.cache.saga(id) {
            Some(saga) => Ok(Some(without_contents(Saga::clone(saga), compensations))),
            None => self.backend.load_without_contents(id, compensations),
        }
    }

    /// A saga's payload.
    pub(super) fn payload(&mut self, id: RowId) -> Result<Option<Blob>, BackendError> {
        let in_memory = self.changed(id).unwrap_or_else(|| self.coordinator.cache.saga(id));
        match in_memory {
            Some(saga) => Ok(Some(saga.spec.payload.clone())),
            None => self.backend.payload(id),
        }
    }

    /// The index of the first new saga whose task or saga id is taken, and the field's name.
    pub(super) fn taken(&mut self, creations: &[Creation]) -> Result<Option<(usize, &'static str)>, BackendError> {
        let keys = creations
            .iter()
            .flat_map(|creation| [LoadKey::Task(creation.task_id.clone()), LoadKey::Saga(creation.saga_id.clone())]);
        let keys: Vec<_> = keys.collect();
        let stored = self.backend.load(&keys)?;
        let is_there = |loaded: &LoadResult| match loaded {
            LoadResult::Nothing => false,
            LoadResult::Unreadable(_) => true,
            // Not taken if this turn removed it.
            LoadResult::Saga(id, _) => self.changed(*id).is_none_or(|changed| changed.is_some()),
        };
        for (index, (creation, stored)) in creations.iter().zip(stored.chunks(2)).enumerate() {
            if is_there(&stored[0]) || self.tasks.contains_key(&creation.task_id) {
                return Ok(Some((index, "task_id")));
            }
            if is_there(&stored[1]) || self.saga_ids.contains(&creation.saga_id) {
                return Ok(Some((index, "saga_id")));
            }
        }
        Ok(None)
    }

    /// Adds a saga with its first event; returns its row.
    pub(super) fn insert(&mut self, saga: &Arc<Saga>, event: Event, now: Timestamp) -> RowId {
        let id = self.next_row;
        self.next_row = RowId(id.0 + 1);
        self.next_revision = self.next_revision.after(1);
        self.tasks.insert(saga.spec.task_id.clone(), id);
        self.saga_ids.insert(saga.spec.saga_id.clone());
        self.changes.events.push(AppendedEvent { saga: id, prev: None, event });
        let derived = self.derive(saga, now);
        self.put(id, None, saga.clone(), derived);
        id
    }

    /// A draft to which what is due has been applied.
    pub(super) fn draft(&self, saga: &Saga, now: Timestamp) -> Draft {
        let mut draft = Draft::begin(saga.clone(), now, self.coordinator.grace, self.next_revision);
        apply_due(&mut draft);
        draft
    }

    /// Adds the changes of a draft to the turn; returns the saga as it is now.
    pub(super) fn save(&mut self, id: RowId, before: Arc<Saga>, draft: Draft) -> Arc<Saga> {
        if *before == draft.saga {
            return before;
        }
        debug_assert!(!draft.saga.contents_omitted, "what is stored is whole");
        let mut prev = before.revision;
        self.next_revision = draft.next_revision();
        let Draft { saga, events, now, .. } = draft;
        for mut event in events {
            if mutants::on(Mutant::DecisionsUnsigned) {
                event.actor = None;
            }
            let newest = event.revision;
            self.changes.events.push(AppendedEvent { saga: id, prev: Some(prev), event });
            prev = newest;
        }
        let derived = self.derive(&saga, now);
        let after = Arc::new(saga);
        self.put(id, Some(before), after.clone(), derived);
        after
    }

    fn derive(&self, saga: &Saga, now: Timestamp) -> DerivedFields {
        let grace = &self.coordinator.grace;
        let given_out_twice = mutants::on(Mutant::ClaimNextIgnoresLease) && saga.state == State::Compensating;
        let ready = if given_out_twice { Some(LeasePurpose::Compensate) } else { saga.ready_for(now, grace) };
        DerivedFields { ready, due: next_due(saga, now, grace) }
    }

    /// Updates the derived fields of a saga that did not change but may have become claimable.
    pub(super) fn derive_anew(&mut self, id: RowId, saga: Arc<Saga>, now: Timestamp) {
        let derived = self.derive(&saga, now);
        self.put(id, Some(saga.clone()), saga, derived);
    }

    fn put(&mut self, id: RowId, before: Option<Arc<Saga>>, after: Arc<Saga>, derived: DerivedFields) {
        let place = self.touched.get(&id).copied();
        if place.is_none() {
            self.remember(id);
        }
        self.coordinator.note(id, &after, &derived);
        self.note_claimable_saga(&after, &derived);
        match place {
            Some(place) => {
                let change = &mut self.changes.sagas[place];
                change.after = Some(after);
                change.derived = derived;
            }
            None => {
                self.touched.insert(id, self.changes.sagas.len());
                let derived_before = self.coordinator.cache.derived(id);
                self.changes.sagas.push(SagaChange { id, before, derived_before, after: Some(after), derived });
            }
        }
    }

    /// Records what a change makes claimable for held calls.
    fn note_claimable_saga(&mut self, saga: &Saga, derived: &DerivedFields) {
        match derived.ready {
            Some(LeasePurpose::Execute) => self.note_claimable(Claimable::ToExecute(saga.spec.queue.clone())),
            Some(LeasePurpose::Compensate) => {
                if let Some(ReadyEntry { eligibility: Eligibility::Kinds(kinds), .. }) = ReadyEntry::of(saga, derived) {
                    self.note_claimable(Claimable::ToCompensate(saga.spec.queue.clone(), kinds));
                }
            }
            None => {}
        }
        if let Some(reservation) = &saga.reservation {
            self.note_claimable(Claimable::Reserved(reservation.assignee.clone(), saga.spec.queue.clone()));
        }
    }

    /// Records that something became claimable. A large batch creates many equal entries in a row; one is enough.
    pub(super) fn note_claimable(&mut self, claimable: Claimable) {
        if self.claimable.last() != Some(&claimable) {
            self.claimable.push(claimable);
        }
    }

    /// Counts what would be removed with a saga.
    pub(super) fn count_removal(&mut self, id: RowId) -> Result<RemovalCounts, BackendError> {
        let place = self.touched.get(&id).copied();
        let change = place.map(|place| &self.changes.sagas[place]);
        let (is_new, after) = (change.is_some_and(|c| c.before.is_none()), change.and_then(|c| c.after.as_ref()));
        let compensations = after.map(|saga| saga.compensations.len());
        let mut removed = if is_new { RemovalCounts::default() } else { self.backend.count_removal(id)? };
        removed.compensations = compensations.unwrap_or(removed.compensations);
        for appended in self.changes.events.iter().filter(|appended| appended.saga == id) {
            removed.events += 1;
            removed.newest = appended.event.revision;
        }
        Ok(removed)
    }

    /// Removes a saga with everything that belongs to it. It may be damaged.
    pub(super) fn remove(&mut self, id: RowId) -> Result<RemovalCounts, BackendError> {
        let removed = self.count_removal(id)?;
        let change = self.touched.get(&id).map(|place| &mut self.changes.sagas[*place]);
        let is_new = change.as_ref().is_some_and(|change| change.before.is_none());
        match change.and_then(|change| change.after.take()) {
            Some(saga) => {
                self.tasks.remove(&saga.spec.task_id);
                self.saga_ids.remove(&saga.spec.saga_id);
            }
            None => self.remember(id),
        }
        self.removed.insert(id);
        if !is_new {
            self.changes.removed.push(id);
        }
        self.coordinator.due_index.set(id, None, &self.coordinator.grace);
        Ok(removed)
    }

    /// Ended sagas in these states that were last changed before a time, oldest first: at most `limit`.
    pub(super) fn ended(
        &mut self,
        states: &[State],
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<RowId>, BackendError> {
        let mut found = self.backend.ended(states, before, limit + self.changes.sagas.len() + self.removed.len())?;
        found.retain(|(_, id)| !self.touched.contains_key(id) && !self.removed.contains(id));
        let changed = self.changes.sagas.iter().filter_map(|change| Some((change.id, change.after.as_ref()?)));
        let changed = changed
            .filter(|(_, saga)| saga.state.is_terminal() && states.contains(&saga.state) && saga.update_time < before);
        found.extend(changed.map(|(id, saga)| (saga.update_time, id)));
        found.sort_unstable();
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// The first ready sagas of a queue.
    pub(super) fn ready(
        &mut self,
        purpose: LeasePurpose,
        queue: &QueueName,
        limit: usize,
    ) -> Result<Vec<ReadyPosition>, BackendError> {
        loop {
            if let Some(found) = self.coordinator.windows.first(purpose, queue, limit) {
                return Ok(found);
            }
            let scan = self.coordinator.windows.scan(purpose, queue, limit);
            let found = self.backend.ready(&scan)?;
            self.coordinator.windows.extend(&scan, &found);
            // This turn's changes are not stored yet.
            for change in &self.changes.sagas {
                if let Some(saga) = &change.after {
                    self.coordinator.windows.follow(change.id, saga, change.derived.ready);
                }
            }
        }
    }

    /// The stored answer to a request.
    pub(super) fn stored(&mut self, id: &[u8; 16]) -> Result<Option<StoredAnswer>, BackendError> {
        match self.kept.get(id) {
            Some(answer) => Ok(Some(answer.clone())),
            None => Ok(self.backend.answers(&[*id])?.pop().flatten()),
        }
    }

    /// The events of an earlier lease: its claim and, if among the newest of the saga, how its holder ended it.
    pub(super) fn lease_events(
        &mut self,
        id: RowId,
        token: FencingToken,
        newest: usize,
    ) -> Result<Vec<Event>, BackendError> {
        let of_turn = || self.changes.events.iter().rev();
        let of_saga = || of_turn().filter(|appended| appended.saga == id).map(|appended| &appended.event);
        let claimed = of_saga().find(|event| event.revision.0 == token.0);
        let is_end = |event: &&Event| event.token == Some(token) && event.details.contains_key("ended_by");
        let ended = of_saga().take(newest).find(is_end);
        let mut found: Vec<_> = claimed.into_iter().chain(ended).cloned().collect();
        if found.len() < 2 {
            let left = newest.saturating_sub(of_saga().count());
            let (has_begun, has_ended) = (claimed.is_some(), ended.is_some());
            let stored = self.backend.lease_events(id, token, left)?;
            found.extend(stored.into_iter().filter(|event| match Revision(token.0) == event.revision {
                true => !has_begun,
                false => !has_ended,
            }));
        }
        Ok(found)
    }

    /// True if the queue ever held a saga or was paused.
    pub(super) fn queue_exists(&mut self, queue: &QueueName) -> Result<bool, BackendError> {
        let of_turn = self.changes.queues.iter().any(|status| status.queue == *queue);
        let sagas = self.changes.sagas.iter().filter_map(|change| change.after.as_ref());
        let is_new = of_turn || sagas.into_iter().any(|saga| saga.spec.queue == *queue);
        Ok(is_new || self.backend.queue_exists(queue)?)
    }

    /// True if the queue is paused.
    pub(super) fn is_paused(&self, queue: &QueueName) -> bool {
        self.paused.as_ref().unwrap_or(&self.coordinator.paused).contains(queue)
    }
}
