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

use rustix::process::Pid;

use super::now;

/// A running process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessUsage(Pid);

impl ProcessUsage {
    pub fn of(pid: Pid) -> Self {
        ProcessUsage(pid)
    }

    fn file(self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.as_raw_nonzero())
    }

    /// A number in its `status` file, such as `Threads`; memory is in KiB.
    pub fn status(self, field: &str) -> u64 {
        let status = fs::read_to_string(self.file("status")).expect("the process is running");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Resident memory, in KiB.
    pub fn memory(self) -> u64 {
        self.status("VmRSS")
    }

    /// Time on the CPU since its start.
    pub fn cpu(self) -> Duration {
        let stat = fs::read_to_string(self.file("stat")).unwrap();
        // Fields 14 and 15, in hundredths of a second, after the name, which may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Open file descriptors.
    pub fn descriptors(self) -> usize {
        fs::read_dir(self.file("fd")).unwrap().count()
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
    pub fn watch(usage: ProcessUsage) -> Self {
        let (highest, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (highest, stop) = (highest.clone(), stop.clone());
            move || {
                while !stop.load(Relaxed) {
                    highest.fetch_max(usage.memory(), Relaxed);
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
    usage: ProcessUsage,
    begun: std::time::Instant,
    cpu: Duration,
}

impl CpuShare {
    pub fn begin(usage: ProcessUsage) -> Self {
        CpuShare { usage, begun: now(), cpu: usage.cpu() }
    }

    pub fn so_far(&self) -> f64 {
        (self.usage.cpu() - self.cpu).as_secs_f64() / self.begun.elapsed().as_secs_f64()
    }
}
