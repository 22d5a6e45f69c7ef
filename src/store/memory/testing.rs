//! Helpers for tests of the layers above: insert sagas and events directly, count reads, and answer changes with a
//! given function.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    clock::{Clock, ManualClock},
    coordinator::{DerivedFields, RowId},
    domain::{
        command::{Answer, Creation, Request},
        event::Event,
        ids::{FencingToken, OwnerId, QueueName, Revision, TaskId},
        lease::{Lease, LeasePurpose, RestartGrace, StaleCause, Standing},
        saga::{Saga, State},
        time::{Span, Timestamp},
        transition::create,
    },
    store::{RecentEvents, Store, StoreError, shared_state::SharedState, writer_message::WriterMessage},
};

use super::{Memory, Record};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

impl Memory {
    /// Adds sagas as they are.
    pub(crate) fn put(&self, sagas: impl IntoIterator<Item = Saga>) {
        let mut data = self.data_mut();
        for saga in sagas {
            let id = RowId(data.last_row + 1);
            data.put(id, Record { saga, derived: DerivedFields { ready: None, due: None } });
        }
    }

    /// Adds events as they are; their sagas need not exist.
    pub(crate) fn append(&self, events: impl IntoIterator<Item = Event>) {
        let mut data = self.data_mut();
        for event in events {
            let id = data.tasks.get(&event.task_id).copied().unwrap_or(RowId(0));
            data.events.insert(event.revision, (id, event));
        }
    }

    /// Commits events, then publishes them.
    pub(crate) fn publish(&self, store: &Store, events: Vec<Event>) {
        self.append(events.iter().cloned());
        store.shared.recent.publish(events);
    }

    /// Makes the history compacted below this revision.
    pub(crate) fn compact(&self, oldest: Revision) {
        self.data_mut().compacted = oldest;
    }

    /// How many stretches of the history were read.
    pub(crate) fn event_reads(&self) -> usize {
        self.data().event_reads.load(Ordering::Relaxed)
    }

    /// Sets the content of backups.
    pub(crate) fn back_up_as(&self, content: Vec<u8>) {
        self.data_mut().backup = Some(content);
    }

    /// A store on this data whose writer answers with a function and changes nothing.
    pub(crate) fn store_answering_with(
        &self,
        respond: impl Fn(Request) -> Result<Answer, StoreError> + Send + 'static,
    ) -> Store {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
        let shared = SharedState::new(
            clock,
            Arc::new(RecentEvents::starting_at(self.data().head())),
            RestartGrace::default(),
            Arc::default(),
        );
        let (store, messages) = Store::new(1024, Arc::new(self.clone()), 4, shared, "memory");
        std::thread::spawn(move || {
            for message in messages {
                match message {
                    // A caller that is gone needs no answer.
                    WriterMessage::Submit(submission) => submission.caller.send(respond(submission.request)),
                    WriterMessage::ReportHeldClaims(_) | WriterMessage::Drain => {}
                    WriterMessage::Close => break,
                }
            }
        });
        store
    }

    /// A store on this data that is only read.
    pub(crate) fn read_only_store(&self) -> Store {
        self.store_answering_with(|_| Err(StoreError::ShuttingDown))
    }
}

/// A new saga with all defaults.
pub(crate) fn creation(task_id: &str, queue: &str) -> Creation {
    Creation::new(TaskId::parse(task_id).unwrap(), QueueName::parse(queue).unwrap())
}

/// A saga that was just created.
pub(crate) fn planned(task_id: &str, queue: &str) -> Saga {
    create(creation(task_id, queue), NOW, Revision(1)).0
}

/// A running saga with a lease that was reported expired with an event of this revision; `None`: that is live.
pub(crate) fn running(task_id: &str, queue: &str, expired: Option<Revision>) -> Saga {
    let lease = Lease {
        owner: OwnerId::parse("worker-1").unwrap(),
        token: FencingToken(1),
        purpose: LeasePurpose::Execute,
        acquire_time: NOW,
        heartbeat_time: NOW,
        expire_time: NOW.plus(Span::from_secs(30)),
        ttl: Span::from_secs(30),
        limit: StaleCause::Ttl,
        progress_time: NOW,
        standing: expired.map_or(Standing::Held, |revision| Standing::Expired { at: NOW, revision }),
    };
    Saga { state: State::Running, lease: Some(lease), attempt: 1, ..planned(task_id, queue) }
}
