//! The writing half of the seam: what a backend must be able to keep. It decides nothing: [`super::execute`] loads
//! through this, lets the rules decide, and writes through this, the same way for every backend.
//!
//! A backend with several coordinators locks what `find` and `load` return until `commit`, and takes revisions and the
//! time from the database; nothing above this trait changes for it.

use std::sync::Arc;

use crate::domain::{
    command::QueueStatus,
    event::Event,
    ids::{FencingToken, QueueName, Revision, SagaId, TaskId},
    lease::LeasePurpose,
    saga::{Saga, State},
    text::Blob,
    time::Timestamp,
    transition::Due,
};

use super::{query::SagaKey, ready_index::ReadyEntry};

/// A saga's place in the order of creation. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub i64);

/// Hashes places. They are given one after the other and by nobody else, so nothing has to keep them from colliding on purpose.
pub type RowHasher = std::hash::BuildHasherDefault<PlaceHasher>;

/// What [`RowHasher`] hashes with: one multiplication, whose upper half goes into the lower.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlaceHasher(u64);

impl std::hash::Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_i64((*byte).into()));
    }

    fn write_i64(&mut self, number: i64) {
        let spread = (self.0 ^ number.cast_unsigned()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ spread >> 32;
    }
}

/// Why rows can't be read or written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowsError {
    /// No room: the transaction did not happen.
    #[error("the disk is full")]
    Full,
    /// A stored row that makes no sense. Other rows may.
    #[error("a stored row can't be read: {0}")]
    Corrupt(String),
    /// The store can't be relied upon any more; a commit that failed this way may have happened.
    #[error("{0}")]
    Broken(String),
    /// The system refused a write. [`Rows::judge`] tells whether that was for lack of room; if not, it is like `Broken`.
    #[error("{0}")]
    Unwritten(String),
    /// The store's files were removed or replaced: what is written goes where the next start won't find it.
    #[error("{0}")]
    Gone(String),
}

/// What is kept of the answer to a request with a `request_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Of the request's content.
    pub digest: [u8; 16],
    /// When it was given.
    pub time: Timestamp,
    /// The sagas in it, each with the token of its lease if the request was a claim.
    pub sagas: Vec<(RowId, Option<FencingToken>)>,
}

/// What is derived from a saga for finding it again, beside what it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derived {
    /// For which purpose `ClaimNext` may hand it out.
    pub ready: Option<LeasePurpose>,
    /// When something is due next.
    pub due: Option<Due>,
}

/// How large a saga's contents are, in bytes.
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

/// What was removed with a saga.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many events.
    pub events: usize,
    /// How many compensations.
    pub compensations: usize,
    /// The newest of the events.
    pub newest: Revision,
}

/// What a store knows when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The newest event's revision.
    pub head: Revision,
    /// The next event gets this one: above every revision ever given.
    pub next_revision: Revision,
    /// The newest time in the store.
    pub last_time: Timestamp,
    /// What is due to which saga.
    pub due: Vec<StoredDue>,
    /// What `ClaimNext` could give to some callers only: every saga that [`ReadyEntry::of`] has an entry for.
    pub ready: Vec<(RowId, ReadyEntry)>,
    /// Queues that give nothing.
    pub paused: Vec<QueueName>,
}

/// What is due to a saga, as a store knows it when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDue {
    /// The saga's place.
    pub id: RowId,
    /// What is due.
    pub due: Due,
    /// The saga's queue.
    pub queue: QueueName,
    /// Its state.
    pub state: State,
}

impl StoredDue {
    /// What is due to a saga, if anything.
    pub fn of(id: RowId, saga: &Saga, derived: &Derived) -> Option<Self> {
        Some(StoredDue { id, due: derived.due?, queue: saga.spec.queue.clone(), state: saga.state })
    }
}

/// A candidate for `ClaimNext`: its priority and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Higher first.
    pub priority: i32,
    /// Earlier first.
    pub id: RowId,
}

/// What [`Rows::load_brief`] makes of a saga that is in memory.
pub fn brief(mut saga: Saga, compensations: bool) -> (Saga, ContentBytes) {
    let bytes = |blob: &mut Blob| std::mem::take(blob).bytes().len();
    let outcome = bytes(&mut saga.progress) + bytes(&mut saga.result);
    let payload = bytes(&mut Arc::make_mut(&mut saga.spec).payload);
    if !compensations {
        saga.compensations.clear();
    }
    (saga, ContentBytes { payload, outcome })
}

/// Facts under one transaction at a time.
pub trait Rows: 'static {
    /// Begins a transaction. Nothing below is called outside one.
    fn begin(&mut self) -> Result<(), RowsError>;
    /// Makes the transaction durable: when it returns, a power cut does not undo it.
    fn commit(&mut self) -> Result<(), RowsError>;
    /// Undoes the transaction.
    fn rollback(&mut self) -> Result<(), RowsError>;
    /// Whether a write that the system refused, if that is what the error is about, was refused for lack of room.
    fn judge(&self, error: RowsError) -> RowsError {
        error
    }
    /// Does bounded housekeeping between transactions; `idle` tells that nobody waits.
    fn maintain(&mut self, idle: bool) -> Result<(), RowsError>;
    /// Gives a little of the room that nobody needs back to the file system, between transactions; returns whether there
    /// is more to be given back.
    fn shrink(&mut self) -> Result<bool, RowsError>;
    /// Makes sure that revisions below `through` are never given again, whatever of the log is lost. False: a read was
    /// in the way for too long, and it is not sure yet.
    fn reserve_revisions(&mut self, through: Revision) -> Result<bool, RowsError>;
    /// Ends in good order at a time: the next revision would have been `next`, and nothing needs to be skipped at the
    /// next start.
    fn close(&mut self, next: Revision, now: Timestamp) -> Result<(), RowsError>;

    /// A saga by one of its ids.
    fn find(&mut self, key: &SagaKey) -> Result<Option<(RowId, Saga)>, RowsError>;
    /// A saga by its place.
    fn load(&mut self, id: RowId) -> Result<Option<Saga>, RowsError>;
    /// A saga by its place without its contents, of which nothing is read but how large they are; and without its compensations
    /// unless they are wanted.
    fn load_brief(&mut self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, RowsError>;
    /// A saga's payload.
    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, RowsError>;
    /// Which of the two ids is taken, if any: the field's name.
    fn taken(&mut self, task_id: &TaskId, saga_id: &SagaId) -> Result<Option<&'static str>, RowsError>;
    /// Adds a saga.
    fn insert(&mut self, saga: &Saga, derived: &Derived) -> Result<RowId, RowsError>;
    /// Replaces what can change of a saga.
    fn update(&mut self, id: RowId, before: &Saga, after: &Saga, derived: &Derived) -> Result<(), RowsError>;
    /// Appends to the history.
    fn append(&mut self, id: RowId, event: &Event) -> Result<(), RowsError>;
    /// The `claimed` event of a saga's lease and, if it is among the `newest` events of that saga, the one that says how the
    /// lease's holder ended it (`ended_by`).
    fn ends_of_lease(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, RowsError>;

    /// Ready sagas of a queue, by priority, then creation: at most `limit`.
    fn ready(&mut self, purpose: LeasePurpose, queue: &QueueName, limit: usize) -> Result<Vec<Candidate>, RowsError>;

    /// The stored answer to a request.
    fn answer(&mut self, id: &[u8; 16]) -> Result<Option<StoredAnswer>, RowsError>;
    /// Stores the answer to a request.
    fn keep_answer(&mut self, id: &[u8; 16], answer: &StoredAnswer) -> Result<(), RowsError>;
    /// Forgets at most `limit` answers given before a time.
    fn forget_answers(&mut self, before: Timestamp, limit: usize) -> Result<usize, RowsError>;

    /// Whether a queue ever held a saga or was paused.
    fn knows_queue(&mut self, queue: &QueueName) -> Result<bool, RowsError>;
    /// Keeps whether a queue is paused, by whom and why.
    fn set_paused(&mut self, status: &QueueStatus) -> Result<(), RowsError>;
    /// Terminal sagas in these states, unchanged since before a time, oldest first: at most `limit`.
    fn purgeable(&mut self, states: &[State], before: Timestamp, limit: usize) -> Result<Vec<RowId>, RowsError>;
    /// How many events a saga has.
    fn count_events(&mut self, id: RowId) -> Result<usize, RowsError>;
    /// Removes a saga with all that is its own.
    fn remove(&mut self, id: RowId) -> Result<Removed, RowsError>;
    /// Keeps that the history up to here has gaps.
    fn compact(&mut self, through: Revision) -> Result<(), RowsError>;
}
