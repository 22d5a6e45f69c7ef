//! [`StoreSlot`]: where the store will be. The services listen before the store is open, so that clients meet
//! `STORE_UNAVAILABLE` and a health check, and not a refused connection, while a large store is being checked.

use std::sync::{Arc, OnceLock};

use crate::{
    domain::time::Timestamp,
    store::{Store, StoreError},
};

use super::status::Problem;

/// A place for one store, filled once; cheap to clone.
#[derive(Clone, Default)]
pub struct StoreSlot {
    filled: Arc<OnceLock<Filled>>,
}

struct Filled {
    store: Store,
    start_time: Timestamp,
}

impl StoreSlot {
    /// A place without a store yet.
    pub fn new() -> Self {
        StoreSlot::default()
    }

    /// Puts the store there: from now on requests are served. Returns whether it was the first; a later one changes
    /// nothing.
    pub fn set(&self, store: Store) -> bool {
        let start_time = store.read_time().now;
        self.filled.set(Filled { store, start_time }).is_ok()
    }

    /// The store; `STORE_UNAVAILABLE` while there is none.
    pub(super) fn get(&self) -> Result<&Store, Problem> {
        self.filled.get().map(|filled| &filled.store).ok_or_else(not_open)
    }

    /// When the store was put there: the start of this run. `STORE_UNAVAILABLE` while there is none.
    pub(super) fn start_time(&self) -> Result<Timestamp, Problem> {
        self.filled.get().map(|filled| filled.start_time).ok_or_else(not_open)
    }
}

fn not_open() -> Problem {
    Problem::from(StoreError::Unavailable("it is not open yet".into()))
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
