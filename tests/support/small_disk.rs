//! A small file system in memory, for tests of a full disk. They need `mount`.

use std::{path::Path, process::Command};

use tempfile::TempDir;

/// A tmpfs, unmounted when it is dropped.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts one of this size, such as `900k`.
    pub fn mount(size: &str) -> Self {
        let disk = SmallDisk(tempfile::tempdir().unwrap());
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "sagad-test"], disk.path());
        disk
    }

    /// Changes its size.
    pub fn grow(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}")], self.path());
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

fn mount(options: &[&str], at: &Path) {
    let output = Command::new("mount").args(options).arg(at).output().unwrap();
    assert!(output.status.success(), "a tmpfs can't be mounted: {output:?}");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
