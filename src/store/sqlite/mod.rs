//! The SQLite backend: one file in WAL mode, synced at each commit; one writing connection, a pool of reading ones.

mod backend;
pub mod check;
mod checkpoint;
mod connection;
mod encode;
mod error;
mod history;
mod initial_state;
mod load;
pub mod migrate;
mod open;
pub mod open_checks;
pub mod open_error;
#[cfg(test)]
mod plans;
mod reader;
mod ready_counts;
pub mod restore;
mod revision_reservation;
mod schema;
mod shrinker;
mod sql;
mod state_counts;
mod statements;
mod store_files;
pub mod vacuum;
mod values;
mod writer;

pub use open::{open, open_reader, open_writer};
pub use reader::ReaderShared;
pub use writer::{OpenedSqliteWriter, SqliteWriter};

/// The decoding of single rows, for the fuzzer: with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use super::{
        super::columns::{
            DamagedValue,
            decode::{compensation, event, saga},
        },
        backend::write_and_undo,
    };
}
