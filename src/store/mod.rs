//! FLOOR 1: keeps facts, decides nothing. The seam between the rules and whatever stores their outcome.
//!
//! [`Store`] is what the floors above hold: they submit a request, read, and follow the history. Behind it stands one
//! writer thread that owns the writing connection, and a [`Reader`] for everything that only looks.

pub mod agenda;
pub mod claim;
pub mod error;
pub mod execute;
#[cfg(test)]
pub(crate) mod fake;
pub mod handle;
mod inbox;
pub mod memory;
pub mod post;
pub mod query;
pub mod reader;
mod repeat;
pub mod rows;
pub mod sqlite;
pub mod tail;
pub mod vitals;
pub mod waiters;
pub mod writer;

pub use error::StoreError;
pub use handle::Store;
pub use query::{Cursor, EventQuery, Filter, ListQuery, Moment, QueueCounts, SagaKey, SagaPage, Stats};
pub use reader::Reader;
pub use sqlite::guard::OpenError;
pub use tail::Tail;
pub use waiters::Waiting;
pub use writer::{WriterBounds, WriterFailure, WriterThread};
