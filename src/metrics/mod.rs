//! What is measured while the daemon runs: counters and histograms in atomics, and [`Vitals`], which reads those of the
//! store at once. `serve/ops/metrics.rs` declares which metrics `/metrics` shows of them; `GetVitals` renders them for
//! `sagad top` and `sagad doctor`.
//!
//! The writer updates a few atomics per batch, none per change; anyone may read them at any time without stopping it.
//! So a reader may see one number of a batch and not yet another. All counts start with the process.

mod batch_events;
mod histogram;
mod last_minute;
mod queues;
mod snapshot;
mod store_metrics;
mod timing;
mod watches;

pub use histogram::HistogramSnapshot;
pub use last_minute::LastMinute;
pub use queues::{HandledKind, QueueEventCounts};
pub use snapshot::{CheckpointKind, CheckpointOutcome, ClockVitals, LogVitals, Refusals, Vitals};
pub use store_metrics::LogMetrics;
pub use timing::{Timing, WriteStage};
pub use watches::{OpenWatch, WatchKind, WatchVitals};

pub(crate) use batch_events::BatchEvents;
pub(crate) use histogram::Histogram;
pub(crate) use store_metrics::{BatchTimes, StoreMetrics};
