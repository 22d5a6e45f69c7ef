//! What the system reports about this process and its disk.

use std::{fs, path::Path};

/// What the kernel reports about this process. None: it did not tell.
#[derive(Debug, Default)]
pub(super) struct ProcessMetrics {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) max_open_files: Option<u64>,
}

impl ProcessMetrics {
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the name in parentheses; it may contain any character.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        // Numbered as in proc(5). The third field is the first one after the name.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) as f64 / ticks);
        let files = fs::read_dir("/proc/self/fd").ok();
        ProcessMetrics {
            cpu_seconds: cpu,
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as u64),
            virtual_bytes: field(23),
            threads: field(20),
            // One of them is the directory that is being read.
            open_files: files.map(|files| (files.count() as u64).saturating_sub(1)),
            max_open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// The disk of the data directory, and the sizes of the store's files.
#[derive(Debug, Default)]
pub(super) struct DiskMetrics {
    pub(super) free_bytes: Option<u64>,
    pub(super) size_bytes: Option<u64>,
    pub(super) database_bytes: Option<u64>,
    pub(super) wal_file_bytes: Option<u64>,
}

impl DiskMetrics {
    /// Only metadata is read. Opening and closing the database file would drop SQLite's locks.
    pub(super) fn read(data: &Path) -> Self {
        let room = rustix::fs::statvfs(data).ok();
        let length = |name: &str| fs::metadata(data.join(name)).ok().map(|file| file.len());
        DiskMetrics {
            free_bytes: room.as_ref().map(|room| room.f_bavail.saturating_mul(room.f_frsize)),
            size_bytes: room.as_ref().map(|room| room.f_blocks.saturating_mul(room.f_frsize)),
            database_bytes: length("sagad.db"),
            wal_file_bytes: length("sagad.db-wal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_and_disk_metrics_are_read_from_the_kernel() {
        let process = ProcessMetrics::read();
        assert!(process.cpu_seconds.is_some() && process.threads.is_some_and(|threads| threads > 0), "{process:?}");
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 1 << 20 && bytes < 1 << 40), "{process:?}");
        assert!(process.open_files.is_some_and(|files| files > 2), "{process:?}");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sagad.db"), [0; 77]).unwrap();
        let disk = DiskMetrics::read(dir.path());
        assert_eq!((disk.database_bytes, disk.wal_file_bytes), (Some(77), None));
        assert!(disk.free_bytes.unwrap() <= disk.size_bytes.unwrap(), "{disk:?}");
    }
}
