//! The contract over the wire: the real binary, real clients, real sockets.

mod bounds;
mod disk;
mod drain;
mod due_at_once;
mod errors;
mod resuming_watcher;
mod keep_alive;
mod lifecycle;
mod error_order;
mod claim_race;
mod recovery;
mod request_id;
mod restart;
mod serving;
mod session;
mod terminal;
mod watch_stale;
mod watch_resume;
