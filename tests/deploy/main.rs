//! What is in `deploy/`, and what the daemon does for whoever runs it: held to each other, and to the real binary.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it has to be")]

#[path = "../torture/daemon.rs"]
mod daemon;
mod notify;
mod systemd;
#[allow(dead_code, reason = "each of the targets that share this uses a part")]
#[path = "../support/tools.rs"]
mod tools;
