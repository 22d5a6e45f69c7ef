//! Stores the data and decides nothing: runs the coordinator's turns on a writer thread, makes their changes durable,
//! and answers reads.
//!
//! [`Store`] is the handle that the layers above use: they submit requests, read, and follow the history. Behind it,
//! one writer thread owns the backend, and a [`Reader`] answers everything that only reads.

pub mod credentials;
mod feed;
pub mod handle;
mod inbox;
pub mod memory;
mod memory_share;
pub mod post;
pub mod query;
mod read_queue;
pub mod reader;
pub mod recent_events;
pub mod sqlite;
mod submission;
pub mod vitals;
pub mod writer;

pub use crate::coordinator::{CallOutcome, CallerKey, HeldClaimSummary, StoreError};
pub use credentials::{CallOrigin, Credentials};
pub use feed::{Feed, NextEvents};
pub use handle::{PendingAnswer, Store};
pub use query::{
    Cursor, EventQuery, Filter, ListQuery, Moment, PageBounds, QueueCounts, SagaKey, SagaPage, Stats, Stretch,
};
pub use read_queue::ReadCaller;
pub use reader::Reader;
pub use recent_events::RecentEvents;
pub use sqlite::guard::OpenError;
pub use writer::{StoreOptions, WriterFailure, WriterThread};

/// How many revisions are reserved at once: enough to do it rarely, and few enough that 2^53 last for 500 million
/// starts.
const RESERVED: usize = 1 << 24;
