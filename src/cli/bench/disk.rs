//! Measures `fdatasync` in a directory: an existing block is written and synced repeatedly, as the blocks of the
//! write-ahead log are at best. Nothing that answers after a sync can be faster.

use std::{fs::File, os::unix::fs::FileExt, path::Path, time::Duration};

use rustix::fs::{fdatasync, statfs};

use super::totals::Times;
use crate::{cli::errors::CliError, client::time, private_files};

/// A page of the store.
const BLOCK: [u8; 4096] = [0x5a; 4096];
/// Blocks of the file.
const BLOCKS: u64 = 256;
/// The least and the most syncs; it stops between them after this time.
const SYNCS: std::ops::RangeInclusive<u32> = 20..=2000;
const LENGTH: Duration = Duration::from_millis(500);
/// File systems that are memory (`statfs`, `f_type`): tmpfs and ramfs.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// The times of syncs in this directory. Blocks for half a second.
pub fn syncs(dir: &Path) -> Result<Times, CliError> {
    // An unnamed file: nothing is written through a link, and nothing is left behind.
    timed(&private_files::unnamed(dir)?)
}

fn timed(file: &File) -> Result<Times, CliError> {
    (0..BLOCKS).try_for_each(|block| file.write_all_at(&BLOCK, block * BLOCK.len() as u64))?;
    file.sync_all()?;
    let mut times = Times::default();
    let until = time::now() + LENGTH;
    for sync in 0..*SYNCS.end() {
        if sync >= *SYNCS.start() && time::now() >= until {
            break;
        }
        file.write_all_at(&BLOCK, u64::from(sync) % BLOCKS * BLOCK.len() as u64)?;
        let start = time::now();
        fdatasync(file).map_err(std::io::Error::from)?;
        times.record(u64::try_from(time::now().since(start).as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

/// True if the directory is in memory, where a sync costs nothing.
pub fn in_memory(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|system| IN_MEMORY.contains(&(system.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_timed_and_leave_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let times = syncs(dir.path()).expect("it can be written");
        assert!(times.count() >= u64::from(*SYNCS.start()) && times.max_micros() > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
