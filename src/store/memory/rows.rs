//! The writing half: a working copy of the facts. What a transaction touched is copied to the committed facts when it
//! commits, and back from them when it is rolled back.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;

use crate::domain::{
    command::QueueStatus,
    event::Event,
    ids::{FencingToken, QueueName, Revision, SagaId, TaskId},
    lease::LeasePurpose,
    saga::{Saga, State},
    text::{Blob, Text},
    time::Timestamp,
};

use super::{
    super::{
        query::SagaKey,
        rows::{Candidate, ContentBytes, Derived, Removed, RowId, Rows, RowsError, StoredAnswer, brief},
    },
    Facts, Record,
};

/// What a transaction wrote, by key.
enum Touched {
    Saga(RowId),
    Event(Revision),
    Answer([u8; 16]),
    Queue(QueueName),
}

/// Memory as the engine sees it.
pub struct MemoryRows {
    working: Facts,
    committed: Arc<RwLock<Facts>>,
    touched: Vec<Touched>,
    in_transaction: bool,
}

/// Makes one entry of a map what it is in another: its value, or its absence.
fn copy_entry<K: Ord + Clone, V: Clone>(key: &K, from: &BTreeMap<K, V>, to: &mut BTreeMap<K, V>) {
    match from.get(key) {
        Some(value) => to.insert(key.clone(), value.clone()),
        None => to.remove(key),
    };
}

fn copy(touched: &[Touched], from: &Facts, to: &mut Facts) {
    for key in touched {
        match key {
            Touched::Saga(id) => copy_entry(id, &from.sagas, &mut to.sagas),
            Touched::Event(revision) => copy_entry(revision, &from.events, &mut to.events),
            Touched::Answer(id) => copy_entry(id, &from.answers, &mut to.answers),
            Touched::Queue(name) => copy_entry(name, &from.queues, &mut to.queues),
        }
    }
    to.numbers = from.numbers;
}

impl MemoryRows {
    pub(super) fn new(working: Facts, committed: Arc<RwLock<Facts>>) -> Self {
        MemoryRows { working, committed, touched: Vec::new(), in_transaction: false }
    }

    fn put_saga(&mut self, id: RowId, saga: &Saga, derived: &Derived) {
        self.touched.push(Touched::Saga(id));
        self.working.sagas.insert(id, Arc::new(Record { saga: saga.clone(), derived: *derived }));
    }

    fn put_queue(&mut self, status: QueueStatus) {
        self.touched.push(Touched::Queue(status.queue.clone()));
        self.working.queues.insert(status.queue.clone(), status);
    }

    fn events_of(&self, id: RowId) -> Vec<Revision> {
        self.working.events.iter().filter(|(_, (saga, _))| *saga == id).map(|(revision, _)| *revision).collect()
    }
}

impl Rows for MemoryRows {
    fn begin(&mut self) -> Result<(), RowsError> {
        if self.in_transaction {
            return Err(RowsError::Broken("a transaction has begun already".into()));
        }
        self.in_transaction = true;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), RowsError> {
        copy(&self.touched, &self.working, &mut self.committed.write());
        self.touched.clear();
        self.in_transaction = false;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), RowsError> {
        copy(&self.touched, &self.committed.read(), &mut self.working);
        self.touched.clear();
        self.in_transaction = false;
        Ok(())
    }

    fn maintain(&mut self, _idle: bool) -> Result<(), RowsError> {
        Ok(())
    }

    fn shrink(&mut self) -> Result<bool, RowsError> {
        Ok(false)
    }

    fn reserve_revisions(&mut self, through: Revision) -> Result<bool, RowsError> {
        let numbers = &mut self.working.numbers;
        numbers.revision_floor = numbers.revision_floor.max(through);
        self.commit().map(|()| true)
    }

    fn close(&mut self, next: Revision, now: Timestamp) -> Result<(), RowsError> {
        let numbers = &mut self.working.numbers;
        numbers.last_time = numbers.last_time.max(now);
        numbers.revision_floor = next;
        self.commit()
    }

    fn find(&mut self, key: &SagaKey) -> Result<Option<(RowId, Saga)>, RowsError> {
        Ok(self.working.find(key).map(|(id, saga)| (id, saga.clone())))
    }

    fn load(&mut self, id: RowId) -> Result<Option<Saga>, RowsError> {
        Ok(self.working.sagas.get(&id).map(|record| record.saga.clone()))
    }

    fn load_brief(&mut self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, RowsError> {
        Ok(self.working.sagas.get(&id).map(|record| brief(record.saga.clone(), compensations)))
    }

    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, RowsError> {
        Ok(self.working.sagas.get(&id).map(|record| record.saga.spec.payload.clone()))
    }

    fn taken(&mut self, task_id: &TaskId, saga_id: &SagaId) -> Result<Option<&'static str>, RowsError> {
        if self.working.find(&SagaKey::Task(task_id.clone())).is_some() {
            return Ok(Some("task_id"));
        }
        Ok(self.working.find(&SagaKey::Saga(saga_id.clone())).map(|_| "saga_id"))
    }

    fn insert(&mut self, saga: &Saga, derived: &Derived) -> Result<RowId, RowsError> {
        if !self.working.queues.contains_key(&saga.spec.queue) {
            let queue = saga.spec.queue.clone();
            self.put_queue(QueueStatus {
                queue,
                paused: false,
                actor: None,
                reason: Text::default(),
                change_time: None,
            });
        }
        self.working.numbers.last_row += 1;
        let id = RowId(self.working.numbers.last_row);
        self.put_saga(id, saga, derived);
        Ok(id)
    }

    fn update(&mut self, id: RowId, _before: &Saga, after: &Saga, derived: &Derived) -> Result<(), RowsError> {
        self.put_saga(id, after, derived);
        Ok(())
    }

    fn append(&mut self, id: RowId, event: &Event) -> Result<(), RowsError> {
        if self.working.events.contains_key(&event.revision) {
            return Err(RowsError::Broken(format!("revision {} was given twice", event.revision)));
        }
        self.touched.push(Touched::Event(event.revision));
        self.working.events.insert(event.revision, (id, Arc::new(event.clone())));
        Ok(())
    }

    fn ends_of_lease(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, RowsError> {
        let of_saga = || self.working.events.values().rev().filter(|(saga, _)| *saga == id).map(|(_, event)| event);
        let claimed = of_saga().find(|event| event.revision.0 == token.0);
        let ended =
            of_saga().take(newest).find(|event| event.token == Some(token) && event.details.contains_key("ended_by"));
        Ok(claimed.into_iter().chain(ended).map(|event| Event::clone(event)).collect())
    }

    fn ready(&mut self, purpose: LeasePurpose, queue: &QueueName, limit: usize) -> Result<Vec<Candidate>, RowsError> {
        let wanted = self
            .working
            .sagas
            .iter()
            .filter(|(_, record)| record.derived.ready == Some(purpose) && record.saga.spec.queue == *queue);
        let mut found: Vec<_> =
            wanted.map(|(id, record)| Candidate { priority: record.saga.spec.priority, id: *id }).collect();
        found.sort_by_key(|candidate| (Reverse(candidate.priority), candidate.id));
        found.truncate(limit);
        Ok(found)
    }

    fn answer(&mut self, id: &[u8; 16]) -> Result<Option<StoredAnswer>, RowsError> {
        Ok(self.working.answers.get(id).map(|(_, answer)| answer.clone()))
    }

    fn keep_answer(&mut self, id: &[u8; 16], answer: &StoredAnswer) -> Result<(), RowsError> {
        self.working.numbers.answers += 1;
        self.touched.push(Touched::Answer(*id));
        self.working.answers.insert(*id, (self.working.numbers.answers, answer.clone()));
        Ok(())
    }

    fn forget_answers(&mut self, before: Timestamp, limit: usize) -> Result<usize, RowsError> {
        let mut oldest: Vec<_> = self.working.answers.iter().map(|(id, (n, answer))| (*n, *id, answer.time)).collect();
        oldest.sort_unstable();
        oldest.truncate(limit);
        oldest.retain(|(_, _, time)| *time <= before);
        for (_, id, _) in &oldest {
            self.touched.push(Touched::Answer(*id));
            self.working.answers.remove(id);
        }
        Ok(oldest.len())
    }

    fn knows_queue(&mut self, queue: &QueueName) -> Result<bool, RowsError> {
        Ok(self.working.queues.contains_key(queue))
    }

    fn set_paused(&mut self, status: &QueueStatus) -> Result<(), RowsError> {
        self.put_queue(status.clone());
        Ok(())
    }

    fn purgeable(&mut self, states: &[State], before: Timestamp, limit: usize) -> Result<Vec<RowId>, RowsError> {
        let sagas = self.working.sagas.iter().map(|(id, record)| (*id, &record.saga));
        let mut found: Vec<_> = sagas
            .filter(|(_, saga)| saga.state.is_terminal() && states.contains(&saga.state) && saga.update_time < before)
            .map(|(id, saga)| (saga.update_time, id))
            .collect();
        found.sort_unstable();
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    fn count_events(&mut self, id: RowId) -> Result<usize, RowsError> {
        Ok(self.events_of(id).len())
    }

    fn remove(&mut self, id: RowId) -> Result<Removed, RowsError> {
        let events = self.events_of(id);
        for revision in &events {
            self.touched.push(Touched::Event(*revision));
            self.working.events.remove(revision);
        }
        self.touched.push(Touched::Saga(id));
        let compensations = self.working.sagas.remove(&id).map_or(0, |record| record.saga.compensations.len());
        Ok(Removed { events: events.len(), compensations, newest: events.last().copied().unwrap_or_default() })
    }

    fn compact(&mut self, through: Revision) -> Result<(), RowsError> {
        let numbers = &mut self.working.numbers;
        numbers.compacted = numbers.compacted.max(through);
        Ok(())
    }
}
