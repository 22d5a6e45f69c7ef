//! What the disk does to the daemon, and what it may cost: P2 (power), P3 (errors), P4 (full), P8 (damage), P9 (tokens after
//! a loss), and a backup under load.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it has to be")]

mod backup;
#[path = "../torture/daemon.rs"]
mod daemon;
mod damage;
mod errors;
mod full;
mod gone;
mod lost;
mod small;
mod sync;
mod trace;
