//! What is in `deploy/`, and what the daemon does for whoever runs it: held to each other, and to the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod notify;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
