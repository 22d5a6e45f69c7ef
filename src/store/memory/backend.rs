//! The writing half: the changes of a turn are written under one lock, all or none.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    coordinator::{
        AppendedEvent, Backend, BackendError, ChangeSet, ContentBytes, LoadKey, LoadResult, MaintenanceBudget,
        ReadyPosition, ReadyScan, RemovalCounts, RowId, StoredAnswer, without_contents,
    },
    domain::{
        command::QueueStatus,
        event::Event,
        ids::{FencingToken, QueueName, Revision},
        saga::{Saga, State},
        text::{Blob, Text},
        time::Timestamp,
    },
};

use super::{Memory, Record, StoredData};

/// The in-memory backend of a turn.
pub struct MemoryBackend(pub(super) Memory);

impl StoredData {
    fn write(&mut self, changes: &ChangeSet) -> Result<(), BackendError> {
        let wrong = |what| Err(BackendError::OutcomeUnknown(what));
        for id in &changes.removed {
            self.remove(*id);
        }
        for change in &changes.sagas {
            let Some(after) = &change.after else { continue };
            let stored = self.sagas.get(&change.id).map(|record| &record.saga);
            if stored != change.before.as_deref() {
                return wrong(format!("{:?} was not what the turn began with", after.task_id()));
            }
            self.put(change.id, Record { saga: Saga::clone(after), derived: change.derived });
        }
        for AppendedEvent { saga, prev, event } in &changes.events {
            let newest = self.events_of(*saga).next_back().map(|event| event.revision);
            if newest != *prev {
                return wrong(format!("{prev:?} is not the event before {}", event.revision));
            }
            if self.events.insert(event.revision, (*saga, event.clone())).is_some() {
                return wrong(format!("revision {} was given twice", event.revision));
            }
        }
        for (id, answer) in &changes.answers {
            self.answers_stored += 1;
            self.answers.insert(*id, (self.answers_stored, answer.clone()));
        }
        for status in &changes.queues {
            self.queues.insert(status.queue.clone(), status.clone());
        }
        self.compacted = self.compacted.max(changes.compacted.unwrap_or_default());
        if let Some((before, limit)) = changes.forget_answers {
            self.forget_answers(before, limit);
        }
        Ok(())
    }

    pub(super) fn put(&mut self, id: RowId, record: Record) {
        let spec = &record.saga.spec;
        let (actor, reason, change_time) = (None, Text::default(), None);
        let status = || QueueStatus { queue: spec.queue.clone(), paused: false, actor, reason, change_time };
        self.queues.entry(spec.queue.clone()).or_insert_with(status);
        self.tasks.insert(spec.task_id.clone(), id);
        self.saga_ids.insert(spec.saga_id.clone(), id);
        self.last_row = self.last_row.max(id.0);
        self.sagas.insert(id, record);
    }

    fn remove(&mut self, id: RowId) {
        if let Some(Record { saga, .. }) = self.sagas.remove(&id) {
            self.tasks.remove(&saga.spec.task_id);
            self.saga_ids.remove(&saga.spec.saga_id);
        }
        self.events.retain(|_, (of, _)| *of != id);
    }

    fn forget_answers(&mut self, before: Timestamp, limit: usize) {
        let mut oldest: Vec<_> = self.answers.iter().map(|(id, (n, answer))| (*n, *id, answer.time)).collect();
        oldest.sort_unstable();
        for (_, id, _) in oldest.into_iter().take(limit).take_while(|(_, _, time)| *time <= before) {
            self.answers.remove(&id);
        }
    }

    fn load(&self, key: &LoadKey) -> LoadResult {
        let id = match key {
            LoadKey::Task(id) => self.tasks.get(id),
            LoadKey::Saga(id) => self.saga_ids.get(id),
            LoadKey::Row(id) => Some(id),
        };
        match id.and_then(|id| Some((*id, self.sagas.get(id)?))) {
            Some((id, record)) => LoadResult::Saga(id, Arc::new(record.saga.clone())),
            None => LoadResult::Nothing,
        }
    }

    fn events_of(&self, id: RowId) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.values().filter(move |(of, _)| *of == id).map(|(_, event)| event)
    }
}

impl Backend for MemoryBackend {
    fn load(&mut self, keys: &[LoadKey]) -> Result<Vec<LoadResult>, BackendError> {
        let data = self.0.data();
        Ok(keys.iter().map(|key| data.load(key)).collect())
    }

    fn load_without_contents(
        &mut self,
        id: RowId,
        compensations: bool,
    ) -> Result<Option<(Saga, ContentBytes)>, BackendError> {
        Ok(self.0.data().sagas.get(&id).map(|record| without_contents(record.saga.clone(), compensations)))
    }

    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, BackendError> {
        Ok(self.0.data().sagas.get(&id).map(|record| record.saga.spec.payload.clone()))
    }

    fn answers(&mut self, ids: &[[u8; 16]]) -> Result<Vec<Option<StoredAnswer>>, BackendError> {
        let data = self.0.data();
        Ok(ids.iter().map(|id| data.answers.get(id).map(|(_, answer)| answer.clone())).collect())
    }

    fn lease_events(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, BackendError> {
        let data = self.0.data();
        let claimed = data.events.get(&Revision(token.0)).map(|(_, event)| event);
        let is_end = |event: &&Event| event.token == Some(token) && event.details.contains_key("ended_by");
        let ended = data.events_of(id).rev().take(newest).find(is_end);
        Ok(claimed.into_iter().chain(ended).cloned().collect())
    }

    fn ready(&mut self, scan: &ReadyScan) -> Result<Vec<ReadyPosition>, BackendError> {
        let data = self.0.data();
        let wanted = data
            .sagas
            .iter()
            .filter(|(_, record)| record.derived.ready == Some(scan.purpose) && record.saga.spec.queue == scan.queue);
        let mut found: Vec<_> = wanted.map(|(id, record)| (Reverse(record.saga.spec.priority), *id)).collect();
        found.retain(|position| scan.after.is_none_or(|after| *position > after));
        found.sort_unstable();
        found.truncate(scan.limit);
        Ok(found)
    }

    fn queue_exists(&mut self, queue: &QueueName) -> Result<bool, BackendError> {
        Ok(self.0.data().queues.contains_key(queue))
    }

    fn ended(
        &mut self,
        states: &[State],
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RowId)>, BackendError> {
        let data = self.0.data();
        let sagas = data.sagas.iter().map(|(id, record)| (*id, &record.saga));
        let wanted = sagas
            .filter(|(_, saga)| saga.state.is_terminal() && states.contains(&saga.state) && saga.update_time < before);
        let mut found: Vec<_> = wanted.map(|(id, saga)| (saga.update_time, id)).collect();
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    fn count_removal(&mut self, id: RowId) -> Result<RemovalCounts, BackendError> {
        let data = self.0.data();
        let compensations = data.sagas.get(&id).map_or(0, |record| record.saga.compensations.len());
        let newest = data.events_of(id).next_back().map(|event| event.revision);
        Ok(RemovalCounts { events: data.events_of(id).count(), compensations, newest: newest.unwrap_or_default() })
    }

    fn commit(&mut self, changes: &ChangeSet) -> Result<(), BackendError> {
        let mut data = self.0.data_mut();
        let writes = changes.sagas.len() + changes.events.len() + changes.answers.len() + changes.queues.len();
        if let Some(room) = &mut data.room {
            match room.checked_sub(writes) {
                Some(left) => *room = left,
                None => {
                    *room = 0;
                    return Err(BackendError::Full);
                }
            }
        }
        let unwritable = changes.sagas.iter().find(|change| data.unwritable.contains(&change.id));
        if let Some(change) = unwritable {
            return Err(BackendError::Unwritable(change.id, "a test says so".into()));
        }
        data.write(changes)
    }

    fn maintain(&mut self, _: MaintenanceBudget) -> Result<bool, BackendError> {
        if self.0.is_full() { Err(BackendError::Full) } else { Ok(false) }
    }

    fn close(&mut self, now: Timestamp) -> Result<(), BackendError> {
        let mut data = self.0.data_mut();
        let next = data.head().after(1).max(data.opened_at);
        data.last_time = data.last_time.max(now);
        data.revision_floor = next;
        Ok(())
    }
}
