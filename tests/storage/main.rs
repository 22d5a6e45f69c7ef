//! One suite for every backend: in memory, which is the reference, and SQLite.

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
mod purge;
mod queues;
mod random;
mod request_id;
mod sqlite;
mod suspension;
mod turn_bounds;
#[path = "../support/values.rs"]
mod values;
mod vitals;
