//! Durations, and waiting for conditions.

use std::{
    future::Future,
    thread,
    time::{Duration, Instant, SystemTime},
};

use prost_types::Timestamp;

/// How long a test waits for something that must happen soon. It is only reached when something is wrong, so it is long.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// The monotonic clock, for measuring.
#[allow(clippy::disallowed_methods, reason = "a test measures from outside; the code under test is told the time")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, as the time since 1970.
#[allow(clippy::disallowed_methods, reason = "compared with times that the daemon shows")]
pub fn since_1970() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

/// A duration on the wire.
pub fn ms(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().unwrap())
}

/// A duration on the wire.
pub fn secs(seconds: u64) -> Option<prost_types::Duration> {
    ms(seconds * 1000)
}

/// A time on the wire, as microseconds since 1970.
pub fn micros(time: Option<&Timestamp>) -> i64 {
    let time = time.expect("the time is never absent");
    assert_eq!(time.nanos % 1000, 0, "times have microseconds");
    time.seconds * 1_000_000 + i64::from(time.nanos / 1000)
}

/// Calls `ask` until it returns something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Calls `yes` until it returns true, blocking the thread.
pub fn until(what: &str, mut yes: impl FnMut() -> bool) {
    let begun = now();
    while !yes() {
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(25));
    }
}
