//! The contract: what clients get from the real binary over real sockets, and who may call.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accept_loop;
mod no_file_descriptors;
mod security;
#[path = "../support/mod.rs"]
mod support;
mod wire;
