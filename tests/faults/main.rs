//! The promises under kills, full and failing disks, clock steps, suspensions, restarts, bad clients, and hours of load. Takes
//! minutes and the whole machine: `.ci/slow` runs it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod badclients;
mod clocks;
mod disk;
mod failover;
mod histories;
mod restart;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod torture;
