//! [`Program`]: a program as a process, with its events and its output.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::now;

/// How long a test waits for something that must happen. It is only reached when something is wrong, so it is long.
pub fn wait_max() -> Duration {
    Duration::from_secs(std::env::var("POLYGLOT_WAIT_MAX").map_or(60, |seconds| seconds.parse().unwrap()))
}

/// The output of a program so far.
#[derive(Default)]
struct ProgramOutput {
    events: Vec<Value>,
    /// Lines of stdout that are not events.
    strange: Vec<String>,
    stderr: String,
}

/// A running program. It is killed at the end of the test.
pub struct Program {
    child: Child,
    name: String,
    written: Arc<Mutex<ProgramOutput>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    pub fn start(name: String, mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash is there");
        let written = Arc::new(Mutex::new(ProgramOutput::default()));
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (events, errors) = (written.clone(), written.clone());
        // Both pipes are read to the end, so that the program never blocks on them.
        let readers = vec![
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let mut written = events.lock().unwrap();
                    match serde_json::from_str::<Value>(&line) {
                        Ok(event) if event["event"].is_string() => written.events.push(event),
                        Ok(_) | Err(_) => written.strange.push(line),
                    }
                }
            }),
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                    errors.lock().unwrap().stderr.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
            }),
        ];
        Program { child, name, written, readers }
    }

    /// The events so far, in order.
    pub fn events(&self) -> Vec<Value> {
        self.written.lock().unwrap().events.clone()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.written.lock().unwrap().stderr.clone()
    }

    /// The number of lines on stderr so far that contain the text.
    pub fn stderr_count(&self, text: &str) -> usize {
        self.stderr().lines().filter(|line| line.contains(text)).count()
    }

    /// The events of one name so far.
    pub fn all(&self, name: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["event"] == name).collect()
    }

    /// The events of one name about one saga so far.
    pub fn of(&self, name: &str, task_id: &str) -> Vec<Value> {
        self.all(name).into_iter().filter(|event| event["task_id"] == task_id).collect()
    }

    /// Waits for the first event for which `wanted` holds.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = now();
        loop {
            // Checked before the events are read, so that all events from before its end are seen.
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() {
                self.gather();
            }
            if let Some(event) = self.events().into_iter().find(&wanted) {
                return event;
            }
            assert!(ended.is_none(), "{} has ended ({ended:?}) before: {what}{}", self.name, self.all_output());
            assert!(begun.elapsed() < wait_max(), "{}: waited in vain: {what}{}", self.name, self.all_output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits for the first event of that name.
    pub async fn until_event(&mut self, name: &str) -> Value {
        self.until(name, |event| event["event"] == name).await
    }

    /// Waits for the first event of that name about a saga.
    pub async fn until_of(&mut self, name: &str, task_id: &str) -> Value {
        let what = format!("{name} of {task_id}");
        self.until(&what, |event| event["event"] == name && event["task_id"] == task_id).await
    }

    /// Waits until stderr has this many lines with the text; returns them.
    pub async fn until_said(&mut self, text: &str, times: usize) -> Vec<String> {
        let begun = now();
        loop {
            let said: Vec<_> = self.stderr().lines().filter(|line| line.contains(text)).map(str::to_owned).collect();
            if said.len() >= times {
                return said;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "{} has ended{}", self.name, self.all_output());
            let what = format!("{times} lines on stderr with `{text}`");
            assert!(begun.elapsed() < wait_max(), "{}: waited in vain: {what}{}", self.name, self.all_output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it has written a line of the report.
    pub async fn until_line(&mut self, task_id: &str, n: u64) {
        let what = format!("line {n} of {task_id}");
        self.until(&what, |event| event["event"] == "line" && event["task_id"] == task_id && event["n"] == n).await;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the program runs");
    }

    /// Kills it and waits until it has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.gather();
    }

    /// Waits until it ends; returns its exit code. Its stdout must consist of events.
    pub async fn end(&mut self) -> i32 {
        let code = self.end_of_any().await;
        let strange = self.written.lock().unwrap().strange.clone();
        assert!(strange.is_empty(), "{} wrote lines to stdout that are not events: {strange:?}", self.name);
        code
    }

    /// Waits until it ends, whatever its stdout is; returns its exit code.
    pub async fn end_of_any(&mut self) -> i32 {
        let begun = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.gather();
                return status.code().unwrap_or_else(|| panic!("{}: {status}{}", self.name, self.all_output()));
            }
            assert!(begun.elapsed() < wait_max(), "{} does not end{}", self.name, self.all_output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it ends after SIGTERM: its last event must be `drained`.
    pub async fn drained(&mut self) {
        let code = self.end().await;
        let last = self.events().pop().unwrap_or_default();
        assert_eq!((code, &last["event"]), (0, &Value::from("drained")), "{}{}", self.name, self.all_output());
    }

    /// Sends SIGTERM and waits until it has ended.
    pub async fn drain(&mut self) {
        self.signal(Signal::TERM);
        self.drained().await;
    }

    fn gather(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }

    /// All of its output, for the message of a failed test.
    pub fn all_output(&self) -> String {
        let written = self.written.lock().unwrap();
        let events: Vec<_> = written.events.iter().map(Value::to_string).collect();
        let (events, strange) = (events.join("\n"), written.strange.join("\n"));
        format!("\n--- {} wrote ---\n{events}\n{strange}\n--- stderr ---\n{}", self.name, written.stderr)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", self.all_output());
        }
    }
}
