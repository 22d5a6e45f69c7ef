//! The binary while it runs: its lines as they come, and its end.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::Signal;

use super::daemon::signal;
use crate::support::{binary::CommandOutput, until};

type Lines = Arc<Mutex<Vec<String>>>;

/// A run that is under way.
pub struct Running {
    pub child: Child,
    out: Lines,
    err: Lines,
}

impl Running {
    /// Starts a command and takes its lines as they come.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        Self { child, out, err }
    }

    /// What it has printed so far.
    pub fn out(&self) -> Vec<String> {
        self.out.lock().unwrap().clone()
    }

    /// What it has complained about so far.
    pub fn err(&self) -> Vec<String> {
        self.err.lock().unwrap().clone()
    }

    /// Waits for a line with all of these on stdout.
    pub fn await_out(&self, parts: &[&str]) -> String {
        await_line(&self.out, parts)
    }

    /// Waits for a line with all of these on stderr.
    pub fn await_err(&self, parts: &[&str]) -> String {
        await_line(&self.err, parts)
    }

    /// Sends it a signal.
    pub fn signal(&self, by: Signal) {
        signal(&self.child, by);
    }

    /// Waits for its end.
    pub fn finish(mut self) -> CommandOutput {
        let mut code = None;
        until("a run to end", || {
            code = self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        // The readers come to the end of their pipes once the process has gone, and all of its children.
        until("its pipes to be closed", || Arc::strong_count(&self.out) == 1 && Arc::strong_count(&self.err) == 1);
        CommandOutput { code: code.unwrap_or(-1), out: self.out().join("\n"), err: self.err().join("\n") }
    }

    /// TERM twice, for a worker that should not wait for what it runs, and its end. Two that are sent without a look
    /// in between may arrive as one.
    pub fn end_now(self) -> CommandOutput {
        self.signal(Signal::TERM);
        self.await_err(&["taking nothing new"]);
        self.term()
    }

    /// TERM, and its end.
    pub fn term(self) -> CommandOutput {
        self.signal(Signal::TERM);
        self.finish()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn collect(pipe: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let into = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    });
    lines
}

fn await_line(lines: &Lines, parts: &[&str]) -> String {
    let mut found = None;
    until(&format!("a line with {parts:?} in {:?}", lines.lock().unwrap()), || {
        let lines = lines.lock().unwrap();
        found = lines.iter().find(|line| parts.iter().all(|part| line.contains(part))).cloned();
        found.is_some()
    });
    found.unwrap_or_default()
}

impl CommandOutput {
    /// It was refused before anything was sent: exit code 2, and a pointer to the help.
    pub fn assert_usage(&self) {
        assert_eq!((self.code, self.out.as_str()), (2, ""), "{}", self.err);
        assert!(self.err.starts_with("error: ") && self.err.contains("--help"), "{}", self.err);
    }
}
