//! What `strace` wrote of a daemon that was started by [`Launch::traced`](super::Launch::traced).

use std::{fs, path::Path, thread, time::Duration};

use super::{PATIENCE, now};

/// The lines of a trace whose daemon has ended, once they are all there.
pub fn lines(trace: &Path, pid: rustix::process::Pid) -> Vec<String> {
    let begun = now();
    let begin = format!("{} ", pid.as_raw_nonzero());
    loop {
        let text = fs::read_to_string(trace).unwrap_or_default();
        if text.lines().any(|line| line.starts_with(&begin) && line.contains(" +++ ")) {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(begun.elapsed() < PATIENCE, "the trace has no end:\n{text}");
        thread::sleep(Duration::from_millis(10));
    }
}
