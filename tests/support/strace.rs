//! The daemon under `strace`: what it asks of the kernel, and what happens when the kernel refuses.

use std::{fs, path::Path, thread, time::Duration};

use super::{Launch, PATIENCE, now};

/// A daemon to be started under `strace` with these options, its trace going to a file.
pub fn launch(data: &Path, trace: &Path, options: &[&str]) -> Launch {
    let mut launch = Launch::on(data);
    // -D: the tracer is the one in the background, so that signals and the exit status are the daemon's own.
    launch.wrapper = ["strace", "-D", "-f", "-q", "-o"].map(Into::into).to_vec();
    launch.wrapper.push(trace.into());
    launch.wrapper.extend(options.iter().map(Into::into));
    launch.wrapper.push("--".into());
    launch
}

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
