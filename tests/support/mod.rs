//! Helpers of tests that talk to a real daemon: its process, clients, short requests, and parsed errors.

#![allow(dead_code, unused_imports, unused_macros, reason = "each binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod api;
pub mod area;
pub mod binary;
pub mod daemon;
pub mod errors;
pub mod fake_coordinator;
pub mod pki;
pub mod postgres;
pub mod principals;
pub mod process_usage;
pub mod session;
pub mod setting;
pub mod small_disk;
pub mod store;
pub mod strace;
pub mod time;
pub mod tools;

pub use api::{Api, Key, Sagas, claim, claim_undo, compensation, create, held, key, named, sagas};
pub use binary::{SAGAD, run};
pub use daemon::{Daemon, Launch, channel};
pub use errors::{ExpectRefusal, Problem, reason};
pub use setting::number;
pub use small_disk::SmallDisk;
pub use store::{backup, check, copy_data};
pub use time::{WAIT_MAX, eventually, micros, ms, now, secs, since_1970, until};
pub(crate) use tools::needs;
