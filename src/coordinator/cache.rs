//! [`SagaCache`]: sagas in flight that were recently read or written, as they are stored, and the rows of tasks. Only
//! the coordinator changes them, so the cache is never stale; what it doesn't have is read from the store.

use std::sync::Arc;

use quick_cache::{Weighter, unsync::Cache};

use crate::domain::{ids::TaskId, saga::Saga};

use super::{DerivedFields, RowId, RowIdBuildHasher, encoded_size::saga_bytes};

/// Bytes of cached sagas: about 30,000 of a kilobyte each.
const SAGA_BYTES: u64 = 32 << 20;
/// Cached rows of tasks: about 150 bytes each.
const PLACES: usize = 65_536;
/// Bytes of a cached saga beside its texts and contents.
const SAGA_ITSELF: usize = 1024;
/// Bytes of a label beside its texts.
const LABEL_ITSELF: usize = 64;
/// Bytes of a compensation beside its texts.
const COMPENSATION_ITSELF: usize = 256;

/// A saga with its stored derived fields.
#[derive(Clone)]
struct CachedSaga {
    saga: Arc<Saga>,
    /// None: they were not read.
    derived: Option<DerivedFields>,
}

/// Weighs a saga by its memory.
#[derive(Clone)]
struct SagaWeigher;

impl Weighter<RowId, CachedSaga> for SagaWeigher {
    fn weight(&self, _: &RowId, CachedSaga { saga, .. }: &CachedSaga) -> u64 {
        saga_bytes(saga, SAGA_ITSELF, LABEL_ITSELF, COMPENSATION_ITSELF) as u64
    }
}

/// Sagas in flight, as they are stored.
pub(super) struct SagaCache {
    sagas: Cache<RowId, CachedSaga, SagaWeigher, RowIdBuildHasher>,
    places: Cache<TaskId, RowId>,
}

impl Default for SagaCache {
    fn default() -> Self {
        let expected = SAGA_BYTES as usize / SAGA_ITSELF;
        let sagas = Cache::with(expected, SAGA_BYTES, SagaWeigher, RowIdBuildHasher::default(), Default::default());
        SagaCache { sagas, places: Cache::new(PLACES) }
    }
}

impl SagaCache {
    /// The row of a task's saga. It may have been removed since.
    pub fn place(&self, task_id: &TaskId) -> Option<RowId> {
        self.places.get(task_id).copied()
    }

    /// The saga at a place.
    pub fn saga(&self, id: RowId) -> Option<&Arc<Saga>> {
        self.sagas.get(&id).map(|kept| &kept.saga)
    }

    /// The stored derived fields of a saga, if known.
    pub fn derived(&self, id: RowId) -> Option<DerivedFields> {
        self.sagas.get(&id)?.derived
    }

    /// Caches a saga as it was read or written, with its stored derived fields if known. An ended saga is rarely
    /// needed again, so it is dropped instead.
    pub fn keep(&mut self, id: RowId, saga: Arc<Saga>, derived: Option<DerivedFields>) {
        debug_assert!(!saga.contents_omitted, "what is kept is whole");
        if saga.state.is_terminal() {
            self.sagas.remove(&id);
            return;
        }
        if self.sagas.peek(&id).is_none() {
            self.keep_place(id, &saga);
        }
        self.sagas.insert(id, CachedSaga { saga, derived });
    }

    /// Caches the row of a task's saga, if it is in flight.
    pub fn keep_place(&mut self, id: RowId, saga: &Saga) {
        if !saga.state.is_terminal() && self.place(saga.task_id()) != Some(id) {
            self.places.insert(saga.task_id().clone(), id);
        }
    }

    /// Drops a saga that was removed.
    pub fn forget(&mut self, id: RowId) {
        self.sagas.remove(&id);
    }

    /// Drops the row of a task's saga.
    pub fn forget_place(&mut self, task_id: &TaskId) {
        self.places.remove(task_id);
    }
}
