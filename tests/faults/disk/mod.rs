//! What the disk does to the daemon, and what it may cost: P2 (power), P3 (errors), P4 (full), P8 (damage), P9 (tokens after
//! a loss), and a backup under load.

mod backup;
mod damage;
mod errors;
mod full;
mod gone;
mod lost;
pub mod small;
mod sync;
mod trace;
