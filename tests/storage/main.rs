//! One suite for every backend: what a store answers, keeps and forgets, on the reference in memory and on SQLite.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
mod bench;
mod build;

mod bounded;
mod claim_next;
mod create;
mod damaged;
mod due;
mod held;
mod history;
mod list;
mod numbers;
#[allow(dead_code, reason = "the other binaries use the rest")]
#[path = "../support/postgres.rs"]
mod postgres;
mod purge;
mod queues;
mod random;
mod repeat;
mod sqlite;
mod suspended;
#[allow(dead_code, unused_imports, unused_macros, reason = "the other binaries use the rest")]
#[path = "../support/tools.rs"]
mod tools;
#[path = "../support/values.rs"]
mod values;
mod vitals;
