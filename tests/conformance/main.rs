//! One suite for every backend: what a store answers, keeps and forgets, on the reference in memory and on SQLite.

#![allow(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

/// Makes each case a test on every backend.
macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod memory {
            $(#[test] fn $case() { super::$case(crate::bench::Bench::memory()) })*
        }
        mod sqlite {
            $(#[test] fn $case() { super::$case(crate::bench::Bench::sqlite()) })*
        }
    };
}

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
mod vitals;
