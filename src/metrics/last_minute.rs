//! [`SlidingWindow`]: durations of about the last minute, fine enough for quantiles, for `GetVitals`.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::domain::time::{Span, Timestamp};

/// The length of a slot, in microseconds.
const SLOT: i64 = 10_000_000;
/// The number of slots: the last six and the current one.
const SLOTS: usize = 7;
/// The longest duration that is told from longer ones, in microseconds: two minutes.
const LONGEST: u64 = 120_000_000;
/// With one significant digit a quantile is at most a sixteenth too high, and a slot takes 2 KiB.
const DIGITS: u8 = 1;

/// Durations of about the last minute.
#[derive(Debug)]
pub(crate) struct SlidingWindow(Mutex<[Slot; SLOTS]>);

#[derive(Debug)]
struct Slot {
    /// Which ten seconds these are.
    number: i64,
    durations: Histogram<u32>,
    /// The longest, exactly.
    max: u64,
}

/// Quantiles of about the last minute: of the last fifty to sixty seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastMinute {
    /// How many there were.
    pub count: u64,
    /// The median; up to a sixteenth too high.
    pub p50: Span,
    /// The 99th percentile; up to a sixteenth too high.
    pub p99: Span,
    /// The maximum.
    pub max: Span,
}

fn empty() -> Histogram<u32> {
    Histogram::new_with_max(LONGEST, DIGITS).expect("the bounds of the histogram are valid constants")
}

impl Default for SlidingWindow {
    fn default() -> Self {
        SlidingWindow(Mutex::new(std::array::from_fn(|_| Slot { number: i64::MIN, durations: empty(), max: 0 })))
    }
}

impl SlidingWindow {
    pub(crate) fn record(&self, now: Timestamp, micros: u64) {
        let number = slot_number(now);
        let slot = &mut self.0.lock()[number.rem_euclid(SLOTS as i64) as usize];
        if slot.number != number {
            slot.durations.reset();
            (slot.number, slot.max) = (number, 0);
        }
        slot.durations.saturating_record(micros);
        slot.max = slot.max.max(micros);
    }

    pub(crate) fn read(&self, now: Timestamp) -> LastMinute {
        let newest = slot_number(now);
        let oldest = newest - (SLOTS as i64 - 2);
        let (mut all, mut max) = (empty(), 0);
        for slot in self.0.lock().iter().filter(|slot| (oldest..=newest).contains(&slot.number)) {
            all.add(&slot.durations).expect("all slots have the same bounds");
            max = max.max(slot.max);
        }
        if all.is_empty() {
            return LastMinute::default();
        }
        let span = |micros: u64| Span::from_micros(micros.min(max) as i64).unwrap_or(Span::ZERO);
        let quantile = |share| span(all.value_at_quantile(share));
        LastMinute { count: all.len(), p50: quantile(0.5), p99: quantile(0.99), max: span(max) }
    }
}

fn slot_number(now: Timestamp) -> i64 {
    now.micros().div_euclid(SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn quantiles_are_at_most_a_sixteenth_too_high() {
        for micros in (1..4096).chain((12..26).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 1])) {
            let window = SlidingWindow::default();
            window.record(at(1), micros);
            window.record(at(1), 2 * LONGEST);
            let minute = window.read(at(1));
            let p50 = minute.p50.micros() as u64;
            assert!(p50 >= micros && p50 <= micros + micros / 16 + 1, "{micros}: {p50}");
            assert_eq!(minute.max.micros() as u64, 2 * LONGEST, "exactly, however long");
        }
    }

    #[test]
    fn values_older_than_a_minute_are_dropped() {
        let window = SlidingWindow::default();
        assert_eq!(window.read(at(0)), LastMinute::default());
        (0..99).for_each(|_| window.record(at(5), 100));
        window.record(at(14), 5_000_000);
        let minute = window.read(at(20));
        assert_eq!((minute.count, minute.max), (100, Span::from_secs(5)));
        assert!(minute.p50.micros() >= 100 && minute.p99.micros() < 115, "{minute:?}");
        assert_eq!(window.read(at(62)).count, 1, "the first ten seconds are gone");
        assert_eq!(window.read(at(62)).p50, Span::from_secs(5));
        assert_eq!(window.read(at(200)), LastMinute::default());
        window.record(at(75), 7);
        let seven = Span::from_micros(7).unwrap();
        assert_eq!(window.read(at(76)), LastMinute { count: 1, p50: seven, p99: seven, max: seven });
    }
}
