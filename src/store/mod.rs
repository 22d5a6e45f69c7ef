//! FLOOR 2: keeps facts, decides nothing. What the coordinator's turns are driven by, and what keeps their outcome.
//!
//! [`Store`] is what the floors above hold: they submit a request, read, and follow the history. Behind it stands one
//! writer thread that owns the backend, and a [`Reader`] for everything that only looks.

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

pub use crate::coordinator::{Outcome, Share, StoreError, Waiting};
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

/// So many revisions are reserved at once: enough to do it seldom, and few enough that 2^53 last for 500 million starts.
const RESERVED: usize = 1 << 24;
