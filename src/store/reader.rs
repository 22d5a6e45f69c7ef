//! The reading half of the seam: what each backend must answer. Every call blocks for a bounded time and sees only
//! what is durable.

use crate::domain::{
    command::QueueStatus,
    event::Event,
    ids::{QueueName, Revision},
    saga::{Saga, State},
    time::Timestamp,
};

use super::{
    StoreError,
    query::{EventQuery, ListQuery, Moment, PageBounds, QueueCounts, SagaKey, SagaPage, Stretch},
};

/// Reads from committed snapshots.
pub trait Reader: Send + Sync + 'static {
    /// The saga as it is now, if there is one.
    fn get(&self, key: &SagaKey) -> Result<Option<Saga>, StoreError>;

    /// A page of sagas.
    fn list(&self, query: &ListQuery) -> Result<SagaPage, StoreError>;

    /// What a bounded stretch of the history has. Fails when part of it is compacted, or when it begins at a revision that
    /// was never given; but not when it is asked for as a `whole` saga's.
    fn events(&self, query: &EventQuery) -> Result<Stretch<Event>, StoreError>;

    /// Sagas that are reported stale with a `lease_expired` event after `after` and up to `through`, in its order, each
    /// with that event's revision: what a bounded stretch of the history has, and as many as the bounds admit; but one at
    /// least, if the stretch has one.
    fn stale(
        &self,
        queues: &[QueueName],
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<Stretch<(Revision, Saga)>, StoreError>;

    /// Sagas in a terminal state, unchanged since before a time, the longest first: at most `limit`, with their contents.
    fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError>;

    /// Counts by queue, in order of name.
    fn counts(&self, moment: &Moment) -> Result<Vec<QueueCounts>, StoreError>;

    /// The queues that ever held a saga or were paused, in order of name, behind one of them: at most `limit`.
    fn queues(&self, after: Option<&QueueName>, limit: usize) -> Result<Vec<QueueStatus>, StoreError>;

    /// Writes a consistent copy of the whole store to a new file, at a pace that leaves the writer its disk; returns
    /// the newest revision in it.
    fn backup(&self, path: &std::path::Path) -> Result<Revision, StoreError>;
}
