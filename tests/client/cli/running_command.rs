//! [`RunningCommand`]: the binary while it runs, with the lines it prints.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::Signal;

use super::cli_fixture::signal;
use crate::support::{binary::CommandOutput, until};

type Lines = Arc<Mutex<Vec<String>>>;

pub struct RunningCommand {
    pub child: Child,
    out: Lines,
    err: Lines,
}

impl RunningCommand {
    /// Starts a command and collects its lines.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        Self { child, out, err }
    }

    /// What it has printed on stdout so far.
    pub fn out(&self) -> Vec<String> {
        self.out.lock().unwrap().clone()
    }

    /// What it has printed on stderr so far.
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

    pub fn signal(&self, by: Signal) {
        signal(&self.child, by);
    }

    /// Waits until it ends.
    pub fn finish(mut self) -> CommandOutput {
        let mut code = None;
        until("a run to end", || {
            code = self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        // The pipes are closed once the process and all of its children have ended.
        until("its pipes to be closed", || Arc::strong_count(&self.out) == 1 && Arc::strong_count(&self.err) == 1);
        CommandOutput { code: code.unwrap_or(-1), out: self.out().join("\n"), err: self.err().join("\n") }
    }

    /// Sends TERM twice, so that a worker does not wait for its command, and waits until it ends. Waits between the two
    /// signals, which could otherwise arrive as one.
    pub fn end_now(self) -> CommandOutput {
        self.signal(Signal::TERM);
        self.await_err(&["taking nothing new"]);
        self.term()
    }

    /// Sends TERM and waits until it ends.
    pub fn term(self) -> CommandOutput {
        self.signal(Signal::TERM);
        self.finish()
    }
}

impl Drop for RunningCommand {
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
    /// Asserts that the command line was refused: exit code 2, and a hint to the help.
    pub fn assert_usage(&self) {
        assert_eq!((self.code, self.out.as_str()), (2, ""), "{}", self.err);
        assert!(self.err.starts_with("error: ") && self.err.contains("--help"), "{}", self.err);
    }
}
