//! [`Window`]: the measured period, set while the load is running, so that the figures include neither its start nor
//! its end.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::client::time::{self, Moment};

/// The measured period. Times within a run are nanoseconds since its start.
pub struct Window {
    begun: Moment,
    from: AtomicU64,
    to: AtomicU64,
    ready: Semaphore,
    /// Cancelled when the period is over; all waits then end.
    pub over: CancellationToken,
}

impl Window {
    /// A period that has not started.
    pub fn new() -> Self {
        Window {
            begun: time::now(),
            from: AtomicU64::new(u64::MAX),
            to: AtomicU64::new(u64::MAX),
            ready: Semaphore::new(0),
            over: CancellationToken::new(),
        }
    }

    /// The time since the start of the run, in nanoseconds.
    pub fn now(&self) -> u64 {
        nanos(time::now().since(self.begun))
    }

    /// A client reports that it is ready.
    pub fn ready(&self) {
        self.ready.add_permits(1);
    }

    /// Waits until this many clients are ready.
    pub async fn all_ready(&self, count: u32) {
        // It is never closed.
        if let Ok(permits) = self.ready.acquire_many(count).await {
            permits.forget();
        }
    }

    /// Starts the period now, for this long.
    pub fn open(&self, length: Duration) {
        let now = self.now();
        // If it was ended before, it stays ended.
        self.to.fetch_min(now.saturating_add(nanos(length)), Ordering::Relaxed);
        self.from.store(now, Ordering::Relaxed);
    }

    /// Ends the period now, unless it has ended.
    pub fn close(&self) {
        self.to.fetch_min(self.now(), Ordering::Relaxed);
        self.over.cancel();
    }

    /// True if it has started. It may be over.
    pub fn has_begun(&self) -> bool {
        self.from.load(Ordering::Relaxed) != u64::MAX
    }

    /// True if it is over by this time.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.to.load(Ordering::Relaxed)
    }

    /// True if a call lies completely within it.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        start >= self.from.load(Ordering::Relaxed) && end <= self.to.load(Ordering::Relaxed)
    }

    /// How long it was; zero if it ended before it began.
    pub fn length(&self) -> Duration {
        let (from, to) = (self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed));
        Duration::from_nanos(to.saturating_sub(from))
    }
}

/// Ends the window when the run ends, however it ends, so that the threads of the load end.
pub struct CloseOnDrop<'a>(pub &'a Window);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// As a number; five hundred years fit.
fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_covers_only_calls_within_it() {
        let window = Window::new();
        assert!(!window.covers(0, 1), "the window is not open yet");
        assert!(!window.is_over(window.now()) && !window.has_begun());
        window.open(Duration::from_secs(60));
        assert!(window.has_begun());
        let now = window.now();
        assert!(window.covers(now, now + 1) && !window.covers(0, now));
        assert!(!window.covers(now, now + 61_000_000_000) && window.is_over(now + 61_000_000_000));
        window.close();
        assert!(window.is_over(window.now()) && window.over.is_cancelled());
        assert!(window.length() < Duration::from_secs(60));
    }

    #[test]
    fn a_window_closed_before_it_opens_has_no_length() {
        let window = Window::new();
        window.close();
        std::thread::sleep(Duration::from_millis(2));
        window.open(Duration::from_secs(1));
        assert_eq!(window.length(), Duration::ZERO);
    }
}
