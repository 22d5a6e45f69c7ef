//! [`StatsKept`]: the counts of the store, which cost a read, no older than they have to be.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    domain::time::{Span, Timestamp},
    store::{Stats, Store},
};

/// How old counts may be before they are read again.
const AGE: Span = Span::from_secs(10);
/// Reading takes at most this part of the time: a large store is counted more seldom.
const SHARE: i64 = 20;
/// How long whoever asks waits for new counts before it gets the old ones. Scrapers give up after 10 s as a rule.
const WAIT: Duration = Duration::from_secs(2);

/// Counts as they were read last.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) stats: Stats,
    /// When reading began.
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
    /// The counts, read anew if they are old. None: they could not be read in time.
    pub(super) async fn read(&self, store: &Store) -> Option<Arc<Kept>> {
        if self.are_old(store)
            && let Ok(turn) = self.reading.clone().try_acquire_owned()
        {
            let (store, kept) = (store.clone(), self.kept.clone());
            // It goes on when whoever asked has gone, so that what it has read is not lost.
            let reading = tokio::spawn(async move {
                let _turn = turn;
                let at = store.read_time().now;
                if let Ok(stats) = store.stats().await {
                    let took = store.read_time().now.since(at);
                    *kept.lock() = Some(Arc::new(Kept { stats, at, took }));
                }
            });
            let _ = timeout(WAIT, reading).await;
        }
        self.kept.lock().clone()
    }

    fn are_old(&self, store: &Store) -> bool {
        self.kept.lock().as_ref().is_none_or(|kept| {
            let age = store.read_time().now.since(kept.at);
            age >= AGE && age.micros() >= kept.took.micros().saturating_mul(SHARE)
        })
    }
}
