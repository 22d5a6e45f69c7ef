//! The store of the simulation: facts in memory that outlive the coordinator, with indexes, because a million steps are
//! to take seconds. A transaction keeps what it overwrote; a crash or a rollback puts it back.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use sagad::{
    domain::{
        command::QueueStatus,
        event::Event,
        ids::{FencingToken, QueueName, Revision, SagaId, TaskId},
        lease::LeasePurpose,
        saga::{Saga, State},
        text::Blob,
        time::{Span, Timestamp},
    },
    store::{
        EventQuery, ListQuery, Moment, PageBounds, QueueCounts, Reader, SagaKey, SagaPage, StoreError, Stretch,
        ready_index::ReadyEntry,
        rows::{
            Candidate, ContentBytes, Derived, Opening, Removed, RowId, Rows, RowsError, StoredAnswer, StoredDue, brief,
        },
    },
};

type ReadyKey = (bool, QueueName, Reverse<i32>, RowId);

enum Undo {
    Saga(RowId, Option<Box<(Saga, Derived)>>),
    Event(RowId, Option<FencingToken>),
    Answer([u8; 16], Option<StoredAnswer>),
    Queue(QueueName, Option<QueueStatus>),
}

/// Everything that is kept.
#[derive(Default)]
pub struct Facts {
    pub sagas: Vec<(Saga, Derived)>,
    /// The history, in order.
    pub events: Vec<Event>,
    by_task: HashMap<TaskId, RowId>,
    by_saga: HashMap<SagaId, RowId>,
    ready: BTreeSet<ReadyKey>,
    by_lease: HashMap<(RowId, FencingToken), Vec<usize>>,
    answers: HashMap<[u8; 16], StoredAnswer>,
    answers_by_age: BTreeSet<(Timestamp, [u8; 16])>,
    queues: BTreeMap<QueueName, QueueStatus>,
    /// Every revision ever given is below this.
    floor: Revision,
    closed_at: Timestamp,
    gaps: Vec<(Revision, Revision)>,
    undo: Vec<Undo>,
    in_transaction: bool,
    /// After so many more writes there is no room.
    pub full_after: Option<u32>,
}

/// The disk: clones are the same one.
#[derive(Clone, Default)]
pub struct Disk(pub Arc<Mutex<Facts>>);

fn place(id: RowId) -> usize {
    id.0 as usize - 1
}

fn ready_key(id: RowId, saga: &Saga, derived: &Derived) -> Option<ReadyKey> {
    let purpose = derived.ready?;
    Some((purpose == LeasePurpose::Compensate, saga.spec.queue.clone(), Reverse(saga.spec.priority), id))
}

fn places(sagas: &[(Saga, Derived)]) -> impl Iterator<Item = (RowId, &Saga, &Derived)> {
    (1..).zip(sagas).map(|(n, (saga, derived))| (RowId(n), saga, derived))
}

impl Facts {
    fn unlink(&mut self, id: RowId) {
        let (saga, derived) = &self.sagas[place(id)];
        if let Some(key) = ready_key(id, saga, derived) {
            self.ready.remove(&key);
        }
    }

    fn link(&mut self, id: RowId) {
        let (saga, derived) = &self.sagas[place(id)];
        self.ready.extend(ready_key(id, saga, derived));
    }

    /// A write, if there is room for it.
    fn room(&mut self) -> Result<(), RowsError> {
        match &mut self.full_after {
            None => Ok(()),
            Some(0) => Err(RowsError::Full),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Puts back what the transaction overwrote.
    pub fn undo(&mut self) {
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            match undo {
                Undo::Saga(id, Some(before)) => {
                    self.unlink(id);
                    self.sagas[place(id)] = *before;
                    self.link(id);
                }
                Undo::Saga(id, None) => {
                    self.unlink(id);
                    if let Some((saga, _)) = self.sagas.pop() {
                        self.by_task.remove(&saga.spec.task_id);
                        self.by_saga.remove(&saga.spec.saga_id);
                    }
                }
                Undo::Event(id, token) => {
                    self.events.pop();
                    if let Some(places) = token.and_then(|token| self.by_lease.get_mut(&(id, token))) {
                        places.pop();
                    }
                }
                Undo::Answer(id, before) => {
                    if let Some(after) = self.answers.remove(&id) {
                        self.answers_by_age.remove(&(after.time, id));
                    }
                    if let Some(before) = before {
                        self.answers_by_age.insert((before.time, id));
                        self.answers.insert(id, before);
                    }
                }
                Undo::Queue(name, before) => {
                    self.queues.remove(&name);
                    self.queues.extend(before.map(|before| (name, before)));
                }
            }
        }
        self.in_transaction = false;
    }

    pub fn head(&self) -> Revision {
        self.events.last().map_or(Revision::ZERO, |event| event.revision)
    }

    /// The events behind a revision.
    pub fn after(&self, revision: Revision) -> &[Event] {
        &self.events[self.events.partition_point(|event| event.revision <= revision)..]
    }

    /// What the coordinator finds when it opens the store.
    pub fn open(&mut self) -> Opening {
        assert!(!self.in_transaction, "a transaction that a crash cut off is undone first");
        let head = self.head();
        let next_revision = head.after(1).max(self.floor);
        if next_revision > head.after(1) {
            self.gaps.push((head, Revision(next_revision.0 - 1)));
        }
        let heartbeats = self.sagas.iter().filter_map(|(saga, _)| Some(saga.lease.as_ref()?.heartbeat_time)).max();
        let newest = self.events.last().map(|event| event.time);
        let last_time = [newest, heartbeats, Some(self.closed_at)].into_iter().flatten().max().unwrap_or_default();
        Opening {
            head,
            next_revision,
            last_time: last_time.plus(Span::from_micros(1).unwrap()),
            due: places(&self.sagas).filter_map(|(id, saga, derived)| StoredDue::of(id, saga, derived)).collect(),
            ready: places(&self.sagas)
                .filter_map(|(id, saga, derived)| Some((id, ReadyEntry::of(saga, derived)?)))
                .collect(),
            paused: self.queues.values().filter(|queue| queue.paused).map(|queue| queue.queue.clone()).collect(),
        }
    }

    fn find(&self, key: &SagaKey) -> Option<RowId> {
        match key {
            SagaKey::Task(id) => self.by_task.get(id).copied(),
            SagaKey::Saga(id) => self.by_saga.get(id).copied(),
        }
    }
}

/// The disk as the engine sees it.
pub struct DiskRows(pub Disk);

impl Rows for DiskRows {
    fn begin(&mut self) -> Result<(), RowsError> {
        let mut facts = self.0.0.lock();
        assert!(!facts.in_transaction, "one transaction at a time");
        facts.in_transaction = true;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), RowsError> {
        let mut facts = self.0.0.lock();
        facts.room()?;
        facts.undo.clear();
        facts.in_transaction = false;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), RowsError> {
        self.0.0.lock().undo();
        Ok(())
    }

    fn maintain(&mut self, _idle: bool) -> Result<(), RowsError> {
        Ok(())
    }

    fn reserve_revisions(&mut self, through: Revision) -> Result<bool, RowsError> {
        let mut facts = self.0.0.lock();
        facts.room()?;
        facts.floor = facts.floor.max(through);
        Ok(true)
    }

    fn close(&mut self, next: Revision, now: Timestamp) -> Result<(), RowsError> {
        let mut facts = self.0.0.lock();
        facts.floor = next;
        facts.closed_at = facts.closed_at.max(now);
        Ok(())
    }

    fn find(&mut self, key: &SagaKey) -> Result<Option<(RowId, Saga)>, RowsError> {
        let facts = self.0.0.lock();
        Ok(facts.find(key).map(|id| (id, facts.sagas[place(id)].0.clone())))
    }

    fn load(&mut self, id: RowId) -> Result<Option<Saga>, RowsError> {
        Ok(self.0.0.lock().sagas.get(place(id)).map(|(saga, _)| saga.clone()))
    }

    fn load_brief(&mut self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, RowsError> {
        Ok(self.0.0.lock().sagas.get(place(id)).map(|(saga, _)| brief(saga.clone(), compensations)))
    }

    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, RowsError> {
        Ok(self.0.0.lock().sagas.get(place(id)).map(|(saga, _)| saga.spec.payload.clone()))
    }

    fn taken(&mut self, task_id: &TaskId, saga_id: &SagaId) -> Result<Option<&'static str>, RowsError> {
        let facts = self.0.0.lock();
        if facts.by_task.contains_key(task_id) {
            return Ok(Some("task_id"));
        }
        Ok(facts.by_saga.contains_key(saga_id).then_some("saga_id"))
    }

    fn insert(&mut self, saga: &Saga, derived: &Derived) -> Result<RowId, RowsError> {
        let mut facts = self.0.0.lock();
        facts.room()?;
        facts.sagas.push((saga.clone(), *derived));
        let id = RowId(facts.sagas.len() as i64);
        facts.by_task.insert(saga.spec.task_id.clone(), id);
        facts.by_saga.insert(saga.spec.saga_id.clone(), id);
        facts.link(id);
        facts.undo.push(Undo::Saga(id, None));
        Ok(id)
    }

    fn update(&mut self, id: RowId, before: &Saga, after: &Saga, derived: &Derived) -> Result<(), RowsError> {
        let mut facts = self.0.0.lock();
        facts.room()?;
        assert_eq!(facts.sagas[place(id)].0, *before, "an update begins with what is stored");
        facts.unlink(id);
        let old = std::mem::replace(&mut facts.sagas[place(id)], (after.clone(), *derived));
        facts.link(id);
        facts.undo.push(Undo::Saga(id, Some(Box::new(old))));
        Ok(())
    }

    fn append(&mut self, id: RowId, event: &Event) -> Result<(), RowsError> {
        let mut facts = self.0.0.lock();
        facts.room()?;
        if let Some(token) = event.token {
            let at = facts.events.len();
            facts.by_lease.entry((id, token)).or_default().push(at);
        }
        facts.events.push(event.clone());
        facts.undo.push(Undo::Event(id, event.token));
        Ok(())
    }

    // However many events followed: the simulation's sagas have too few for that to matter.
    fn ends_of_lease(&mut self, id: RowId, token: FencingToken, _newest: usize) -> Result<Vec<Event>, RowsError> {
        let facts = self.0.0.lock();
        let places = facts.by_lease.get(&(id, token)).into_iter().flatten();
        let events = places.map(|at| &facts.events[*at]);
        let ends = events.filter(|event| event.revision.0 == token.0 || event.details.contains_key("ended_by"));
        Ok(ends.cloned().collect())
    }

    fn ready(&mut self, purpose: LeasePurpose, queue: &QueueName, limit: usize) -> Result<Vec<Candidate>, RowsError> {
        let facts = self.0.0.lock();
        let undo = purpose == LeasePurpose::Compensate;
        let from = (undo, queue.clone(), Reverse(i32::MAX), RowId(0));
        let found = facts.ready.range(from..).take_while(|key| key.0 == undo && key.1 == *queue);
        Ok(found.take(limit).map(|key| Candidate { priority: key.2.0, id: key.3 }).collect())
    }

    fn answer(&mut self, id: &[u8; 16]) -> Result<Option<StoredAnswer>, RowsError> {
        Ok(self.0.0.lock().answers.get(id).cloned())
    }

    fn keep_answer(&mut self, id: &[u8; 16], answer: &StoredAnswer) -> Result<(), RowsError> {
        let mut facts = self.0.0.lock();
        facts.room()?;
        let before = facts.answers.insert(*id, answer.clone());
        if let Some(before) = &before {
            facts.answers_by_age.remove(&(before.time, *id));
        }
        facts.answers_by_age.insert((answer.time, *id));
        facts.undo.push(Undo::Answer(*id, before));
        Ok(())
    }

    fn forget_answers(&mut self, before: Timestamp, limit: usize) -> Result<usize, RowsError> {
        let mut facts = self.0.0.lock();
        let old: Vec<_> =
            facts.answers_by_age.iter().take_while(|(time, _)| *time <= before).take(limit).copied().collect();
        for (time, id) in &old {
            facts.answers_by_age.remove(&(*time, *id));
            let answer = facts.answers.remove(id);
            facts.undo.push(Undo::Answer(*id, answer));
        }
        Ok(old.len())
    }

    fn knows_queue(&mut self, queue: &QueueName) -> Result<bool, RowsError> {
        Ok(self.0.0.lock().queues.contains_key(queue))
    }

    fn set_paused(&mut self, status: &QueueStatus) -> Result<(), RowsError> {
        let mut facts = self.0.0.lock();
        facts.room()?;
        let before = facts.queues.insert(status.queue.clone(), status.clone());
        facts.undo.push(Undo::Queue(status.queue.clone(), before));
        Ok(())
    }

    fn purgeable(&mut self, _: &[State], _: Timestamp, _: usize) -> Result<Vec<RowId>, RowsError> {
        Ok(Vec::new())
    }

    fn count_events(&mut self, _: RowId) -> Result<usize, RowsError> {
        Ok(0)
    }

    fn remove(&mut self, _: RowId) -> Result<Removed, RowsError> {
        Ok(Removed::default())
    }

    fn shrink(&mut self) -> Result<bool, RowsError> {
        Ok(false)
    }

    fn compact(&mut self, _: Revision) -> Result<(), RowsError> {
        Ok(())
    }
}

impl Reader for Disk {
    fn get(&self, key: &SagaKey) -> Result<Option<Saga>, StoreError> {
        let facts = self.0.lock();
        Ok(facts.find(key).map(|id| facts.sagas[place(id)].0.clone()))
    }

    fn list(&self, _: &ListQuery) -> Result<SagaPage, StoreError> {
        Ok(SagaPage::default())
    }

    fn events(&self, query: &EventQuery) -> Result<Stretch<Event>, StoreError> {
        let facts = self.0.lock();
        let head = facts.head();
        let in_gap = facts.gaps.iter().any(|(below, through)| *below < query.after && query.after <= *through);
        if query.after > head || in_gap {
            return Err(StoreError::UnknownRevision { head });
        }
        let wanted = |event: &&Event| {
            query.task_id.as_ref().is_none_or(|task_id| *task_id == event.task_id)
                && (query.queues.is_empty() || query.queues.contains(&event.queue))
                && (!query.marked_only || event.mark.is_some())
        };
        let stretch = facts.after(query.after).iter().take_while(|event| event.revision <= query.through);
        let found = stretch.filter(wanted).take(query.limit).cloned().collect();
        Ok(Stretch::of_events(found, query.limit, query.through))
    }

    fn stale(
        &self,
        queues: &[QueueName],
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<Stretch<(Revision, Saga)>, StoreError> {
        let facts = self.0.lock();
        let sagas = facts.sagas.iter().map(|(saga, _)| saga);
        let mut stale: Vec<_> = sagas
            .filter(|saga| queues.is_empty() || queues.contains(&saga.spec.queue))
            .filter_map(|saga| Some((saga.reported_stale()?, saga)))
            .filter(|(revision, _)| *revision > after && *revision <= through)
            .collect();
        stale.sort_by_key(|(revision, _)| *revision);
        Ok(bounds.admitted(stale.into_iter().map(|(revision, saga)| (revision, saga.clone())), through))
    }

    fn ended(&self, _: State, _: Timestamp, _: usize) -> Result<Vec<Saga>, StoreError> {
        Ok(Vec::new())
    }

    fn counts(&self, _: &Moment) -> Result<Vec<QueueCounts>, StoreError> {
        Ok(Vec::new())
    }

    fn queues(&self, _: Option<&QueueName>, _: usize) -> Result<Vec<QueueStatus>, StoreError> {
        Ok(Vec::new())
    }

    fn backup(&self, _: &Path) -> Result<Revision, StoreError> {
        Err(StoreError::Unavailable("what is in memory is not backed up".into()))
    }
}
