//! The commands and the Rust client, with a real daemon and with a scripted coordinator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod lease_keeper;
mod scripted_commands;
mod scripted_work;
#[path = "../support/mod.rs"]
mod support;
mod worktrees;
