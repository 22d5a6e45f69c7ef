//! What a run costs: processor time and memory of a process, read from `/proc`, and the size of the write-ahead log.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::param::clock_ticks_per_second;

/// How often the log's size is read; it doesn't grow much in between.
const LOOK: Duration = Duration::from_millis(50);

/// CPU time of a process so far, in seconds; none without `/proc`.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    ticks(&stat).map(|ticks| seconds(ticks, clock_ticks_per_second()))
}

#[allow(clippy::cast_precision_loss)]
fn seconds(ticks: u64, per_second: u64) -> f64 {
    ticks as f64 / per_second.max(1) as f64
}

/// User and system time, of which the former is the twelfth field behind the name, which may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    Some(fields.next()?? + fields.next()??)
}

/// Resident memory of a process, in bytes; none without `/proc`.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A log whose size is watched.
pub struct Wal {
    path: PathBuf,
    max: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Wal {
    /// Watches the file at `path`, which need not exist yet, until this is dropped.
    pub fn watch(path: PathBuf) -> Self {
        let wal = Wal { path, max: Arc::default(), stop: Arc::default() };
        let (path, max, stop) = (wal.path.clone(), wal.max.clone(), wal.stop.clone());
        // Without the thread the size is still known at the end.
        let watch = move || {
            while !stop.load(Ordering::Relaxed) {
                max.fetch_max(size(&path), Ordering::Relaxed);
                thread::sleep(LOOK);
            }
        };
        thread::Builder::new().name("bench-wal".to_owned()).spawn(watch).ok();
        wal
    }

    /// Its size now, in bytes; 0 if there is none.
    pub fn bytes(&self) -> u64 {
        size(&self.path)
    }

    /// The largest size so far.
    pub fn bytes_max(&self) -> u64 {
        self.max.load(Ordering::Relaxed).max(self.bytes())
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn size(path: &PathBuf) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_parsed_for_any_process_name() {
        assert_eq!(ticks("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 40 2 0 0"), Some(42));
        assert_eq!(ticks("7 (a"), None);
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn cpu_and_memory_of_this_process_are_read() {
        let pid = std::process::id();
        if fs::exists("/proc/self/stat").expect("it can be asked") {
            assert!(cpu_seconds(pid).is_some() && rss_bytes(pid).is_some_and(|bytes| bytes > 1 << 20));
        }
        assert_eq!(rss_bytes(u32::MAX), None);
    }

    #[test]
    fn bytes_max_is_the_largest_size_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let wal = Wal::watch(path.clone());
        assert_eq!(wal.bytes_max(), 0);
        fs::write(&path, [0; 5000]).expect("written");
        while wal.max.load(Ordering::Relaxed) < 5000 {
            thread::sleep(LOOK);
        }
        fs::write(&path, [0; 10]).expect("written");
        assert_eq!((wal.bytes(), wal.bytes_max()), (10, 5000));
    }
}
