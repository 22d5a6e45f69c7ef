//! Histograms in atomics: one with a few fixed bounds, for metrics that add up over time, and one of the last minute,
//! fine enough for quantiles.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::domain::time::{Span, Timestamp};

/// Bounds of times, in microseconds: 50 µs to 10 s.
pub(super) const MICROS: &[u64] = &[
    50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
/// Bounds of the number of changes in a batch.
pub(super) const BATCH_SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384, 65_536];

/// A histogram with fixed bounds.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [u64],
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// The contents of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// The upper bound of each bucket; a last bucket holds what is above them.
    pub bounds: &'static [u64],
    /// The number of values in each bucket; not cumulative.
    pub counts: Vec<u64>,
    /// All values together.
    pub sum: u64,
}

impl HistogramSnapshot {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Histogram {
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    pub(super) fn record(&self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(super) fn read(&self) -> HistogramSnapshot {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        HistogramSnapshot { bounds: self.bounds, counts, sum: self.sum.load(Relaxed) }
    }
}

/// The length of a slot of the sliding window, in microseconds.
const SLOT: i64 = 10_000_000;
/// The number of slots: the last six and the current one.
const SLOTS: usize = 7;
/// Each power of two is split into this many buckets, so a quantile is at most an eighth too high.
const CUTS: u64 = 8;
/// The largest exponent with its own buckets: two minutes.
const EXPONENTS: u64 = 27;
const FINE: usize = ((EXPONENTS - 2) * CUTS + CUTS) as usize;

/// Durations of about the last minute, in microseconds. Only one thread records.
#[derive(Debug, Default)]
pub(super) struct SlidingWindow([Slot; SLOTS]);

#[derive(Debug)]
struct Slot {
    /// Which ten seconds these are.
    number: AtomicU64,
    counts: Box<[AtomicU32]>,
    max: AtomicU64,
}

impl Default for Slot {
    fn default() -> Self {
        Slot {
            number: AtomicU64::new(0),
            counts: (0..FINE).map(|_| AtomicU32::new(0)).collect(),
            max: AtomicU64::new(0),
        }
    }
}

/// Quantiles of about the last minute: of the last fifty to sixty seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastMinute {
    /// How many there were.
    pub count: u64,
    /// The median; up to an eighth too high.
    pub p50: Span,
    /// The 99th percentile; up to an eighth too high.
    pub p99: Span,
    /// The maximum.
    pub max: Span,
}

impl SlidingWindow {
    pub(super) fn record(&self, now: Timestamp, micros: u64) {
        let number = slot_number(now);
        let slot = &self.0[number as usize % SLOTS];
        if slot.number.load(Relaxed) != number {
            slot.counts.iter().for_each(|count| count.store(0, Relaxed));
            slot.max.store(0, Relaxed);
            slot.number.store(number, Relaxed);
        }
        slot.counts[place(micros)].fetch_add(1, Relaxed);
        slot.max.fetch_max(micros, Relaxed);
    }

    pub(super) fn read(&self, now: Timestamp) -> LastMinute {
        let newest = slot_number(now);
        let oldest = newest.saturating_sub(SLOTS as u64 - 2);
        let slots = || self.0.iter().filter(|slot| (oldest..=newest).contains(&slot.number.load(Relaxed)));
        let mut counts = [0_u64; FINE];
        for slot in slots() {
            counts.iter_mut().zip(&slot.counts).for_each(|(all, count)| *all += u64::from(count.load(Relaxed)));
        }
        let count = counts.iter().sum();
        let max = slots().map(|slot| slot.max.load(Relaxed)).max().unwrap_or(0);
        let span = |micros: u64| Span::from_micros(micros.min(max) as i64).unwrap_or(Span::ZERO);
        let quantile = |share: f64| {
            let rank = (count as f64 * share).ceil() as u64;
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= rank.max(1)
            });
            span(found.map_or(max, largest))
        };
        if count == 0 {
            return LastMinute::default();
        }
        LastMinute { count, p50: quantile(0.5), p99: quantile(0.99), max: span(max) }
    }
}

fn slot_number(now: Timestamp) -> u64 {
    // Never 0, which marks an unused slot.
    now.micros().div_euclid(SLOT).max(0) as u64 + 1
}

/// The bucket of a value: exact below eight, then an eighth of each power of two.
fn place(micros: u64) -> usize {
    if micros < CUTS {
        return micros as usize;
    }
    let exponent = u64::from(micros.ilog2());
    let cut = (micros >> (exponent - 3)) & (CUTS - 1);
    (((exponent - 2) * CUTS + cut) as usize).min(FINE - 1)
}

/// The largest value of a bucket.
fn largest(place: usize) -> u64 {
    let place = place as u64;
    if place < CUTS {
        return place;
    }
    if place as usize == FINE - 1 {
        return u64::MAX;
    }
    let (exponent, cut) = (place / CUTS + 2, place % CUTS);
    ((CUTS + cut + 1) << (exponent - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn a_value_is_in_the_bucket_of_the_first_bound_that_is_not_below_it() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, 1000].iter().for_each(|value| histogram.record(*value));
        let read = histogram.read();
        assert_eq!((read.counts.as_slice(), read.sum, read.count()), ([2, 2, 2].as_slice(), 1024, 6));
    }

    #[test]
    fn fine_places_are_in_order_and_an_eighth_wide() {
        let mut last = 0;
        for micros in (0..4096).chain((12..27).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 1])) {
            let place = place(micros);
            assert!(place >= last, "{micros}");
            last = place;
            let most = largest(place);
            assert!(most >= micros && most <= micros + micros / 8 + 1, "{micros}: {most}");
        }
        assert_eq!(place(u64::MAX), FINE - 1);
    }

    #[test]
    fn a_minute_forgets_what_is_older() {
        let sliding = SlidingWindow::default();
        assert_eq!(sliding.read(at(0)), LastMinute::default());
        (0..99).for_each(|_| sliding.record(at(5), 100));
        sliding.record(at(14), 5_000_000);
        let minute = sliding.read(at(20));
        assert_eq!((minute.count, minute.max), (100, Span::from_secs(5)));
        assert!(minute.p50.micros() >= 100 && minute.p99.micros() < 115, "{minute:?}");
        assert_eq!(sliding.read(at(62)).count, 1, "the first ten seconds are gone");
        assert_eq!(sliding.read(at(62)).p50, Span::from_secs(5));
        assert_eq!(sliding.read(at(200)), LastMinute::default());
        sliding.record(at(75), 7);
        assert_eq!(
            sliding.read(at(76)),
            LastMinute {
                count: 1,
                p50: Span::from_micros(7).unwrap(),
                p99: Span::from_micros(7).unwrap(),
                max: Span::from_micros(7).unwrap()
            }
        );
    }
}
