//! The daemon as a process that is killed, stopped, traced and lied to; and what else a test asks of the binary.

#![allow(dead_code, reason = "each of the targets that share this uses a part")]

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sagad::proto::{admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient};
use tonic::transport::{Channel, Endpoint};

pub const SAGAD: &str = env!("CARGO_BIN_EXE_sagad");
/// What the first line on stdout begins with.
const SERVING: &str = "sagad: serving gRPC on ";
/// The longest that anything may take on a machine that others use, too.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type Sagas = SagaServiceClient<Channel>;

#[allow(clippy::disallowed_methods, reason = "a test of a real process measures real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// How a daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    pub data: PathBuf,
    /// Further arguments of `serve`.
    pub args: Vec<String>,
    /// A program with its arguments that becomes the daemon, such as `strace -D …`.
    pub wrapper: Vec<OsString>,
    pub env: Vec<(String, String)>,
}

impl Launch {
    pub fn on(data: &Path) -> Self {
        Launch { data: data.to_owned(), ..Launch::default() }
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Under `strace` with these options, its lines going to a file. With `-D` the daemon is our child, not strace.
    pub fn traced(mut self, trace: &Path, options: &[&str]) -> Self {
        self.wrapper = ["strace", "-D", "-f", "-q", "-o"].map(OsString::from).to_vec();
        self.wrapper.push(trace.into());
        self.wrapper.extend(options.iter().map(OsString::from));
        self.wrapper.push("--".into());
        self
    }

    /// Starts the process and waits for nothing.
    pub fn spawn(&self) -> Daemon {
        let mut words = self.wrapper.clone();
        words.extend([SAGAD, "serve", "--listen", "127.0.0.1:0", "--data"].map(OsString::from));
        words.push(self.data.clone().into());
        words.extend(self.args.iter().map(OsString::from));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .env_remove("SAGAD_SERVER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary under test can be run");
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let reading = read_all(child.stderr.take().unwrap(), log.clone());
        Daemon { child, lines, log, reading: Some(reading) }
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> (Daemon, SocketAddr) {
        let mut daemon = self.spawn();
        match daemon.address() {
            Some(address) => (daemon, address),
            None => {
                let (status, log) = daemon.end();
                panic!("the daemon did not start: {status}\n{log}");
            }
        }
    }

    /// Starts it, expecting that it refuses; returns its exit status and what it says.
    pub fn refused(&self) -> (ExitStatus, String) {
        let mut daemon = self.spawn();
        if let Some(address) = daemon.address() {
            panic!("the daemon was to refuse, but serves on {address}:\n{}", daemon.log());
        }
        daemon.end()
    }
}

fn read_all(mut pipe: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    })
}

/// A daemon's process. It is killed when the test is over, however it ends.
pub struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Where it serves, once it says so; none if it ended before.
    pub fn address(&mut self) -> Option<SocketAddr> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line.strip_prefix(SERVING).expect("the first line on stdout").parse().unwrap()),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the daemon neither serves nor ends:\n{}", self.log()),
        }
    }

    /// Where it serves, if it says so in time.
    pub fn address_within(&mut self, time: Duration) -> Option<SocketAddr> {
        let line = self.lines.recv_timeout(time).ok()?;
        Some(line.strip_prefix(SERVING).expect("the first line on stdout").parse().unwrap())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; returns how it ended and all that it wrote to stderr.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let begun = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reading) = self.reading.take() {
                    reading.join().unwrap();
                }
                return (status, self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end();
    }

    /// Ends it in good order.
    pub fn terminate(&mut self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.end();
        assert_eq!(status.code(), Some(0), "{log}");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
    }
}

/// A connection; calls on it end after 20 s.
pub async fn channel(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    endpoint.timeout(Duration::from_secs(20)).connect().await
}

pub async fn sagas(address: SocketAddr) -> Sagas {
    SagaServiceClient::new(channel(address).await.expect("it serves"))
}

/// The reason that an error carries, or nothing for one that the daemon did not make.
pub fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// All of a backup.
pub async fn backup(address: SocketAddr) -> Result<Vec<u8>, tonic::Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut admin = AdminServiceClient::new(endpoint.connect().await.expect("it serves"));
    let mut pieces = admin.backup(sagad::proto::BackupRequest {}).await?.into_inner();
    let mut copy = Vec::new();
    while let Some(piece) = pieces.message().await? {
        copy.extend_from_slice(&piece.chunk);
    }
    Ok(copy)
}

/// Runs one of the binary's other verbs.
pub fn run(args: &[&str]) -> Output {
    Command::new(SAGAD).args(args).env_remove("SAGAD_SERVER").output().expect("the binary under test can be run")
}

/// `sagad check` on a store at rest: it has to find nothing wrong.
pub fn check(data: &Path) {
    let output = run(&["check", "--data", data.to_str().unwrap()]);
    assert!(output.status.success(), "sagad check {}: {output:?}", data.display());
}

/// Copies a data directory, but for its lock.
pub fn copy_data(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && entry.file_name() != "sagad.lock" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
