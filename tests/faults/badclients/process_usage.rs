//! [`ProcessUsage`]: memory, CPU time and descriptors of a process, from `/proc`.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::support::now;

/// A process, by its pid.
#[derive(Clone, Copy, Debug)]
pub struct ProcessUsage(pub i32);

impl ProcessUsage {
    fn status(self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("the daemon is running");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Resident memory, in KiB.
    pub fn memory(self) -> u64 {
        self.status("VmRSS")
    }

    /// Time on the CPU since its start.
    pub fn cpu(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        // Fields 14 and 15, in hundredths of a second, after the name, which may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Open file descriptors.
    pub fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap().count()
    }
}

/// Measures the highest memory until it is dropped.
pub struct PeakMemory {
    highest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PeakMemory {
    /// Measures every 20 ms, in a thread of its own, which a busy runtime does not delay.
    pub fn watch(gauge: ProcessUsage) -> Self {
        let (highest, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (highest, stop) = (highest.clone(), stop.clone());
            move || {
                while !stop.load(Relaxed) {
                    highest.fetch_max(gauge.memory(), Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            }
        });
        PeakMemory { highest, stop, thread: Some(thread) }
    }

    /// In KiB.
    pub fn highest(&self) -> u64 {
        self.highest.load(Relaxed)
    }
}

impl Drop for PeakMemory {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// CPU time since its start, as a share of one core.
pub struct CpuShare {
    gauge: ProcessUsage,
    begun: std::time::Instant,
    cpu: Duration,
}

impl CpuShare {
    pub fn begin(gauge: ProcessUsage) -> Self {
        CpuShare { gauge, begun: now(), cpu: gauge.cpu() }
    }

    pub fn so_far(&self) -> f64 {
        (self.gauge.cpu() - self.cpu).as_secs_f64() / self.begun.elapsed().as_secs_f64()
    }
}
