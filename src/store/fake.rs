//! A store for the tests of the floors above: facts in memory, a real tail, and a writer that answers as it is told.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;

use crate::{
    clock::{Clock, ManualClock},
    domain::{
        command::{Answer, Creation, QueueStatus, Request},
        event::Event,
        ids::{QueueName, Revision, TaskId},
        lease::Absence,
        policy::Policy,
        saga::{Saga, State},
        text::{Blob, Labels, Text},
        time::{Span, Timestamp},
        transition::create,
    },
};

use super::{
    Cursor, EventQuery, ListQuery, Moment, PageBounds, QueueCounts, Reader, SagaKey, SagaPage, Store, StoreError,
    Stretch,
    handle::{Message, Shared},
};

/// What the fake store holds.
#[derive(Default)]
pub(crate) struct Facts {
    /// In order of creation.
    pub(crate) sagas: Vec<Saga>,
    /// In order of revision.
    pub(crate) events: Vec<Event>,
    /// What lies below is compacted.
    pub(crate) oldest: Revision,
    /// How many stretches of the history were read.
    pub(crate) event_reads: usize,
}

/// The fake store's facts, shared with the test.
#[derive(Clone, Default)]
pub(crate) struct FakeReader(pub(crate) Arc<Mutex<Facts>>);

impl FakeReader {
    /// A store over these facts, whose tail begins behind the events that are there already.
    pub(crate) fn open(
        &self,
        respond: impl Fn(Request) -> Result<Answer, StoreError> + Send + 'static,
    ) -> (Store, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_700_000_000_000_000)));
        let head = self.0.lock().events.last().map_or(Revision::ZERO, |event| event.revision);
        let as_clock = Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>;
        let shared = Shared::new(as_clock, head, Absence::default(), Arc::default());
        let (store, messages) = Store::new(1024, Arc::new(self.clone()), 4, shared, "fake 1");
        std::thread::spawn(move || {
            for message in messages {
                match message {
                    // A caller that is gone needs no answer.
                    Message::Submit(submission) => submission.caller.send(respond(submission.request)),
                    Message::Tell(_) | Message::Drain => {}
                    Message::Close => break,
                }
            }
        });
        (store, clock)
    }

    /// Commits events, then publishes them.
    pub(crate) fn publish(&self, store: &Store, events: Vec<Event>) {
        self.0.lock().events.extend(events.iter().cloned());
        store.tail().publish(events);
    }
}

impl Reader for FakeReader {
    fn get(&self, key: &SagaKey) -> Result<Option<Saga>, StoreError> {
        let is_it = |saga: &&Saga| match key {
            SagaKey::Task(task_id) => saga.spec.task_id == *task_id,
            SagaKey::Saga(saga_id) => saga.spec.saga_id == *saga_id,
        };
        Ok(self.0.lock().sagas.iter().find(is_it).cloned())
    }

    fn list(&self, query: &ListQuery) -> Result<SagaPage, StoreError> {
        let facts = self.0.lock();
        let mut rest =
            facts.sagas.iter().zip(1..).map(|(saga, place)| (Cursor(place), saga.clone())).filter(|(place, saga)| {
                query.after.is_none_or(|after| *place > after) && query.filter.matches(saga, &query.moment)
            });
        let sagas: Vec<_> = rest.by_ref().take(query.limit).collect();
        let next = rest.next().and(sagas.last()).map(|(place, _)| *place);
        Ok(SagaPage { sagas, next })
    }

    fn events(&self, query: &EventQuery) -> Result<Stretch<Event>, StoreError> {
        let mut facts = self.0.lock();
        facts.event_reads += 1;
        let head = facts.events.last().map_or(Revision::ZERO, |event| event.revision);
        if !query.whole && query.after < facts.oldest {
            return Err(StoreError::Compacted { oldest: facts.oldest });
        }
        if !query.whole && query.after > head {
            return Err(StoreError::UnknownRevision { head });
        }
        let wanted = |event: &&Event| {
            event.revision > query.after
                && event.revision <= query.through
                && query.task_id.as_ref().is_none_or(|task_id| *task_id == event.task_id)
                && (query.queues.is_empty() || query.queues.contains(&event.queue))
                && (!query.marked_only || event.mark.is_some())
        };
        let found = facts.events.iter().filter(wanted).take(query.limit).cloned().collect();
        Ok(Stretch::of_events(found, query.limit, query.through))
    }

    fn ended(&self, _: State, _: Timestamp, _: usize) -> Result<Vec<Saga>, StoreError> {
        Ok(Vec::new())
    }

    fn stale(
        &self,
        queues: &[QueueName],
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<Stretch<(Revision, Saga)>, StoreError> {
        let facts = self.0.lock();
        let mut stale: Vec<(Revision, Saga)> = facts
            .sagas
            .iter()
            .filter(|saga| queues.is_empty() || queues.contains(&saga.spec.queue))
            .filter_map(|saga| Some((saga.reported_stale()?, saga.clone())))
            .filter(|(revision, _)| *revision > after && *revision <= through)
            .collect();
        stale.sort_by_key(|(revision, _)| *revision);
        Ok(bounds.admitted(stale, through))
    }

    fn counts(&self, _: &Moment) -> Result<Vec<QueueCounts>, StoreError> {
        Ok(Vec::new())
    }

    fn queues(&self, _: Option<&QueueName>, _: usize) -> Result<Vec<QueueStatus>, StoreError> {
        Ok(Vec::new())
    }

    fn backup(&self, path: &Path) -> Result<Revision, StoreError> {
        std::fs::write(path, vec![7; 3 * 1024 * 1024 + 1]).map_err(|e| StoreError::Unavailable(e.to_string()))?;
        Ok(Revision(9))
    }
}

/// A saga to be, with nothing special about it.
pub(crate) fn creation(task_id: &str, queue: &str) -> Creation {
    let task_id = TaskId::parse(task_id).unwrap();
    Creation {
        saga_id: task_id.to_saga_id(),
        task_id,
        queue: QueueName::parse(queue).unwrap(),
        priority: 0,
        issue: None,
        branch: Text::default(),
        worktree: Text::default(),
        labels: Labels::default(),
        payload: Blob::default(),
        compensations: Vec::new(),
        policy: Policy::default(),
        delay: Span::ZERO,
        retry_of: None,
    }
}

/// A planned saga that nothing has happened to.
pub(crate) fn planned(task_id: &str, queue: &str) -> Saga {
    create(creation(task_id, queue), Timestamp::from_micros(1_700_000_000_000_000), Revision(1)).0
}

/// A running saga with a lease that was reported expired with an event of this revision; `None`: that is live.
pub(crate) fn running(task_id: &str, queue: &str, expired: Option<Revision>) -> Saga {
    use crate::domain::{
        ids::{FencingToken, OwnerId},
        lease::{Lease, LeasePurpose, StaleCause, Standing},
        saga::State,
    };
    let now = Timestamp::from_micros(1_700_000_000_000_000);
    let standing = expired.map_or(Standing::Held, |revision| Standing::Expired { at: now, revision });
    let lease = Lease {
        owner: OwnerId::parse("worker-1").unwrap(),
        token: FencingToken(1),
        purpose: LeasePurpose::Execute,
        acquire_time: now,
        heartbeat_time: now,
        expire_time: now.plus(Span::from_secs(30)),
        ttl: Span::from_secs(30),
        limit: StaleCause::Ttl,
        progress_time: now,
        standing,
    };
    Saga { state: State::Running, lease: Some(lease), attempt: 1, ..planned(task_id, queue) }
}
