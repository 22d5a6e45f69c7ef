//! [`SharedState`]: what the writer and the handles share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64},
};

use parking_lot::RwLock;

use crate::{
    clock::Clock,
    domain::lease::RestartGrace,
    metrics::{LogMetrics, StoreMetrics},
};

use super::{RecentEvents, memory_budget::MemoryBudget};

/// State shared by the writer and the handles.
pub(super) struct SharedState {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) recent: Arc<RecentEvents>,
    /// The grace after the last absence; only the writer changes it.
    pub(super) grace: RwLock<RestartGrace>,
    /// The number of held claims; only the writer changes it.
    pub(super) waiting: AtomicU64,
    /// Set when the caller of a held call was revoked: the writer then checks all held calls and clears it.
    pub(super) revoked: AtomicBool,
    /// Memory of pending changes and their answers.
    pub(super) memory: MemoryBudget,
    /// Metrics of the store.
    pub(super) metrics: StoreMetrics,
}

impl SharedState {
    /// For a store whose newest event is at `head`, with the grace after the absence before, and the backend's metrics
    /// of its log.
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        recent: Arc<RecentEvents>,
        grace: RestartGrace,
        log: Arc<LogMetrics>,
    ) -> Arc<Self> {
        let metrics = StoreMetrics::new(clock.now()).with_log(log);
        let grace = RwLock::new(grace);
        let (waiting, revoked, memory) = (AtomicU64::new(0), AtomicBool::new(false), MemoryBudget::default());
        Arc::new(SharedState { clock, recent, grace, waiting, revoked, memory, metrics })
    }
}
