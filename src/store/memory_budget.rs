//! Bounds the memory of pending changes and their answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Most memory of changes that wait for the writer or are being written, and of answers on their way: about twenty of
/// the largest batches. A caller that goes away leaves its change in the queue, so the limits on calls don't bound
/// this.
pub(super) const CHANGES_BYTES: usize = 128 << 20;
/// A change up to this size is never refused: as many as fit into the queue take little memory.
pub(super) const SMALL_BYTES: usize = 4 << 10;

/// The memory that all changes hold together.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryBudget(Arc<AtomicUsize>);

impl MemoryBudget {
    /// Reserves memory for a change; `None` if there is no room for it.
    pub(super) fn reserve(&self, bytes: usize) -> Option<MemoryReservation> {
        let share = MemoryReservation { all: self.clone(), bytes: AtomicUsize::new(bytes) };
        let all = self.0.fetch_add(bytes, Relaxed) + bytes;
        (bytes <= SMALL_BYTES || all <= CHANGES_BYTES).then_some(share)
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        CHANGES_BYTES.saturating_sub(self.0.load(Relaxed))
    }
}

/// The memory of one change, released when the last holder drops it.
#[derive(Debug)]
pub(super) struct MemoryReservation {
    all: MemoryBudget,
    bytes: AtomicUsize,
}

impl MemoryReservation {
    /// Adds the size of an answer that is being sent.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.all.0.fetch_add(bytes, Relaxed);
    }

    /// Releases what is held so far.
    pub(super) fn release(&self) {
        self.all.0.fetch_sub(self.bytes.swap(0, Relaxed), Relaxed);
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_large_changes_share_the_budget_and_small_ones_are_never_refused() {
        let memory = MemoryBudget::default();
        let half = memory.reserve(CHANGES_BYTES / 2).unwrap();
        let other = memory.reserve(CHANGES_BYTES / 2).unwrap();
        assert_eq!(memory.left(), 0);
        assert!(memory.reserve(SMALL_BYTES + 1).is_none());
        let _small = memory.reserve(SMALL_BYTES).unwrap();
        drop(half);
        assert!(memory.reserve(CHANGES_BYTES / 4).is_some());
        assert_eq!(memory.left(), CHANGES_BYTES / 2 - SMALL_BYTES, "the refused change took nothing");
        // The request's memory is released, and an answer's is added.
        other.release();
        other.add(SMALL_BYTES);
        assert_eq!(memory.left(), CHANGES_BYTES - 2 * SMALL_BYTES);
        drop(other);
        assert_eq!(memory.left(), CHANGES_BYTES - SMALL_BYTES);
    }
}
