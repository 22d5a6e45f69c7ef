//! [`BenchReport`]: the results: one JSON object for programs, or a table for people.

use serde_json::{Value, json};

use super::{
    args::{Ids, Plan},
    background_load::BackgroundResults,
    totals::{BenchTotals, Times},
};
use crate::cli::{
    errors::CliError,
    output::{Cell, Format, Output},
    text,
};

/// The daemon's resource usage; only known for the bench's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct DaemonUsage {
    /// Processor time while it was measured, in seconds.
    pub cpu_seconds: Option<f64>,
    /// The same as a number of cores.
    pub cpu_cores: Option<f64>,
    /// Resident memory at the end of the measurement.
    pub rss_bytes: Option<u64>,
    /// Resident memory once it had answered for the first time.
    pub rss_idle_bytes: Option<u64>,
    /// The write-ahead log at the end of the measurement.
    pub wal_bytes: u64,
    /// Its largest size, preloading included.
    pub wal_bytes_max: u64,
    /// From its start to its first answer on an empty store, in milliseconds.
    pub start_ms: f64,
    /// The same on the store that the run left; only if asked for.
    pub restart_ms: Option<f64>,
    /// Resident memory after that.
    pub restart_rss_bytes: Option<u64>,
}

/// All results.
pub struct BenchReport {
    pub plan: Plan,
    /// How long it measured, in seconds.
    pub seconds: f64,
    pub totals: BenchTotals,
    pub overall: Times,
    /// Empty calls with nothing beside them.
    pub empty: Times,
    /// None if the daemon's disk is not known.
    pub fdatasync: Option<Times>,
    pub server: Option<DaemonUsage>,
    /// Processor time of this process while it was measured, as a number of cores.
    pub client_cores: Option<f64>,
    pub background_load: Option<BackgroundResults>,
    /// What was due at one moment, if anything was.
    pub due: Option<Value>,
}

impl BenchReport {
    /// Prints the report.
    pub fn show(&self, output: &Output) -> Result<(), CliError> {
        match output.format() {
            Format::Json => output.line(&self.json().to_string()),
            Format::Text => self.text(output),
        }
    }

    fn ops_per_s(&self) -> f64 {
        rounded(count(self.overall.count()) / self.seconds.max(1e-9))
    }

    /// Events per second received by all watchers together.
    fn events_per_s(&self, seen: &BackgroundResults) -> f64 {
        rounded(count(seen.events_measured) / self.seconds.max(1e-9))
    }

    fn json(&self) -> Value {
        let plan = &self.plan;
        let mut latency = self.overall.json();
        latency["rpcs"] = self.totals.rpcs().map(|(name, times)| (name, times.json())).collect();
        let server = self.server.map(|server| {
            json!({
                "cpu_seconds": server.cpu_seconds.map(rounded), "cpu_cores": server.cpu_cores.map(rounded),
                "rss_bytes": server.rss_bytes, "rss_idle_bytes": server.rss_idle_bytes,
                "wal_bytes": server.wal_bytes, "wal_bytes_max": server.wal_bytes_max,
                "start_ms": rounded(server.start_ms), "restart_ms": server.restart_ms.map(rounded),
                "restart_rss_bytes": server.restart_rss_bytes,
            })
        });
        let background_load = self.background_load.as_ref().map(|seen| {
            json!({
                "pages": seen.pages, "sagas_listed": seen.listed, "events": seen.events,
                "events_per_s": self.events_per_s(seen),
                "expiry_us": (seen.late.count() > 0).then(|| seen.late.json()),
            })
        });
        json!({
            "mode": plan.args.mode.name(),
            "clients": plan.clients,
            "connections": plan.connections,
            "threads": plan.threads,
            "preload": plan.preload,
            "ids": match plan.args.ids { Ids::Ordered => "ordered", Ids::Random => "random" },
            "request_ids": plan.args.request_ids,
            "rate": plan.args.rate,
            "leases": plan.args.leases,
            "readers": plan.args.readers,
            "watchers": plan.args.watchers,
            "expiring": plan.args.expiring,
            "claimers": plan.args.claimers,
            "ahead": plan.args.ahead,
            "undo": plan.args.undo,
            "duration_s": rounded(self.seconds),
            "ops": self.overall.count(),
            "ops_per_s": self.ops_per_s(),
            "errors": self.totals.errors,
            "first_error": self.totals.first_error,
            "latency_us": latency,
            "empty_us": self.empty.json(),
            "fdatasync_us": self.fdatasync.as_ref().map(Times::json),
            "server": server,
            "client_cores": self.client_cores.map(rounded),
            "beside": background_load,
            "due": self.due,
        })
    }

    fn text(&self, output: &Output) -> Result<(), CliError> {
        let plan = &self.plan;
        output.line(&format!(
            "{:.0} ops/s: {}, {} clients on {} connections for {:.1} s, {} errors",
            self.ops_per_s(),
            plan.args.mode.name(),
            plan.clients,
            plan.connections,
            self.seconds,
            self.totals.errors
        ))?;
        if let Some(error) = &self.totals.first_error {
            output.line(&format!("the first error: {}", text::printable(error)))?;
        }
        let mut rows: Vec<(String, &Times)> = self.totals.rpcs().collect();
        rows.push(("all".to_owned(), &self.overall));
        rows.push(("empty call, alone".to_owned(), &self.empty));
        rows.extend(self.fdatasync.as_ref().map(|times| ("fdatasync".to_owned(), times)));
        let late = self.background_load.as_ref().map(|seen| &seen.late).filter(|times| times.count() > 0);
        rows.extend(late.map(|times| ("lease expiry to watcher".to_owned(), times)));
        output.line("")?;
        let header = ["MICROSECONDS", "COUNT", "P50", "P90", "P99", "P99.9", "MAX"];
        output.tabulate(&rows, Some(&header), |(name, times)| {
            let micros = [0.5, 0.9, 0.99, 0.999].map(|part| times.micros(part).min(times.max_micros()));
            let numbers = micros.into_iter().chain([times.max_micros()]).map(|micros| format!("{micros:.1}"));
            [name.clone(), times.count().to_string()].into_iter().chain(numbers).map(Cell::new).collect()
        })?;
        let facts = self.facts();
        output.line("")?;
        output.tabulate(&facts, None, |(name, value)| vec![Cell::new(name), Cell::new(value)])
    }

    /// Facts other than times of calls.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let cores = |cores: Option<f64>| cores.map_or("not known".to_owned(), |cores| format!("{cores:.2} cores"));
        let mut facts = vec![("bench CPU", cores(self.client_cores))];
        if let Some(server) = &self.server {
            facts.push(("daemon CPU", cores(server.cpu_cores)));
            facts.push(("daemon memory", format!("{} (idle {})", mib(server.rss_bytes), mib(server.rss_idle_bytes))));
            let wal = (mib(Some(server.wal_bytes)), mib(Some(server.wal_bytes_max)));
            facts.push(("write-ahead log", format!("{} (at most {})", wal.0, wal.1)));
            facts.push(("start to first answer", format!("{:.1} ms", server.start_ms)));
            if let Some(restart) = server.restart_ms {
                facts.push((
                    "restart to first answer",
                    format!("{restart:.1} ms, then {}", mib(server.restart_rss_bytes)),
                ));
            }
        }
        if let Some(due) = &self.due {
            facts.push(("due at once", format!("{} leases, {} delays", due["leases"], due["delays"])));
        }
        if let Some(seen) = &self.background_load {
            facts.push(("listed", format!("{} sagas on {} pages", seen.listed, seen.pages)));
            facts.push(("followed", format!("{} events, {:.0} a second", seen.events, self.events_per_s(seen))));
        }
        facts
    }
}

#[allow(clippy::cast_precision_loss)]
fn count(count: u64) -> f64 {
    count as f64
}

/// To a thousandth.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn mib(bytes: Option<u64>) -> String {
    bytes.map_or("not known".to_owned(), |bytes| format!("{:.1} MiB", count(bytes) / 1_048_576.0))
}
