//! The contract over the wire: the real binary, real clients, real sockets.

mod bounds;
mod claim_race;
mod disk;
mod drain;
mod due_at_once;
mod error_order;
mod errors;
mod keep_alive;
mod lifecycle;
mod recovery;
mod request_id;
mod restart;
mod resuming_watcher;
mod serving;
mod session;
mod terminal;
mod watch_resume;
mod watch_stale;
