//! [`Backend`]: what a turn needs from a store. It stores data and decides nothing.
//!
//! One thread drives it, and calls may block. Between two commits it is only read, and answers with what is committed:
//! the turn itself keeps track of what it has changed. It is not asked for what the coordinator has in memory.

use std::sync::Arc;

use crate::domain::{
    event::Event,
    ids::{FencingToken, QueueName, Revision, SagaId, TaskId},
    lease::LeasePurpose,
    saga::{Saga, State},
    text::Blob,
    time::Timestamp,
};

use super::{ChangeSet, DueEntry, ReadyEntry, ReadyPosition, RowId, StoredAnswer};

/// Why a backend call failed. Each variant says whether the change happened.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BackendError {
    /// The disk is full: it did not happen.
    #[error("the disk is full")]
    Full,
    /// The store can't be reached for the moment: it did not happen.
    #[error("the store can't be reached: {0}")]
    Away(String),
    /// Another coordinator has taken over: it did not happen, and this one changes nothing any more.
    #[error("another coordinator has taken over")]
    Deposed,
    /// A stored row is damaged: it did not happen. Other rows may be fine.
    #[error("a stored row can't be read: {0}")]
    Corrupt(String),
    /// A commit found that this saga's stored rows are not those that were read: it did not happen. Says what it
    /// found.
    #[error("a saga's stored rows are not those that were read: {1}")]
    Unwritable(RowId, String),
    /// The store can't be used any more: it did not happen.
    #[error("{0}")]
    Unavailable(String),
    /// The store can't be used any more: it may have happened.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// The store's files were removed or replaced: what was written went where the next start won't find it.
    #[error("{0}")]
    Gone(String),
}

/// How a saga is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoadKey {
    /// Its task's id.
    Task(TaskId),
    /// Its own.
    Saga(SagaId),
    /// Its row number.
    Row(RowId),
}

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum LoadResult {
    /// Nothing.
    Nothing,
    /// This saga.
    Saga(RowId, Arc<Saga>),
    /// A damaged row; says why.
    Unreadable(String),
}

/// The sizes of a saga's contents, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentBytes {
    /// The payload.
    pub payload: usize,
    /// Progress and result together.
    pub outcome: usize,
}

impl ContentBytes {
    /// All of them.
    pub const fn all(self) -> usize {
        self.payload + self.outcome
    }
}

/// What is removed with a saga.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovalCounts {
    /// How many events.
    pub events: usize,
    /// How many compensations.
    pub compensations: usize,
    /// The newest of the events.
    pub newest: Revision,
}

/// What the coordinator is started with, read when the store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialState {
    /// The newest event's revision.
    pub head: Revision,
    /// The revision of the next event: above every revision ever assigned.
    pub next_revision: Revision,
    /// The row of the next saga: above every row ever assigned.
    pub next_row: RowId,
    /// The newest time in the store.
    pub last_time: Timestamp,
    /// What is due to which saga.
    pub due: Vec<(RowId, DueEntry)>,
    /// Ready sagas that only some callers can claim: every saga for which [`ReadyEntry::of`] returns an entry.
    pub ready: Vec<(RowId, ReadyEntry)>,
    /// Paused queues.
    pub paused: Vec<QueueName>,
}

/// Which ready sagas are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyScan {
    /// For what.
    pub purpose: LeasePurpose,
    /// Of which queue.
    pub queue: QueueName,
    /// After this position; none: from the start.
    pub after: Option<ReadyPosition>,
    /// At most so many.
    pub limit: usize,
}

/// Does for a saga in memory what [`Backend::load_without_contents`] does for a stored one.
pub fn without_contents(mut saga: Saga, compensations: bool) -> (Saga, ContentBytes) {
    let bytes = |blob: &mut Blob| std::mem::take(blob).bytes().len();
    let outcome = bytes(&mut saga.progress) + bytes(&mut saga.result);
    let payload = bytes(&mut Arc::make_mut(&mut saga.spec).payload);
    if !compensations {
        saga.compensations.clear();
    }
    (saga, ContentBytes { payload, outcome })
}

/// How much maintenance a backend may do between two turns, beside what can't wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceBudget {
    /// No call waits, so this is a good time for more.
    pub no_calls_waiting: bool,
    /// It may do one step, of a few milliseconds, of work that can wait.
    pub step: bool,
}

/// Stores the data. One thread drives it.
pub trait Backend: 'static {
    /// True if each call takes a round trip over a network: then a turn says first what it will ask for.
    const IS_REMOTE: bool = false;

    /// Loads at once what the next turn is going to ask for: sagas, and the stored answers to requests.
    fn load_ahead(&mut self, _keys: Vec<LoadKey>, _answers: &[[u8; 16]]) -> Result<(), BackendError> {
        Ok(())
    }
    /// Loads what is stored under each key, in the order of the keys.
    fn load(&mut self, keys: &[LoadKey]) -> Result<Vec<LoadResult>, BackendError>;
    /// Loads a saga without its contents, of which only the sizes are read; and without its compensations unless they
    /// are wanted.
    fn load_without_contents(
        &mut self,
        id: RowId,
        compensations: bool,
    ) -> Result<Option<(Saga, ContentBytes)>, BackendError>;
    /// A saga's payload.
    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, BackendError>;
    /// The stored answer to each of these requests, in the order of the ids.
    fn answers(&mut self, ids: &[[u8; 16]]) -> Result<Vec<Option<StoredAnswer>>, BackendError>;
    /// The `claimed` event of a saga's lease and, if it is among the `newest` events of that saga, the one that says how the
    /// lease's holder ended it (`ended_by`).
    fn lease_events(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, BackendError>;
    /// Ready sagas in claim order.
    fn ready(&mut self, scan: &ReadyScan) -> Result<Vec<ReadyPosition>, BackendError>;
    /// True if the queue ever held a saga or was paused.
    fn queue_exists(&mut self, queue: &QueueName) -> Result<bool, BackendError>;
    /// Ended sagas in these states, unchanged since before a time, oldest first, each with the time of its last change: at
    /// most `limit`.
    fn ended(
        &mut self,
        states: &[State],
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RowId)>, BackendError>;
    /// What would be removed with a saga.
    fn count_removal(&mut self, id: RowId) -> Result<RemovalCounts, BackendError>;

    /// Makes a turn durable: after it returns, a power loss does not undo it, and no later start assigns its revisions
    /// again, whatever else is lost. After an error that says that it did not happen, the backend can be used as
    /// before; after one that says that it may have, it is not used any more.
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), BackendError>;

    /// Makes sure that a turn without changes read what is true: that no other coordinator has taken over since.
    fn confirm(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Does bounded maintenance between two turns; returns true if more work that can wait is left. Once a call has
    /// returned [`BackendError::Full`] or [`BackendError::Away`], this does too until the store takes changes again, and
    /// nothing else is called meanwhile.
    fn maintain(&mut self, budget: MaintenanceBudget) -> Result<bool, BackendError>;
    /// Closes the store at a time, so that the next start continues with the next revision and leaves no gap.
    fn close(&mut self, now: Timestamp) -> Result<(), BackendError>;
}
