//! The reference backend: data in memory, stored as simply as possible, so that one can see that it is correct.
//!
//! Tests run the same commands here and on disk and compare every answer; the simulation makes its disk full. It is
//! slow on purpose: apart from ids it searches instead of keeping indexes.

mod backend;
mod reader;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, atomic::AtomicUsize},
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{
    clock::Clock,
    coordinator::{DerivedFields, DueEntry, InitialState, ReadyEntry, RowId, StoredAnswer},
    domain::{
        command::QueueStatus,
        event::Event,
        ids::{QueueName, Revision, SagaId, TaskId},
        saga::Saga,
        time::{Span, Timestamp},
        transition::ReadyPurposes,
    },
};

use super::{
    RESERVED, Reader, Store, StoreOptions,
    writer::{self, OpenedBackend, WriterThread},
};

pub use self::backend::MemoryBackend;

/// What a disk would hold. It outlives the stores opened on it; clones share it.
#[derive(Clone, Default)]
pub struct Memory(Arc<RwLock<StoredData>>);

impl Memory {
    /// Opens a store on the data and starts its writer. Open only one at a time: nothing prevents a second.
    pub fn open(&self, options: &StoreOptions, clock: Arc<dyn Clock>) -> Result<(Store, WriterThread), std::io::Error> {
        let (backend, opening) = self.open_backend();
        let (reader, description) = (Arc::new(self.clone()), "memory".to_owned());
        let (make, log) = (|| Ok(backend), Arc::default());
        writer::start(options, clock, OpenedBackend { make, opening, reader, log, description, guard: () })
    }

    /// The writing half and the coordinator's initial state, for callers that drive a coordinator themselves.
    pub fn open_backend(&self) -> (MemoryBackend, InitialState) {
        let opening = self.data_mut().opening();
        (MemoryBackend(self.clone()), opening)
    }

    /// The reading half.
    pub fn reader(&self) -> impl Reader + use<> {
        self.clone()
    }

    /// The data.
    pub fn data(&self) -> RwLockReadGuard<'_, StoredData> {
        self.0.read()
    }

    fn data_mut(&self) -> RwLockWriteGuard<'_, StoredData> {
        self.0.write()
    }

    /// Sets for how many more rows and events there is room; none: for any number. The turn that needs more fails, and
    /// so do all after it until this is called again.
    pub fn set_room(&self, room: Option<usize>) {
        self.data_mut().room = room;
    }

    /// Like a database that loses no commit: no revisions are reserved, and none is skipped when it is opened again.
    pub fn that_loses_nothing() -> Self {
        let memory = Memory::default();
        memory.data_mut().loses_nothing = true;
        memory
    }

    /// Makes commits that change a task's saga fail.
    pub fn make_unwritable(&self, task_id: &TaskId) {
        let mut data = self.data_mut();
        let id = data.tasks.get(task_id).copied();
        data.unwritable.extend(id);
    }

    /// True if there is no room left.
    pub fn is_full(&self) -> bool {
        self.data().room == Some(0)
    }
}

/// A saga with what is derived from it.
#[derive(Clone)]
struct Record {
    saga: Saga,
    derived: DerivedFields,
}

/// All stored data.
#[derive(Default)]
pub struct StoredData {
    /// In order of creation.
    sagas: BTreeMap<RowId, Record>,
    tasks: HashMap<TaskId, RowId>,
    saga_ids: HashMap<SagaId, RowId>,
    /// The history, each event with the row of its saga.
    events: BTreeMap<Revision, (RowId, Event)>,
    /// By `request_id`, each with the number of its insertion.
    answers: BTreeMap<[u8; 16], (u64, StoredAnswer)>,
    queues: BTreeMap<QueueName, QueueStatus>,
    /// Revisions that no event has: above the key, up to and including the value.
    gaps: BTreeMap<Revision, Revision>,
    /// The highest row ever assigned.
    last_row: i64,
    /// How many answers were ever stored.
    answers_stored: u64,
    /// The newest event that was purged.
    compacted: Revision,
    /// Every revision ever assigned is below this.
    revision_floor: Revision,
    /// The next revision when the store was last opened.
    opened_at: Revision,
    /// The clock's time when the store was last closed.
    last_time: Timestamp,
    /// No revisions are reserved.
    loses_nothing: bool,
    /// For how many more rows and events there is room; none: any number.
    room: Option<usize>,
    /// Sagas that no commit can change.
    unwritable: HashSet<RowId>,
    /// How many pages of the history were read.
    event_reads: AtomicUsize,
    /// The content of backups; none: backups fail.
    backup: Option<Vec<u8>>,
}

impl StoredData {
    /// All sagas, in order of creation.
    pub fn sagas(&self) -> impl DoubleEndedIterator<Item = &Saga> {
        self.sagas.values().map(|record| &record.saga)
    }

    /// How many sagas there are.
    pub fn len(&self) -> usize {
        self.sagas.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sagas.is_empty()
    }

    /// The saga in a row.
    pub fn nth(&self, place: RowId) -> Option<&Saga> {
        self.sagas.get(&place).map(|record| &record.saga)
    }

    /// The events after a revision, up to and including another.
    pub fn events(&self, after: Revision, through: Revision) -> impl Iterator<Item = &Event> {
        let is_some = after < through;
        let range = (Bound::Excluded(after), Bound::Included(through.max(after.after(1))));
        self.events.range(range).filter(move |_| is_some).map(|(_, (_, event))| event)
    }

    /// The newest event's revision, purged ones included.
    pub fn head(&self) -> Revision {
        let newest = self.events.last_key_value().map(|(revision, _)| *revision);
        newest.unwrap_or_default().max(self.compacted)
    }

    fn opening(&mut self) -> InitialState {
        let head = self.head();
        let next_revision = head.after(1).max(self.revision_floor);
        if next_revision > head.after(1) {
            self.gaps.insert(head, Revision(next_revision.0 - 1));
        }
        let reserved = if self.loses_nothing { 0 } else { RESERVED };
        (self.opened_at, self.revision_floor) = (next_revision, next_revision.after(reserved));
        let last_event = self.events.values().next_back().map(|(_, event)| event.time);
        let in_flight = self.sagas.values().map(|record| &record.saga).filter(|saga| !saga.state.is_terminal());
        let last_heartbeat = in_flight.filter_map(|saga| Some(saga.lease.as_ref()?.heartbeat_time)).max();
        let last_time = [last_event, last_heartbeat, Some(self.last_time)].into_iter().flatten().max();
        let sagas = self.sagas.iter();
        let due = sagas.clone().filter_map(|(id, Record { saga, derived })| {
            let (queue, ready) = (saga.spec.queue.clone(), ReadyPurposes::of_state(saga.state));
            Some((*id, DueEntry { due: derived.due?, queue, ready }))
        });
        let ready = sagas.filter_map(|(id, record)| Some((*id, ReadyEntry::of(&record.saga, &record.derived)?)));
        InitialState {
            head,
            next_revision,
            next_row: RowId(self.last_row + 1),
            last_time: last_time.unwrap_or_default().plus(Span::MICROSECOND),
            due: due.collect(),
            ready: ready.collect(),
            paused: self.queues.values().filter(|queue| queue.paused).map(|queue| queue.queue.clone()).collect(),
        }
    }
}
