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
mod purge;
mod queues;
mod random;
mod repeat;
mod sqlite;
mod suspended;
#[path = "../support/values.rs"]
mod values;
mod vitals;
