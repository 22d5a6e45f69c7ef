//! Operating the daemon: metrics, logs, traces, `sagad top`, `sagad doctor`, and the documents.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod documents;
mod limits_page;
mod ops;
#[path = "../support/mod.rs"]
mod support;
mod top_and_doctor;
