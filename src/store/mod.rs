//! Stores the data and decides nothing: runs the coordinator's turns on a writer thread, makes their changes durable,
//! and answers reads.
//!
//! [`Store`] is the handle that the layers above use: they submit requests, read, and follow the history. Behind it,
//! one writer thread owns the backend, and a [`Reader`] answers everything that only reads.

mod columns;
mod command_queue;
pub mod credentials;
mod event_feed;
pub mod memory;
mod memory_budget;
pub mod postgres;
pub mod query;
mod read_queue;
pub mod reader;
mod ready_snapshot;
pub mod recent_events;
pub mod reply;
mod shared_state;
pub mod sqlite;
#[allow(clippy::module_inception, reason = "it is named after `Store`, as the other files are after their types")]
pub mod store;
mod submission;
pub mod writer;
mod writer_message;

pub use crate::coordinator::{CallOutcome, CallerKey, HeldClaimSummary, StoreError};
pub use credentials::{CallOrigin, Credentials};
pub use event_feed::{EventFeed, NextEvents};
pub use query::{
    Cursor, EventQuery, Filter, ListQuery, PageBounds, QueueStats, ReadTime, SagaKey, SagaPage, ScanPage, Stats,
};
pub use read_queue::ReadCaller;
pub use reader::Reader;
pub use recent_events::RecentEvents;
pub use sqlite::open_error::OpenError;
pub use store::{PendingAnswer, Store};
pub use writer::{StoreOptions, WriterFailure, WriterThread};

/// How far revisions jump when what was acknowledged last may be missing, after a restore or a failover: more than a store
/// assigns at the highest rate on each day of a year between the copy and the loss; 2^53 still lasts for thousands of jumps.
const REVISION_JUMP: i64 = 1 << 40;

/// How many revisions are reserved at once: enough to do it rarely, and few enough that 2^53 last for 500 million
/// starts.
const RESERVED: usize = 1 << 24;
