//! The only module that reads clocks. Everywhere else time is an argument.
//!
//! The coordinator's clock is set once, at start, to the later of UTC and the newest time in the store. From then on
//! it advances with the machine's boot-time clock, which is not affected by steps of the wall clock and continues
//! while the machine is suspended. So it never goes back, in a run or across restarts.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::{
    domain::time::{Span, Timestamp},
    mutants::{self, Mutant},
};

/// Tells the coordinator's time.
pub trait Clock: Send + Sync + 'static {
    /// The time now. Never before what an earlier call returned.
    fn now(&self) -> Timestamp;

    /// Makes `now` return at least `time` from here on. Called with the newest time found in the store.
    fn advance_to(&self, time: Timestamp);

    /// The wall clock, to show how far the coordinator's clock is from it.
    fn utc(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    /// What to add to the boot-time clock, in microseconds.
    offset: AtomicI64,
}

impl SystemClock {
    /// A clock that begins at the wall clock's UTC.
    pub fn start() -> Self {
        SystemClock { offset: AtomicI64::new(wall_clock_micros() - boot_time_micros()) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        if mutants::on(Mutant::WallClock) {
            return self.utc();
        }
        Timestamp::from_micros(boot_time_micros().saturating_add(self.offset.load(Ordering::Acquire)))
    }

    fn advance_to(&self, time: Timestamp) {
        self.offset.fetch_max(time.micros().saturating_sub(boot_time_micros()), Ordering::AcqRel);
    }

    fn utc(&self) -> Timestamp {
        Timestamp::from_micros(wall_clock_micros())
    }
}

fn boot_time_micros() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall_clock_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// A clock that moves only when told to: for tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `time`.
    pub fn at(time: Timestamp) -> Self {
        ManualClock { now: AtomicI64::new(time.micros()) }
    }

    /// Moves it on.
    pub fn advance(&self, span: Span) {
        self.now.fetch_add(span.micros(), Ordering::AcqRel);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::Acquire))
    }

    fn advance_to(&self, time: Timestamp) {
        self.now.fetch_max(time.micros(), Ordering::AcqRel);
    }

    fn utc(&self) -> Timestamp {
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_begins_at_the_later_of_utc_and_the_store() {
        let clock = SystemClock::start();
        let utc = clock.utc();
        assert!(clock.now().since(utc) < Span::from_secs(5) && utc.since(clock.now()) < Span::from_secs(5));

        let ahead = utc.plus(Span::from_secs(3600));
        clock.advance_to(ahead);
        assert!(clock.now() >= ahead);
        clock.advance_to(utc);
        assert!(clock.now() >= ahead, "it never goes back");
    }
}
