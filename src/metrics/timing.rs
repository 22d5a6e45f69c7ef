//! [`Timing`]: when one request reached which stage, for traces. The writer fills it in and knows nothing about
//! traces.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::domain::time::Timestamp;

/// No time yet.
pub(crate) const NEVER: i64 = i64::MIN;

/// When one request reached which stage. The times of a held claim are those of its first execution.
#[derive(Debug)]
pub struct Timing([AtomicI64; 5]);

/// The stages of a request, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStage {
    /// It was queued for the writer.
    Queued,
    /// The writer took it from the queue.
    Taken,
    /// It was executed.
    Judged,
    /// The commit of its batch started.
    Committing,
    /// Its batch is durable.
    Committed,
}

impl Default for Timing {
    fn default() -> Self {
        Timing(std::array::from_fn(|_| AtomicI64::new(NEVER)))
    }
}

impl Timing {
    /// Records that it reached a stage.
    pub(crate) fn reached(&self, step: WriteStage, now: Timestamp) {
        self.0[step as usize].store(now.micros(), Relaxed);
    }

    /// When it reached a stage, if it did.
    pub fn at(&self, step: WriteStage) -> Option<Timestamp> {
        Some(self.0[step as usize].load(Relaxed)).filter(|at| *at != NEVER).map(Timestamp::from_micros)
    }
}
