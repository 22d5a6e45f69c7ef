//! Records calls: their times by rpc, in HDR histograms with three digits, and the number of failures.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tonic::Status;

use crate::cli::errors::CliError;

/// The longest recorded time: a minute, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

const ALL: [(Rpc, &str); 8] = [
    (Rpc::CreateSaga, "CreateSaga"),
    (Rpc::Claim, "Claim"),
    (Rpc::ClaimNext, "ClaimNext"),
    (Rpc::Heartbeat, "Heartbeat"),
    (Rpc::Complete, "Complete"),
    (Rpc::KeepAlive, "KeepAlive"),
    (Rpc::WatchEvents, "WatchEvents"),
    (Rpc::Check, "Check"),
];

/// Times, in nanoseconds.
#[derive(Clone)]
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub fn new() -> Result<Self, CliError> {
        Histogram::new_with_bounds(1, LONGEST, DIGITS).map(Times).map_err(|error| CliError::Failed(error.to_string()))
    }

    /// One more; beyond a minute it counts as a minute.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Times) -> Result<(), CliError> {
        self.0.add(&other.0).map_err(|error| CliError::Failed(error.to_string()))
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

/// The calls of one thread's clients.
pub struct BenchTotals {
    times: Vec<Times>,
    /// Calls that failed.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl BenchTotals {
    /// Nothing yet.
    pub fn new() -> Result<Self, CliError> {
        let times = ALL.iter().map(|_| Times::new()).collect::<Result<_, _>>()?;
        Ok(BenchTotals { times, errors: 0, first_error: None })
    }

    /// Records a successful call.
    pub fn record(&mut self, rpc: Rpc, nanos: u64) {
        if let Some(times) = self.times.get_mut(rpc as usize) {
            times.record(nanos);
        }
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
    pub fn add(&mut self, other: &BenchTotals) -> Result<(), CliError> {
        self.errors += other.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        self.times.iter_mut().zip(&other.times).try_for_each(|(ours, theirs)| ours.add(theirs))
    }

    /// The rpcs that were called, with their times.
    pub fn rpcs(&self) -> impl Iterator<Item = (&'static str, &Times)> {
        ALL.iter().zip(&self.times).filter(|(_, times)| times.count() > 0).map(|((_, name), times)| (*name, times))
    }

    /// All of them together.
    pub fn overall(&self) -> Result<Times, CliError> {
        let mut overall = Times::new()?;
        self.times.iter().try_for_each(|times| overall.add(times))?;
        Ok(overall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rpc_has_its_place() {
        let mut totals = BenchTotals::new().expect("bounds are sound");
        for (place, (rpc, _)) in ALL.iter().enumerate() {
            assert_eq!(*rpc as usize, place);
            (0..=place).for_each(|_| totals.record(*rpc, 1));
        }
        let counts: Vec<_> = totals.rpcs().map(|(name, times)| (name, times.count())).collect();
        assert_eq!(counts, ALL.iter().map(|(_, name)| *name).zip(1..).collect::<Vec<_>>());
        assert_eq!(totals.overall().expect("bounds are the same").count(), 36);
    }

    #[test]
    fn quantiles_are_in_order_and_in_microseconds() {
        let mut times = Times::new().expect("bounds are sound");
        (1..=1000).for_each(|millis| times.record(millis * 1_000_000));
        let json = times.json();
        let values: Vec<f64> = ["p50", "p90", "p99", "p999", "max"].map(|key| json[key].as_f64().expect(key)).into();
        assert!(values.is_sorted(), "{json}");
        assert!((values[0] - 500_000.0).abs() < 1000.0 && (values[4] - 1_000_000.0).abs() < 1000.0, "{json}");
        times.record(u64::MAX);
        assert!(times.max_micros() > 59_000_000.0, "beyond the bound it counts as the bound");
        assert_eq!(Times::new().expect("bounds are sound").json()["max"], 0.0);
    }
}
