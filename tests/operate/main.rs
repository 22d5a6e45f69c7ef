//! Running the daemon: metrics, logs and traces, `sagad top` and `sagad doctor`, and the documents that say how.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod documents;
mod figures;
mod ops;
#[path = "../support/mod.rs"]
mod support;
mod topdoc;
