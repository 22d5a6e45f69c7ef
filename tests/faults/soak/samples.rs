//! [`Samples`]: the daemon's use of resources over time, and whether it grows.

use std::{fmt, fs, path::PathBuf, time::Duration};

use crate::support::{Daemon, process_usage::ProcessUsage};

/// After the warm-up, the medians of this many first and last samples are compared.
const COMPARED: usize = 15;
/// How much memory may grow for each call, while the recent events in memory are fewer than are kept, with their encoded form for
/// watchers; and how much it may vary anyway.
const BYTES_PER_CALL: u64 = 700;
const MEMORY_NOISE: u64 = 2 << 20;
/// The most that memory may grow, however many calls there were.
const MEMORY_MOST: u64 = 12 << 20;
/// How much the files may vary: the sagas that wait for their purge vary with the load.
const FILE_NOISE: u64 = 1 << 20;
/// How much descriptors and threads may vary: open connections, and threads for reads.
const COUNT_NOISE: u64 = 12;

/// Samples a daemon.
pub struct DaemonSampler {
    usage: ProcessUsage,
    data: PathBuf,
}

/// The figures of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    seconds: f64,
    calls: u64,
    sagas: i64,
    database: u64,
    log: u64,
    memory: u64,
    files: u64,
    threads: u64,
}

impl DaemonSampler {
    pub fn of(daemon: &Daemon, data: &std::path::Path) -> Self {
        DaemonSampler { usage: ProcessUsage::of(daemon.pid()), data: data.to_owned() }
    }

    pub fn sample(&self, at: Duration, calls: u64, sagas: i64) -> Sample {
        let size = |name: &str| self.data.join(name).metadata().map_or(0, |metadata| metadata.len());
        Sample {
            seconds: at.as_secs_f64(),
            calls,
            sagas,
            database: size("sagad.db"),
            log: size("sagad.db-wal"),
            memory: self.usage.memory() << 10,
            files: self.usage.descriptors() as u64,
            threads: self.usage.status("Threads"),
        }
    }
}

/// All samples, in order.
#[derive(Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    pub fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Writes them to a file.
    pub fn write(&self) {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/soak");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("samples.tsv"), self.to_string()).unwrap();
    }

    /// Panics if something grows.
    pub fn assert_no_growth(&self, log_bound: u64) {
        let (first, last) = (&self.0[COMPARED..2 * COMPARED], &self.0[self.0.len() - COMPARED..]);
        let median = |samples: &[Sample], of: fn(&Sample) -> u64| {
            let mut values: Vec<_> = samples.iter().map(of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let calls = median(last, |s| s.calls) - median(first, |s| s.calls);
        let memory = (calls * BYTES_PER_CALL).min(MEMORY_MOST) + MEMORY_NOISE;
        let compare = |what, of: fn(&Sample) -> u64, noise: fn(u64) -> u64, more: u64| {
            let (before, after) = (median(first, of), median(last, of));
            let most = before + noise(before) + more;
            assert!(
                after <= most,
                "{what} grows: {before} at first, {after} at last, {calls} calls later; {most} is allowed"
            );
        };
        compare("memory", |s| s.memory, |_| 0, memory);
        compare("the database", |s| s.database, |before| before / 4, FILE_NOISE);
        compare("the number of open files", |s| s.files, |_| 0, COUNT_NOISE);
        compare("the number of threads", |s| s.threads, |_| 0, COUNT_NOISE);
        let longest = self.0.iter().map(|sample| sample.log).max().unwrap();
        assert!(longest <= log_bound + log_bound / 4, "the log reached {longest} bytes; its bound is {log_bound}");
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seconds\tcalls\tsagas\tdatabase_kib\tlog_kib\tmemory_kib\tfiles\tthreads")?;
        for s in &self.0 {
            let (seconds, calls, sagas, files, threads) = (s.seconds, s.calls, s.sagas, s.files, s.threads);
            let [database, log, memory] = [s.database, s.log, s.memory].map(|bytes| bytes >> 10);
            writeln!(f, "{seconds:.1}\t{calls}\t{sagas}\t{database}\t{log}\t{memory}\t{files}\t{threads}")?;
        }
        Ok(())
    }
}
