//! The commands and the library's client: against a real daemon, and against a server whose every answer is scripted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cli;
mod cli_calls;
mod cli_work;
mod client_lease;
#[path = "../support/mod.rs"]
mod support;
mod worktrees;
