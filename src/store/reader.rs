//! [`Reader`]: the reads that each backend must support. Every call blocks for a bounded time and sees only what is
//! durable.

use crate::domain::{
    command::QueueStatus,
    event::Event,
    ids::{QueueName, Revision},
    saga::{Saga, State},
    time::Timestamp,
};

use super::{
    StoreError,
    query::{EventQuery, ListQuery, PageBounds, QueueStats, ReadTime, SagaKey, SagaPage, ScanPage},
};

/// Reads from committed snapshots.
pub trait Reader: Send + Sync + 'static {
    /// The saga as it is now, if there is one.
    fn get(&self, key: &SagaKey) -> Result<Option<Saga>, StoreError>;

    /// A page of sagas.
    fn list(&self, query: &ListQuery) -> Result<SagaPage, StoreError>;

    /// The matching events of a bounded part of the history. Fails if part of it is compacted, or if it starts at a
    /// revision that was never assigned; neither is checked for a `whole` saga's history.
    fn events(&self, query: &EventQuery) -> Result<ScanPage<Event>, StoreError>;

    /// Sagas that are reported stale with a `lease_expired` event after `after` and up to `through`, in order of those
    /// events, each with its revision. Scans a bounded part of the history and returns as many as the bounds admit,
    /// but at least one if there is one.
    fn stale(
        &self,
        queues: &[QueueName],
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<ScanPage<(Revision, Saga)>, StoreError>;

    /// Sagas in a terminal state that were last changed before a time, oldest first: at most `limit`, with their
    /// contents.
    fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError>;

    /// Counts by queue, in order of name.
    fn counts(&self, read_time: &ReadTime) -> Result<Vec<QueueStats>, StoreError>;

    /// The queues that ever held a saga or were paused, by name, after one of them: at most `limit`.
    fn queues(&self, after: Option<&QueueName>, limit: usize) -> Result<Vec<QueueStatus>, StoreError>;

    /// Writes a consistent copy of the whole store to a new file, slowly enough to leave the writer its disk; returns
    /// the newest revision in it.
    fn backup(&self, path: &std::path::Path) -> Result<Revision, StoreError>;
}
