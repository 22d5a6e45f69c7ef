//! `sagad work` and `sagad compensate` as process 1 of a container: the worker runs as a child of this process, which passes
//! signals on to it and reaps all orphans. The worker waits for its own children and can't do that.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitCode, ExitStatus},
};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    errors, notices,
    supervise::{block_on, ending_signals, own_program},
};

/// Runs the same command line as a child, if this is process 1; `None` in any other process.
pub fn run(arguments: &[OsString]) -> Option<ExitCode> {
    if !getpid().is_init() {
        return None;
    }
    Some(block_on(init(arguments)).unwrap_or_else(|error| {
        notices::notice(&format!("can't run as process 1: {error}"));
        notices::finish(Some(notices::LAST_WAIT));
        ExitCode::from(errors::FAILED)
    }))
}

async fn init(arguments: &[OsString]) -> io::Result<ExitCode> {
    let [mut terminate, mut interrupt, mut hangup, mut quit] = ending_signals()?;
    let mut children = signal(SignalKind::child())?;
    let mut command = Command::new(own_program());
    // In a process group of its own: the terminal signals the group of this process, which passes each signal on once.
    command.arg0("sagad").args(arguments.get(1..).unwrap_or_default()).process_group(0);
    let worker = Pid::from_child(&command.spawn()?);
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == worker {
                return Ok(exit_code(status.as_raw()));
            }
        }
        let passed_on = tokio::select! {
            _ = children.recv() => continue,
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
            _ = hangup.recv() => Signal::HUP,
            _ = quit.recv() => Signal::QUIT,
        };
        kill_process(worker, passed_on).ok();
    }
}

/// The exit code for a child's status: its own, or 128 plus the number of the signal, as shells do it.
fn exit_code(status: i32) -> ExitCode {
    let status = ExitStatus::from_raw(status);
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(errors::FAILED))
}
