//! [`BenchTotals`]: the calls of a run: their times by rpc, in HDR histograms with three digits, and the number of failures.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tonic::Status;

/// The longest recorded time: a minute, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;

/// What is timed. Its name in the report is its name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rpc {
    CreateSaga,
    Claim,
    ClaimNext,
    Heartbeat,
    Complete,
    KeepAlive,
    /// From the sending of a change to its event.
    WatchEvents,
    /// `grpc.health.v1.Health/Check`.
    Check,
}

/// Times, in nanoseconds.
#[derive(Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Times(Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds and digits are within the library's"))
    }
}

impl Times {
    /// One more; beyond a minute it counts as a minute.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Times) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// A quantile in microseconds; zero if there are no times.
    pub fn micros(&self, part: f64) -> f64 {
        micros(self.0.value_at_quantile(part))
    }

    /// The longest, in microseconds.
    pub fn max_micros(&self) -> f64 {
        micros(self.0.max())
    }

    /// The reported quantiles as JSON, in microseconds.
    pub fn json(&self) -> Value {
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|part| self.micros(part).min(self.max_micros()));
        json!({ "count": self.count(), "p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": self.max_micros() })
    }
}

/// Rounded to a tenth, which is the precision.
#[allow(clippy::cast_precision_loss)]
fn micros(nanos: u64) -> f64 {
    (nanos as f64 / 100.0).round() / 10.0
}

/// The calls of one thread's clients, or of all.
#[derive(Default)]
pub struct BenchTotals {
    times: BTreeMap<Rpc, Times>,
    /// Calls that failed.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl BenchTotals {
    /// Records a successful call.
    pub fn record(&mut self, rpc: Rpc, nanos: u64) {
        self.times.entry(rpc).or_default().record(nanos);
    }

    /// Records a failed call.
    pub fn failed(&mut self, status: &Status) {
        self.failure(|| format!("{:?}: {}", status.code(), status.message()));
    }

    /// Records a failure described in words.
    pub fn failure(&mut self, what: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(what);
    }

    /// Adds the totals of another thread.
    pub fn add(&mut self, other: BenchTotals) {
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        for (rpc, times) in &other.times {
            self.times.entry(*rpc).or_default().add(times);
        }
    }

    /// The rpcs that were called, with their times.
    pub fn rpcs(&self) -> impl Iterator<Item = (String, &Times)> {
        self.times.iter().map(|(rpc, times)| (format!("{rpc:?}"), times))
    }

    /// All of them together.
    pub fn overall(&self) -> Times {
        let mut overall = Times::default();
        self.times.values().for_each(|times| overall.add(times));
        overall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_count_calls_by_rpc_and_can_be_added() {
        let mut totals = BenchTotals::default();
        (0..2).for_each(|_| totals.record(Rpc::Heartbeat, 1));
        totals.record(Rpc::CreateSaga, 1);
        let mut other = BenchTotals::default();
        (0..4).for_each(|_| other.record(Rpc::Heartbeat, 1));
        other.record(Rpc::Check, 1);
        other.failure(|| "refused".to_owned());
        totals.add(other);
        let counts: Vec<_> = totals.rpcs().map(|(name, times)| (name, times.count())).collect();
        assert_eq!(counts, [("CreateSaga", 1), ("Heartbeat", 6), ("Check", 1)].map(|(name, n)| (name.to_owned(), n)));
        assert_eq!(totals.overall().count(), 8);
        assert_eq!((totals.errors, totals.first_error.as_deref()), (1, Some("refused")));
    }

    #[test]
    fn quantiles_are_in_order_and_in_microseconds() {
        let mut times = Times::default();
        (1..=1000).for_each(|millis| times.record(millis * 1_000_000));
        let json = times.json();
        let values: Vec<f64> = ["p50", "p90", "p99", "p999", "max"].map(|key| json[key].as_f64().expect(key)).into();
        assert!(values.is_sorted(), "{json}");
        assert!((values[0] - 500_000.0).abs() < 1000.0 && (values[4] - 1_000_000.0).abs() < 1000.0, "{json}");
        times.record(u64::MAX);
        assert!(times.max_micros() > 59_000_000.0, "a longer time counts as the bound");
        assert_eq!(Times::default().json()["max"], 0.0);
    }
}
