//! FLOOR 1: keeps facts, decides nothing. The seam between the rules and whatever stores their outcome.
//!
//! [`Store`] is what the floors above hold: they submit a request, read, and follow the history. Behind it stands one
//! writer thread that owns the writing connection, and a [`Reader`] for everything that only looks.

pub mod agenda;
pub mod claim;
pub mod credentials;
pub mod error;
pub mod execute;
#[cfg(test)]
pub(crate) mod fake;
pub mod handle;
mod inbox;
pub mod memory;
mod memory_share;
pub mod post;
pub mod query;
mod read_queue;
pub mod reader;
pub mod ready_index;
mod repeat;
pub mod rows;
pub mod sqlite;
pub mod sweep;
pub mod tail;
pub mod vitals;
pub mod waiters;
pub mod writer;

pub use credentials::{CallOrigin, Credentials};
pub use error::StoreError;
pub use handle::Store;
pub use query::{
    Cursor, EventQuery, Filter, ListQuery, Moment, PageBounds, QueueCounts, SagaKey, SagaPage, Stats, Stretch,
};
pub use read_queue::ReadCaller;
pub use reader::Reader;
pub use sqlite::guard::OpenError;
pub use tail::Tail;
pub use waiters::{Share, Waiting};
pub use writer::{WriterBounds, WriterFailure, WriterThread};
