//! [`Backend`]: what a store must be able to do for a turn. It keeps facts and decides nothing.
//!
//! It is driven by one thread, and may block. Between two commits it is only asked, and answers with what is committed:
//! what a turn has changed so far is known to the turn alone. Nothing here is asked for what the coordinator has in memory.

use std::sync::Arc;

use crate::domain::{
    event::Event,
    ids::{FencingToken, QueueName, Revision, SagaId, TaskId},
    lease::LeasePurpose,
    saga::{Saga, State},
    text::Blob,
    time::Timestamp,
    transition::Due,
};

use super::{ChangeSet, ReadyEntry};

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

/// Why a backend can't do what it is asked. Each tells whether it happened.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// No room: it did not happen.
    #[error("the disk is full")]
    Full,
    /// A stored row makes no sense: it did not happen. Other rows may do.
    #[error("a stored row can't be read: {0}")]
    Corrupt(String),
    /// A commit found that the stored rows of this saga are not those that were read: it did not happen. Says what it found.
    #[error("a saga's stored rows are not those that were read: {1}")]
    Unwritable(RowId, String),
    /// The store can't be relied upon any more: it did not happen.
    #[error("{0}")]
    Unavailable(String),
    /// The store can't be relied upon any more: it may have happened.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// The store's files were removed or replaced: what was written went where the next start won't find it.
    #[error("{0}")]
    Gone(String),
}

/// By what a saga is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Its task's id.
    Task(TaskId),
    /// Its own.
    Saga(SagaId),
    /// Its place.
    Place(RowId),
}

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Loaded {
    /// Nothing.
    Nothing,
    /// This saga.
    Saga(RowId, Arc<Saga>),
    /// A row that makes no sense; says why.
    Unreadable(String),
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The newest event's revision.
    pub head: Revision,
    /// The next event gets this one: above every revision ever given.
    pub next_revision: Revision,
    /// The next saga gets this place: above every place ever given.
    pub next_row: RowId,
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

/// A place in the order in which ready sagas of a queue are handed out: a higher priority first, then an earlier creation.
pub type Position = (std::cmp::Reverse<i32>, RowId);

/// Which ready sagas are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyScan {
    /// For what.
    pub purpose: LeasePurpose,
    /// Of which queue.
    pub queue: QueueName,
    /// Behind this position; none: from the first on.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: usize,
}

/// What [`Backend::load_brief`] makes of a saga that is in memory.
pub fn brief(mut saga: Saga, compensations: bool) -> (Saga, ContentBytes) {
    let bytes = |blob: &mut Blob| std::mem::take(blob).bytes().len();
    let outcome = bytes(&mut saga.progress) + bytes(&mut saga.result);
    let payload = bytes(&mut Arc::make_mut(&mut saga.spec).payload);
    if !compensations {
        saga.compensations.clear();
    }
    (saga, ContentBytes { payload, outcome })
}

/// What a backend may do between two turns, beside what can't be put off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleBudget {
    /// What is better done while no call waits: none does.
    pub quiet: bool,
    /// One step, of some milliseconds, of what can wait.
    pub step: bool,
}

/// What keeps the facts. One thread drives it.
pub trait Backend: 'static {
    /// What is stored under each of these keys, in their order.
    fn load(&mut self, keys: &[Key]) -> Result<Vec<Loaded>, Fault>;
    /// A saga by its place without its contents, of which nothing is read but how large they are; and without its compensations
    /// unless they are wanted.
    fn load_brief(&mut self, id: RowId, compensations: bool) -> Result<Option<(Saga, ContentBytes)>, Fault>;
    /// A saga's payload.
    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, Fault>;
    /// The stored answer to each of these requests, in their order.
    fn answers(&mut self, ids: &[[u8; 16]]) -> Result<Vec<Option<StoredAnswer>>, Fault>;
    /// The `claimed` event of a saga's lease and, if it is among the `newest` events of that saga, the one that says how the
    /// lease's holder ended it (`ended_by`).
    fn ends_of_lease(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, Fault>;
    /// Ready sagas, in the order in which they are handed out.
    fn ready(&mut self, scan: &ReadyScan) -> Result<Vec<Candidate>, Fault>;
    /// Whether a queue ever held a saga or was paused.
    fn knows_queue(&mut self, queue: &QueueName) -> Result<bool, Fault>;
    /// Ended sagas in these states, unchanged since before a time, oldest first, each with the time of its last change: at
    /// most `limit`.
    fn ended(&mut self, states: &[State], before: Timestamp, limit: usize) -> Result<Vec<(Timestamp, RowId)>, Fault>;
    /// What would be removed with a saga.
    fn weigh(&mut self, id: RowId) -> Result<Removed, Fault>;

    /// Makes a turn durable: when it returns, a power cut does not undo it, and no later start gives its revisions again,
    /// whatever is lost. After a fault that says that it did not happen, the backend goes on as before; after one that says that
    /// it may have, it is not used any more.
    fn commit(&mut self, changes: &ChangeSet) -> Result<(), Fault>;

    /// Does bounded work of the backend's own between two turns; returns whether more is left of what can wait. Once something
    /// has answered [`Fault::Full`], this does so until there is room again, and nothing but this is asked of it meanwhile.
    fn idle(&mut self, budget: IdleBudget) -> Result<bool, Fault>;
    /// Ends in good order at a time: the next start goes on with the next revision, and skips none.
    fn close(&mut self, now: Timestamp) -> Result<(), Fault>;
}
