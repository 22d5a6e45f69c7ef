//! Faults of the disk: P2 (loss of power), P3 (errors), P4 (full), P8 (damage), P9 (tokens after a loss), and backups under load.

mod backup;
mod damage;
mod full_disk;
mod io_errors;
mod lost_revisions;
mod removed_files;
pub mod requests;
mod sync;
mod trace;
