//! [`CliFixture`]: a daemon for one test, and the binary run against it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::running_command::RunningCommand;
use crate::support::{
    self, Launch,
    binary::{self, CommandOutput},
    until,
};

/// True if a process is running, by its pid.
pub fn runs(pid: &str) -> bool {
    // A zombie has ended, too.
    fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// The pid of a child process.
pub fn pid_of(child: &Child) -> Pid {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap()
}

/// Sends a signal to a child process.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(pid_of(child), signal).unwrap();
}

/// A daemon with a directory for the test's files. It is killed at the end of the test.
pub struct CliFixture {
    served: support::Daemon,
    dir: TempDir,
}

impl CliFixture {
    /// Starts a daemon on a free port. Its grace is short, because a pause of a busy machine counts as an absence.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let served = Launch::on(&dir.path().join("data")).args(&["--restart-grace", "1s"]).start();
        Self { served, dir }
    }

    /// Ends it by a signal and starts it again on the same port and data, with a longer grace.
    pub fn restart(&mut self, by: Signal) {
        self.served.signal(by);
        self.served.process().wait();
        self.served.set_args(&["--restart-grace", "10s"]);
        self.served.start_again();
    }

    /// Sends it a signal.
    pub fn signal(&self, by: Signal) {
        self.served.signal(by);
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.served.address())
    }

    /// The path of a file in the test's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lines of such a file; none if it does not exist.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// Writes an executable script; returns its path.
    pub fn script(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The binary with these arguments, in the test's directory, with the daemon's address.
    pub fn command(&self, line: &str) -> Command {
        let mut command = sagad(line);
        command.env("SAGAD_SERVER", self.url()).current_dir(self.dir.path());
        command
    }

    /// Runs the binary until it ends.
    pub fn run(&self, line: &str) -> CommandOutput {
        CommandOutput::of(self.command(line))
    }

    /// Runs it with this standard input.
    pub fn run_with(&self, line: &str, input: &str) -> CommandOutput {
        let mut command = self.command(line);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
        // A command that refuses its input may end without reading all of it.
        let writer = thread::spawn(move || stdin.write_all(input.as_bytes()).ok());
        let ran = CommandOutput::from(child.wait_with_output().unwrap());
        writer.join().unwrap();
        ran
    }

    /// Starts the binary.
    pub fn spawn(&self, line: &str) -> RunningCommand {
        RunningCommand::start(self.command(line))
    }

    /// Runs it, which must succeed with nothing on stderr; returns stdout.
    pub fn ok(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "sagad {line}\n{}", ran.out);
        ran.out
    }

    /// The same with `-o json`; returns a value for each line.
    pub fn json(&self, line: &str) -> Vec<Value> {
        let out = self.ok(&format!("-o json {line}"));
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }

    /// The same for a command that prints one line.
    pub fn one(&self, line: &str) -> Value {
        let mut lines = self.json(line);
        assert_eq!(lines.len(), 1, "sagad {line}: {lines:?}");
        lines.remove(0)
    }

    /// Runs it as text and as JSON, which must both fail with this exit code and reason and an empty stdout. Returns the JSON
    /// error.
    pub fn refused(&self, code: i32, reason: &str, line: &str) -> Value {
        let text = self.run(line);
        assert_eq!((text.code, text.out.as_str()), (code, ""), "sagad {line}\n{}", text.err);
        // The text of an error that the command itself found has no reason's name.
        let named = reason == "USAGE" || text.err.contains(reason);
        assert!(text.err.starts_with("sagad: ") && named, "sagad {line}: {}", text.err);
        let json = self.run(&format!("-o json {line}"));
        assert_eq!((json.code, json.out.as_str()), (code, ""), "sagad {line}\n{}", json.err);
        let error: Value = serde_json::from_str(&json.err).unwrap_or_else(|_| panic!("not JSON: {}", json.err));
        assert_eq!(error["error"]["reason"], reason, "{error}");
        error["error"].clone()
    }

    /// The saga as it is now.
    pub fn get(&self, id: &str) -> Value {
        self.one(&format!("get {id}"))
    }

    /// The saga's state in lower case, such as `running`.
    pub fn state(&self, id: &str) -> String {
        let state = self.get(id)["state"].as_str().unwrap_or_default().to_owned();
        state.trim_start_matches("SAGA_STATE_").to_lowercase()
    }

    /// Waits until a saga is in this state.
    pub fn await_state(&self, id: &str, state: &str) {
        until(&format!("{id} to be {state}"), || self.state(id) == state);
    }

    /// Waits until watchers are told that a saga is stale; reads show it a moment earlier.
    pub fn await_stale(&self, id: &str) {
        let named = format!("\"taskId\":\"{id}\"");
        until(&format!("{id} is reported stale"), || self.ok("watch --snapshot -o json").contains(&named));
    }

    /// The types of a saga's events, in order.
    pub fn events(&self, id: &str) -> Vec<String> {
        let events = self.json(&format!("history {id}"));
        let kind = |event: &Value| event["type"].as_str().unwrap().trim_start_matches("EVENT_TYPE_").to_lowercase();
        events.iter().map(kind).collect()
    }

    /// Claims a saga by id; returns the token.
    pub fn claim(&self, id: &str, owner: &str, flags: &str) -> String {
        let saga = self.one(&format!("claim {id} --owner {owner} {flags}"));
        saga["lease"]["fencingToken"].as_str().unwrap().to_owned()
    }

    /// Creates a saga whose lease of 200 ms has expired.
    pub fn stale(&self, id: &str, flags: &str) -> String {
        let token = self.expiring(id, flags);
        self.await_stale(id);
        token
    }

    /// Creates a saga with a lease of 200 ms.
    pub fn expiring(&self, id: &str, flags: &str) -> String {
        self.ok(&format!("create --task-id {id} {flags}"));
        self.claim(id, "gone", "--ttl 200ms")
    }

    /// Creates a saga that waits to be compensated after a failure of `w`.
    pub fn compensating(&self, id: &str, flags: &str) {
        self.ok(&format!("create --task-id {id} --on-failure compensate {flags}"));
        let token = self.claim(id, "w", "--ttl 1m");
        self.ok(&format!("fail {id} --owner w --token {token} --reason broken"));
    }
}

/// The binary with these arguments and without the environment of whoever runs the tests.
pub fn sagad(line: &str) -> Command {
    let mut command = binary::sagad();
    command.args(words(line));
    command
}

/// The words of a line; single quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quoted, mut inside) = (false, false);
    for c in line.chars() {
        match c {
            '\'' => {
                (quoted, inside) = (
                    !quoted,
                    if inside {
                        true
                    } else {
                        words.push(String::new());
                        true
                    },
                )
            }
            c if c.is_whitespace() && !quoted => inside = false,
            c => {
                if !inside {
                    words.push(String::new());
                    inside = true;
                }
                words.last_mut().unwrap().push(c);
            }
        }
    }
    words
}
