//! The files in `deploy/` and the messages to the service manager, with the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod notify;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
