//! One suite for every backend: in memory, which is the reference, SQLite and PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
mod test_store;
mod builders;

mod claim_next;
mod create;
mod damaged_rows;
mod due;
mod extreme_numbers;
mod held_claims;
mod history;
mod list;
#[allow(dead_code, reason = "the other binaries use the rest")]
#[path = "../support/postgres.rs"]
mod postgres;
mod purge;
mod queues;
mod random;
mod request_id;
mod sqlite;
mod suspension;
#[allow(dead_code, unused_imports, unused_macros, reason = "the other binaries use the rest")]
#[path = "../support/tools.rs"]
mod tools;
mod turn_bounds;
#[path = "../support/values.rs"]
mod values;
mod vitals;
