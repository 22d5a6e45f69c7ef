//! Lengths of time, and waiting for conditions instead of for time to pass.

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

use prost_types::Timestamp;

/// How long a test waits for what has to happen soon. It only ever runs out when something is wrong, so it is generous.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For measuring how long something takes.
#[allow(clippy::disallowed_methods, reason = "a test measures from outside; the code under test is told the time")]
pub fn now() -> Instant {
    Instant::now()
}

/// A length on the wire.
pub fn ms(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().unwrap())
}

/// A length on the wire.
pub fn secs(seconds: u64) -> Option<prost_types::Duration> {
    ms(seconds * 1000)
}

/// A time on the wire, as microseconds since 1970.
pub fn micros(time: Option<&Timestamp>) -> i64 {
    let time = time.expect("the time is never absent");
    assert_eq!(time.nanos % 1000, 0, "times have microseconds");
    time.seconds * 1_000_000 + i64::from(time.nanos / 1000)
}

/// Asks again until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks until the answer is yes, while nothing else in this thread goes on.
pub fn until(what: &str, mut yes: impl FnMut() -> bool) {
    let begun = now();
    while !yes() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(25));
    }
}
