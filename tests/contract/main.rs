//! The contract: what a client of any language gets from the real binary over real sockets, and who may call.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod descriptors;
mod listen;
mod security;
#[path = "../support/mod.rs"]
mod support;
mod wire;
