//! The reading half: searches the committed data.

use std::{io::Write, ops::Bound, path::Path, sync::atomic::Ordering};

use crate::{
    coordinator::without_contents,
    domain::{
        command::QueueStatus,
        event::Event,
        ids::{QueueName, Revision},
        lease::LeasePurpose,
        saga::{Saga, State},
        time::Timestamp,
    },
    private_files,
};

use super::{
    super::{
        Cursor, EventQuery, ListQuery, PageBounds, QueueStats, ReadTime, Reader, SagaKey, SagaPage, ScanPage,
        StoreError,
    },
    Memory, Record, StoredData,
};

impl StoredData {
    /// Checks that the history can be followed from a revision on.
    fn check_position(&self, after: Revision) -> Result<(), StoreError> {
        let oldest = self.compacted;
        if after < oldest {
            return Err(StoreError::Compacted { oldest });
        }
        let head = self.head();
        let in_gap = self.gaps.iter().any(|(below, through)| *below < after && after <= *through);
        if after > head || in_gap {
            return Err(StoreError::UnknownRevision { head });
        }
        Ok(())
    }

    fn counts_of(&self, status: &QueueStatus, read_time: &ReadTime) -> QueueStats {
        let records: Vec<&Record> = self.sagas.values().filter(|r| r.saga.spec.queue == status.queue).collect();
        let in_state = |state| records.iter().filter(|record| record.saga.state == state).count() as u64;
        let counted = State::ALL.into_iter().map(|state| (state, in_state(state)));
        let ready: Vec<_> = records.iter().filter(|r| r.derived.ready == Some(LeasePurpose::Execute)).collect();
        let since =
            |record: &&&Record| record.saga.spec.create_time.max(record.saga.not_before.unwrap_or(Timestamp::ZERO));
        QueueStats {
            queue: status.queue.clone(),
            paused: status.paused,
            states: counted.filter(|(_, count)| *count > 0).collect(),
            ready: ready.len() as u64,
            stale: records.iter().filter(|record| record.saga.reported_stale().is_some()).count() as u64,
            oldest_ready_age: ready.iter().map(since).min().map(|since| read_time.now.since(since)),
        }
    }
}

impl Reader for Memory {
    fn get(&self, key: &SagaKey) -> Result<Option<Saga>, StoreError> {
        let data = self.data();
        let id = match key {
            SagaKey::Task(id) => data.tasks.get(id),
            SagaKey::Saga(id) => data.saga_ids.get(id),
        };
        Ok(id.and_then(|id| data.nth(*id)).cloned())
    }

    fn list(&self, query: &ListQuery) -> Result<SagaPage, StoreError> {
        let data = self.data();
        let mut sagas: Vec<_> = data.sagas.iter().map(|(id, record)| (Cursor(id.0), &record.saga)).collect();
        if query.newest_first {
            sagas.reverse();
        }
        let beyond = |cursor: Cursor, after: Cursor| if query.newest_first { cursor < after } else { cursor > after };
        sagas.retain(|(cursor, saga)| {
            query.after.is_none_or(|after| beyond(*cursor, after)) && query.filter.matches(saga, &query.read_time)
        });
        let more = sagas.len() > query.limit;
        sagas.truncate(query.limit);
        let next = sagas.last().map(|(cursor, _)| *cursor).filter(|_| more);
        Ok(SagaPage {
            sagas: sagas.into_iter().map(|(cursor, saga)| (cursor, without_contents(saga.clone(), true).0)).collect(),
            next,
        })
    }

    fn events(&self, query: &EventQuery) -> Result<ScanPage<Event>, StoreError> {
        let data = self.data();
        data.event_reads.fetch_add(1, Ordering::Relaxed);
        if !query.whole {
            data.check_position(query.after)?;
        }
        let wanted = data.events(query.after, query.through).filter(|event| query.matches(event));
        let found = wanted.take(query.limit).cloned().collect();
        Ok(ScanPage::of_events(found, query.limit, query.through))
    }

    fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError> {
        let data = self.data();
        let sagas = data.sagas.iter().map(|(id, record)| (*id, &record.saga));
        let mut ended: Vec<_> = sagas.filter(|(_, saga)| saga.state == state && saga.update_time < before).collect();
        ended.sort_by_key(|(id, saga)| (saga.update_time, *id));
        Ok(ended.into_iter().take(limit).map(|(_, saga)| saga.clone()).collect())
    }

    fn stale(
        &self,
        queues: &[QueueName],
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<ScanPage<(Revision, Saga)>, StoreError> {
        let data = self.data();
        let mut stale: Vec<_> = data
            .sagas
            .values()
            .map(|record| &record.saga)
            .filter(|saga| queues.is_empty() || queues.contains(&saga.spec.queue))
            .filter_map(|saga| Some((saga.reported_stale()?, saga.clone())))
            .filter(|(revision, _)| *revision > after && *revision <= through)
            .collect();
        stale.sort_by_key(|(revision, _)| *revision);
        Ok(bounds.admitted(stale, through))
    }

    fn counts(&self, read_time: &ReadTime) -> Result<Vec<QueueStats>, StoreError> {
        let data = self.data();
        Ok(data.queues.values().map(|status| data.counts_of(status, read_time)).collect())
    }

    fn queues(&self, after: Option<&QueueName>, limit: usize) -> Result<Vec<QueueStatus>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let data = self.data();
        Ok(data.queues.range((from, Bound::Unbounded)).take(limit).map(|(_, status)| status.clone()).collect())
    }

    fn backup(&self, path: &Path) -> Result<Revision, StoreError> {
        let data = self.data();
        let Some(content) = &data.backup else {
            return Err(StoreError::Unavailable("what is in memory only can't be backed up".into()));
        };
        let written = private_files::create_new(path).and_then(|mut file| file.write_all(content));
        written.map_err(|e| StoreError::Unavailable(e.to_string()))?;
        Ok(data.head())
    }
}
