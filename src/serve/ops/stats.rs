//! [`StatsCache`]: caches the store's counts, because each read of them costs time.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    domain::time::{Span, Timestamp},
    store::{Stats, Store},
};

/// How old counts may be before they are read again.
const AGE: Span = Span::from_secs(10);
/// Reading takes at most one part in this many of the time, so a large store is counted less often.
const SHARE: i64 = 20;
/// How long a caller waits for new counts before it gets the old ones. Scrapers usually give up after 10 s.
const WAIT: Duration = Duration::from_secs(2);

/// The counts of one read.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) stats: Stats,
    /// When the read began.
    pub(super) at: Timestamp,
    took: Span,
}

#[derive(Clone, Debug)]
pub(super) struct StatsKept {
    kept: Arc<Mutex<Option<Arc<Kept>>>>,
    reading: Arc<Semaphore>,
}

impl Default for StatsKept {
    fn default() -> Self {
        StatsKept { kept: Arc::default(), reading: Arc::new(Semaphore::new(1)) }
    }
}

impl StatsKept {
    /// The counts, read again if they are old. None: the first read has not finished in time.
    pub(super) async fn read(&self, store: &Store) -> Option<Arc<Kept>> {
        if self.are_old(store)
            && let Ok(turn) = self.reading.clone().try_acquire_owned()
        {
            let (store, kept) = (store.clone(), self.kept.clone());
            // The read goes on if the caller gives up, so that its result is cached.
            let reading = tokio::spawn(async move {
                let _turn = turn;
                let at = store.moment().now;
                if let Ok(stats) = store.stats().await {
                    let took = store.moment().now.since(at);
                    *kept.lock() = Some(Arc::new(Kept { stats, at, took }));
                }
            });
            let _ = timeout(WAIT, reading).await;
        }
        self.kept.lock().clone()
    }

    fn are_old(&self, store: &Store) -> bool {
        self.kept.lock().as_ref().is_none_or(|kept| {
            let age = store.moment().now.since(kept.at);
            age >= AGE && age.micros() >= kept.took.micros().saturating_mul(SHARE)
        })
    }
}
