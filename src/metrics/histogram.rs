//! [`Histogram`]: values counted in atomics by a few fixed bounds, which `/metrics` shows as they are.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bounds of times, in microseconds: 50 µs to 10 s.
pub(crate) const MICROS: &[u64] = &[
    50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
/// Bounds of the number of changes in a batch.
pub(crate) const BATCH_SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384, 65_536];

/// A histogram with fixed bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
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
    pub(crate) fn new(bounds: &'static [u64]) -> Self {
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    pub(crate) fn record(&self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(crate) fn read(&self) -> HistogramSnapshot {
        let counts = self.counts.iter().map(|count| count.load(Relaxed)).collect();
        HistogramSnapshot { bounds: self.bounds, counts, sum: self.sum.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_of_the_first_bound_that_is_not_below_it() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, 1000].iter().for_each(|value| histogram.record(*value));
        let read = histogram.read();
        assert_eq!((read.counts.as_slice(), read.sum, read.count()), ([2, 2, 2].as_slice(), 1024, 6));
    }
}
