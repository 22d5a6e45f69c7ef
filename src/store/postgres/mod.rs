//! The PostgreSQL backend. One elected coordinator writes, turn by turn; any number of coordinators can read.
//!
//! ```text
//! ConnectOptions ─► PostgresConnection ─► check_durability ─► migrate ─► wait_for_epoch ─► read_initial_state
//!                                                                                               │
//!                          PostgresReader: a pool of reading connections      PostgresWriter ◄──┘ fenced by its epoch
//! ```

mod column_arrays;
mod connect_options;
mod connection;
mod durability;
mod election;
mod encode;
mod error;
mod initial_state;
mod load;
mod migrate;
mod open;
mod open_error;
mod reader;
mod sql;
mod statements;
mod values;
mod writer;

pub use connect_options::ConnectOptions;
pub use election::CoordinatorName;
pub use open::{OpenedPostgres, open, open_parts};
pub use open_error::OpenError;
pub use reader::PostgresReader;
pub use writer::PostgresWriter;
