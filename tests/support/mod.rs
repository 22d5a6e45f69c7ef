//! What tests need that talk to a real daemon: the process itself, clients, requests in short, and errors taken apart.

#![allow(dead_code, unused_imports, reason = "each test target uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod api;
pub mod daemon;
pub mod errors;
pub mod fake;
pub mod people;
pub mod pki;
pub mod session;
pub mod strace;
pub mod time;
pub mod tools;

pub use api::{Api, Key, claim, compensation, create, held, key, named};
pub use daemon::{Daemon, Launch};
pub use errors::{Problem, Refused};
pub use time::{PATIENCE, eventually, micros, ms, now, secs};
