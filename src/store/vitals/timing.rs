//! [`Timing`]: when one request got where, for whoever traces it. The writer fills it in and knows nothing of traces.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::domain::time::Timestamp;

use super::NEVER;

/// When one request got where. A held claim's times are those of its first judgement.
#[derive(Debug)]
pub struct Timing([AtomicI64; 5]);

/// Where a request gets, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into the writer's queue.
    Queued,
    /// Out of it: the writer begins with it.
    Taken,
    /// The rules have judged it, and what follows is written.
    Judged,
    /// The commit of its batch begins.
    Committing,
    /// Its batch is on disk.
    Committed,
}

impl Default for Timing {
    fn default() -> Self {
        Timing(std::array::from_fn(|_| AtomicI64::new(NEVER)))
    }
}

impl Timing {
    /// It got there.
    pub(in crate::store) fn reached(&self, step: Step, now: Timestamp) {
        self.0[step as usize].store(now.micros(), Relaxed);
    }

    /// When it did, if it did.
    pub fn at(&self, step: Step) -> Option<Timestamp> {
        Some(self.0[step as usize].load(Relaxed)).filter(|at| *at != NEVER).map(Timestamp::from_micros)
    }
}
