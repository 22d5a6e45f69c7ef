//! FLOOR 1: keeps facts, decides nothing. The seam between the rules and whatever stores their outcome.
//!
//! [`Store`] is what the floors above hold: they submit a request, read, and follow the history. Behind it stands one
//! writer thread that owns the writing connection, and a [`Reader`] for everything that only looks.

pub mod error;
#[cfg(test)]
pub(crate) mod fake;
pub mod handle;
pub mod query;
pub mod reader;
pub mod tail;

pub use error::StoreError;
pub use handle::Store;
pub use query::{Cursor, EventQuery, Filter, ListQuery, Moment, QueueCounts, SagaKey, SagaPage, Stats};
pub use reader::Reader;
pub use tail::Tail;
