//! The open watches: on what, and how far each has got.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use crate::domain::ids::{QueueName, Revision};

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchKind {
    /// Stale sagas.
    Stale,
    /// Events.
    Events,
}

impl WatchKind {
    /// All of them.
    pub const ALL: [WatchKind; 2] = [WatchKind::Stale, WatchKind::Events];
}

/// An open watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchVitals {
    /// Of what.
    pub kind: WatchKind,
    /// In which queues; none: in all.
    pub queues: Vec<QueueName>,
    /// Of one saga alone.
    pub one_task: bool,
    /// Everything up to here was sent or is not wanted.
    pub position: Revision,
}

/// The open watches.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<WatchEntry>>>,
}

#[derive(Debug)]
struct WatchEntry {
    kind: WatchKind,
    queues: Vec<QueueName>,
    one_task: bool,
    position: AtomicI64,
}

/// An open watch, until it is dropped.
#[derive(Debug)]
pub struct OpenWatch {
    all: Arc<Watches>,
    number: u64,
    entry: Arc<WatchEntry>,
}

impl OpenWatch {
    /// Records that everything up to here was sent or is not wanted.
    pub fn at(&self, position: Revision) {
        self.entry.position.store(position.0, Relaxed);
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.number);
    }
}

impl Watches {
    /// Registers a watch at a position. No queues: all queues; `one_task`: one saga only.
    pub(crate) fn open(
        self: &Arc<Self>,
        kind: WatchKind,
        queues: Vec<QueueName>,
        one_task: bool,
        position: Revision,
    ) -> OpenWatch {
        let number = self.next.fetch_add(1, Relaxed);
        let entry = Arc::new(WatchEntry { kind, queues, one_task, position: AtomicI64::new(position.0) });
        self.open.lock().insert(number, entry.clone());
        OpenWatch { all: self.clone(), number, entry }
    }

    pub(crate) fn read(&self) -> Vec<WatchVitals> {
        let open = self.open.lock();
        let mut watches: Vec<_> = open.iter().collect();
        watches.sort_by_key(|(number, _)| **number);
        let read = |entry: &Arc<WatchEntry>| WatchVitals {
            kind: entry.kind,
            queues: entry.queues.clone(),
            one_task: entry.one_task,
            position: Revision(entry.position.load(Relaxed)),
        };
        watches.into_iter().map(|(_, entry)| read(entry)).collect()
    }
}
