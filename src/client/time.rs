//! The client's clocks. Leases are measured on a clock that is not affected by steps of the wall clock and that
//! continues while the machine sleeps: a laptop that wakes up must find its lease expired, not paused.

// The one file of the client that reads a clock; everything else is handed a `Moment`.
#![allow(clippy::disallowed_methods)]

use std::{
    ops::{Add, Sub},
    time::Duration,
};

use chrono::{DateTime, Utc};
use rustix::time::{ClockId, clock_gettime};

/// On Linux `CLOCK_MONOTONIC` stops in suspend, and `CLOCK_BOOTTIME` doesn't; other systems use monotonic.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The runtime's timers stop in suspend, so a long sleep checks the clock this often.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// A point in time since this machine started; comparable only on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Microseconds since the machine started, to pass to another process on it.
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }

    /// The moment from [`Moment::as_micros`].
    pub fn from_micros(micros: u64) -> Self {
        Moment(Duration::from_micros(micros))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, length: Duration) -> Moment {
        Moment(self.0.saturating_add(length))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;

    fn sub(self, length: Duration) -> Moment {
        Moment(self.0.saturating_sub(length))
    }
}

/// The present moment.
pub fn now() -> Moment {
    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Moment(Duration::new(seconds, nanos))
}

/// The wall clock: for showing times to people, never for deciding about a lease.
pub fn utc_now() -> DateTime<Utc> {
    Utc::now()
}

/// Sleeps until `moment`, at most a second late after the machine was suspended.
pub async fn sleep_until(moment: Moment) {
    loop {
        let left = moment.since(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(MAX_SLEEP)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_never_go_below_zero() {
        let moment = now();
        assert_eq!(moment.since(moment + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((moment + Duration::from_secs(2)).since(moment), Duration::from_secs(2));
    }
}
