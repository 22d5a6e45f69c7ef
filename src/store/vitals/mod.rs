//! The store's metrics, read by [`super::Store::vitals`].
//!
//! The writer updates a few atomics per batch, none per change; anyone may read them at any time without stopping it.
//! So a reader may see one number of a batch and not yet another. All counts start with the process.

mod batch_events;
mod histogram;
mod queues;
mod snapshot;
mod store_metrics;
mod timing;
mod watches;

pub use histogram::{HistogramSnapshot, LastMinute};
pub use queues::{HandledKind, QueueVitals};
pub use snapshot::{CheckpointKind, CheckpointOutcome, ClockVitals, LogVitals, Refusals, Vitals};
pub use store_metrics::LogMetrics;
pub use timing::{Timing, WriteStage};
pub use watches::{OpenWatch, WatchKind, WatchVitals};

pub(super) use batch_events::BatchEvents;
pub(super) use store_metrics::{BatchTimes, StoreMetrics};
