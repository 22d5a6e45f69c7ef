//! The checks: each from the facts to what is wrong.

mod daemon;
mod disk;
mod queues;
mod recovery;
#[cfg(test)]
mod tests;

use super::{facts::DoctorFacts, finding::Finding};

/// A check.
pub type Check = fn(&DoctorFacts) -> Vec<Finding>;

/// All of them, by their names, in the order in which they are told: what makes others wrong comes first.
pub const ALL: &[(&str, Check)] = &[
    ("version", daemon::version),
    ("writer", daemon::writer),
    ("overload", daemon::overload),
    ("clock", daemon::clock),
    ("absences", daemon::absences),
    ("grace", daemon::grace),
    ("open-files", daemon::open_files),
    ("disk-speed", disk::speed),
    ("disk-space", disk::space),
    ("wal", disk::wal),
    ("store-size", disk::store_size),
    ("stuck-queue", queues::stuck),
    ("paused-queue", queues::paused),
    ("dispatched", queues::dispatched),
    ("unknown-holders", recovery::unknown_holders),
    ("stale", recovery::stale),
    ("compensation-kinds", recovery::kinds),
    ("compensation-timeout", recovery::timeout),
    ("quarantined", recovery::quarantined),
];
