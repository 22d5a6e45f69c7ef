//! The trace of a daemon that was started by [`Launch::traced`](super::Launch::traced).

use std::{fs, path::Path, thread, time::Duration};

use super::{WAIT_MAX, now};

/// The lines of a complete trace; waits for its end, which comes after the daemon's.
pub fn lines(trace: &Path, pid: rustix::process::Pid) -> Vec<String> {
    let begun = now();
    let begin = format!("{} ", pid.as_raw_nonzero());
    loop {
        let text = fs::read_to_string(trace).unwrap_or_default();
        if text.lines().any(|line| line.starts_with(&begin) && line.contains(" +++ ")) {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(begun.elapsed() < WAIT_MAX, "the trace has no end:\n{text}");
        thread::sleep(Duration::from_millis(10));
    }
}
