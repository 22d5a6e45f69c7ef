//! The rules without a network: every situation of a saga, the coordinator on a virtual clock, and which module of `src/` may
//! use which.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod domain;
mod floors;
mod module_circles;
mod simulation;
#[path = "../support/values.rs"]
mod values;
