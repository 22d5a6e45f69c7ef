//! What tests need that talk to a real daemon: the process itself, clients, requests in short, and errors taken apart.

#![allow(dead_code, unused_imports, unused_macros, reason = "each binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod api;
pub mod area;
pub mod binary;
pub mod daemon;
pub mod errors;
pub mod fake;
pub mod people;
pub mod pki;
pub mod postgres;
pub mod session;
pub mod small_disk;
pub mod store;
pub mod strace;
pub mod time;
pub mod tools;

pub use api::{Api, Key, Sagas, claim, compensation, create, held, key, named, sagas};
pub use binary::{SAGAD, run};
pub use daemon::{Daemon, Launch, channel};
pub use errors::{Problem, Refused, reason};
pub use small_disk::SmallDisk;
pub use store::{backup, check, copy_data};
pub use time::{PATIENCE, eventually, micros, ms, now, secs, until};
pub(crate) use tools::needs;
