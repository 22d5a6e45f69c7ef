//! [`StatsCache`]: caches the store's counts, because each read of them costs time.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    domain::time::{Span, Timestamp},
    store::{Stats, Store},
};

/// How old counts may be before they are read again.
const AGE_MAX: Span = Span::from_secs(10);
/// Reading takes at most one part in this many of the time, so a large store is counted less often.
const SHARE: i64 = 20;
/// How long a caller waits for new counts before it gets the old ones. Scrapers usually give up after 10 s.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The counts of one read.
#[derive(Clone, Debug)]
pub(super) struct CachedStats {
    pub(super) stats: Stats,
    /// When the read began.
    pub(super) at: Timestamp,
    took: Span,
}

#[derive(Clone, Debug)]
pub(super) struct StatsCache {
    cached: Arc<Mutex<Option<Arc<CachedStats>>>>,
    reading: Arc<Semaphore>,
}

impl Default for StatsCache {
    fn default() -> Self {
        StatsCache { cached: Arc::default(), reading: Arc::new(Semaphore::new(1)) }
    }
}

impl StatsCache {
    /// The counts, read again if they are old. None: the first read has not finished in time.
    pub(super) async fn read(&self, store: &Store) -> Option<Arc<CachedStats>> {
        if self.is_outdated(store)
            && let Ok(permit) = self.reading.clone().try_acquire_owned()
        {
            let (store, cached) = (store.clone(), self.cached.clone());
            // The read goes on if the caller gives up, so that its result is cached.
            let reading = tokio::spawn(async move {
                let _permit = permit;
                let at = store.read_time().now;
                if let Ok(stats) = store.stats().await {
                    let took = store.read_time().now.since(at);
                    *cached.lock() = Some(Arc::new(CachedStats { stats, at, took }));
                }
            });
            let _ = timeout(WAIT_MAX, reading).await;
        }
        self.cached.lock().clone()
    }

    fn is_outdated(&self, store: &Store) -> bool {
        self.cached.lock().as_ref().is_none_or(|cached| {
            let age = store.read_time().now.since(cached.at);
            age >= AGE_MAX && age.micros() >= cached.took.micros().saturating_mul(SHARE)
        })
    }
}
