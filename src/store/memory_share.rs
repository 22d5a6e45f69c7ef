//! How much memory the changes under way hold, together with their answers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Most memory of the changes that wait for the writer or are being written, and of answers on their way: some twenty of the
/// largest batches. A caller that goes away leaves its change in the queue, so what bounds calls does not bound this.
pub(super) const CHANGES_BYTES: usize = 128 << 20;
/// A change that is no larger is not refused for that: as many as fit into the queue hold little.
pub(super) const SMALL_BYTES: usize = 4 << 10;

/// The memory that all changes hold together.
#[derive(Clone, Debug, Default)]
pub(super) struct ChangesMemory(Arc<AtomicUsize>);

impl ChangesMemory {
    /// Takes a share for a change of so many bytes; `None`: there is no room for it.
    pub(super) fn take(&self, bytes: usize) -> Option<MemoryShare> {
        let share = MemoryShare { all: self.clone(), bytes: AtomicUsize::new(bytes) };
        let all = self.0.fetch_add(bytes, Relaxed) + bytes;
        (bytes <= SMALL_BYTES || all <= CHANGES_BYTES).then_some(share)
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        CHANGES_BYTES.saturating_sub(self.0.load(Relaxed))
    }
}

/// The share of one change: given back when nobody holds it any more.
#[derive(Debug)]
pub(super) struct MemoryShare {
    all: ChangesMemory,
    bytes: AtomicUsize,
}

impl MemoryShare {
    /// An answer of so many bytes is on its way.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.all.0.fetch_add(bytes, Relaxed);
    }

    /// Gives back what the share holds so far.
    pub(super) fn release(&self) {
        self.all.0.fetch_sub(self.bytes.swap(0, Relaxed), Relaxed);
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_large_changes_share_the_memory_and_small_ones_are_never_refused() {
        let memory = ChangesMemory::default();
        let half = memory.take(CHANGES_BYTES / 2).unwrap();
        let other = memory.take(CHANGES_BYTES / 2).unwrap();
        assert_eq!(memory.left(), 0);
        assert!(memory.take(SMALL_BYTES + 1).is_none());
        let _small = memory.take(SMALL_BYTES).unwrap();
        drop(half);
        assert!(memory.take(CHANGES_BYTES / 4).is_some());
        assert_eq!(memory.left(), CHANGES_BYTES / 2 - SMALL_BYTES, "what was refused took nothing");
        // Its request is no longer there, but an answer is.
        other.release();
        other.add(SMALL_BYTES);
        assert_eq!(memory.left(), CHANGES_BYTES - 2 * SMALL_BYTES);
        drop(other);
        assert_eq!(memory.left(), CHANGES_BYTES - SMALL_BYTES);
    }
}
