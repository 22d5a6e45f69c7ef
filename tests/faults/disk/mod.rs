//! Faults of the disk: P2 (loss of power), P3 (errors), P4 (full), P8 (damage), P9 (tokens after a loss), and backups under load.

mod backup;
mod damage;
mod io_errors;
mod full_disk;
mod removed_files;
mod lost_revisions;
pub mod requests;
mod sync;
mod trace;
