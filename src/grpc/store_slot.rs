//! [`StoreSlot`]: holds the store once it is open. The services listen before that, so while a large store is being checked
//! clients get `STORE_UNAVAILABLE` and health checks, not a refused connection.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::{
    domain::time::Timestamp,
    store::{Store, StoreError},
};

use super::problem::Problem;

/// A slot for one store; cheap to clone.
#[derive(Clone, Default)]
pub struct StoreSlot {
    filled: Arc<OnceLock<Filled>>,
    /// What it waits for, if not for files to be read.
    waiting_for: Arc<Mutex<Option<String>>>,
}

struct Filled {
    store: Store,
    start_time: Timestamp,
}

impl StoreSlot {
    pub fn new() -> Self {
        StoreSlot::default()
    }

    /// Sets the store: requests are served from now on. False: there was one already, and nothing changes.
    pub fn set(&self, store: Store) -> bool {
        let start_time = store.read_time().now;
        self.filled.set(Filled { store, start_time }).is_ok()
    }

    /// Says why the store is not open yet.
    pub fn set_waiting_for(&self, what: String) {
        *self.waiting_for.lock() = Some(what);
    }

    /// The store; `STORE_UNAVAILABLE` while it is not open.
    pub(super) fn get(&self) -> Result<&Store, Problem> {
        self.filled.get().map(|filled| &filled.store).ok_or_else(|| self.not_open())
    }

    /// When the store was set, which is the start of this run. `STORE_UNAVAILABLE` while it is not open.
    pub(super) fn start_time(&self) -> Result<Timestamp, Problem> {
        self.filled.get().map(|filled| filled.start_time).ok_or_else(|| self.not_open())
    }

    fn not_open(&self) -> Problem {
        let what = self.waiting_for.lock().clone();
        Problem::from(StoreError::Unavailable(what.unwrap_or_else(|| "it is not open yet".into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_is_unavailable_and_says_when_to_retry() {
        let problem = StoreSlot::new().get().err().unwrap();
        assert_eq!((problem.code, problem.reason), (tonic::Code::Unavailable, "STORE_UNAVAILABLE"));
        assert!(problem.retry_after.is_some());
    }
}
