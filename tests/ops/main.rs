//! What operators are told, by the real daemon: metrics, probes, logs, traces, and what is made of them in `deploy/`.

#![allow(clippy::unwrap_used, reason = "a test says by panicking that something is wrong")]

#[path = "../support/mod.rs"]
mod support;

mod deployed;
mod load;
mod logs;
mod metrics;
mod outputs;
mod page;
mod probes;
mod traces;
