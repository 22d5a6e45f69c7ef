//! The daemon as a process: started, ended by a signal, and started again on the same store and port.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::{Api, WAIT_MAX, area, binary::SAGAD, now};

/// Begins the first line on stdout.
const SERVING: &str = "sagad: serving gRPC on ";

/// How a daemon is started.
#[derive(Clone)]
pub struct Launch {
    /// Where the store is.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: String,
    /// Further arguments of `serve`.
    pub args: Vec<String>,
    /// A program with its arguments that runs the daemon, such as `strace -D …`. It must become the daemon.
    pub wrapper: Vec<OsString>,
    /// Variables of its environment.
    pub env: Vec<(String, String)>,
}

impl Launch {
    /// On any free port.
    pub fn on(data: &Path) -> Self {
        Launch {
            data: data.to_owned(),
            listen: "127.0.0.1:0".into(),
            args: Vec::new(),
            wrapper: Vec::new(),
            env: Vec::new(),
        }
    }

    /// With one further argument.
    pub fn arg(self, arg: &str) -> Self {
        self.args(&[arg])
    }

    /// With further arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// With a variable in its environment.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Under `strace` with these options, its trace going to a file. `-D`: the tracer runs in the background, so that signals and
    /// the exit status are the daemon's own.
    pub fn traced(mut self, trace: &Path, options: &[&str]) -> Self {
        self.wrapper = ["strace", "-D", "-f", "-q", "-o"].map(Into::into).to_vec();
        self.wrapper.push(trace.into());
        self.wrapper.extend(options.iter().map(Into::into));
        self.wrapper.push("--".into());
        self
    }

    /// Starts the process without waiting until it serves.
    pub fn spawn(&self) -> Process {
        area::enter();
        let mut words: Vec<OsString> = self.wrapper.clone();
        words.extend([SAGAD, "serve", "--listen", &self.listen, "--data"].map(OsString::from));
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
        // Both pipes are read to the end, so that the daemon never blocks on them.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let reading = read_all(child.stderr.take().unwrap(), log.clone());
        Process { child, lines, log, reading: Some(reading) }
    }

    /// Starts it and waits until it serves. Retries while the port is in use.
    pub fn start(&self) -> Daemon {
        let begun = now();
        loop {
            let mut process = self.spawn();
            match process.address() {
                Some(address) => return Daemon { launch: self.clone(), process, address, _own: None },
                None => {
                    let (status, log) = process.wait();
                    let busy = log.contains("can't listen on") && begun.elapsed() < WAIT_MAX;
                    assert!(busy, "the daemon did not start: {status}\n{log}");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// Starts a daemon that has to refuse to serve; returns its exit status and stderr.
    pub fn refused(&self) -> (ExitStatus, String) {
        let mut process = self.spawn();
        if let Some(address) = process.address() {
            panic!("the daemon was to refuse, but serves on {address}:\n{}", process.log());
        }
        process.wait()
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

/// A daemon's process, whether it serves or not. It is killed at the end of the test.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Process {
    /// The address it serves on, once it prints it; none if it ended.
    pub fn address(&mut self) -> Option<SocketAddr> {
        self.serves_at().map(|address| address.parse().unwrap())
    }

    /// The next address of those it prints, as text; none if it ended.
    pub fn serves_at(&mut self) -> Option<String> {
        match self.lines.recv_timeout(WAIT_MAX) {
            Ok(line) => Some(line.strip_prefix(SERVING).expect("a line on stdout that says where").to_owned()),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the daemon neither serves nor ends:\n{}", self.log()),
        }
    }

    /// The same, or none after this time.
    pub fn address_within(&mut self, time: Duration) -> Option<SocketAddr> {
        let line = self.lines.recv_timeout(time).ok()?;
        Some(line.strip_prefix(SERVING).expect("a line on stdout that says where").parse().unwrap())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends it a signal; one that has ended takes none.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// Whether it has ended, and how.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends, without blocking the thread, since it may wait for clients in this process; returns its exit
    /// status and stderr.
    pub async fn end(&mut self) -> (ExitStatus, String) {
        let begun = now();
        while self.has_ended().is_none() {
            assert!(begun.elapsed() < WAIT_MAX, "the daemon does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.wait()
    }

    /// Kills it and waits until it has ended.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end().await;
    }

    /// Sends SIGTERM and waits until it has ended, with exit code 0. Returns its log.
    pub async fn terminate(&mut self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.end().await;
        assert_eq!(status.code(), Some(0), "{log}");
        log
    }

    /// Waits until it ends, blocking the thread; returns its exit status and stderr.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        (status, self.log())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
    }
}

/// A daemon that serves, or has ended.
pub struct Daemon {
    launch: Launch,
    process: Process,
    address: SocketAddr,
    /// The directory that was made for it alone.
    _own: Option<TempDir>,
}

impl Daemon {
    /// A daemon with a new store.
    pub fn start() -> Self {
        Daemon::start_with(&[])
    }

    /// The same with further arguments.
    pub fn start_with(args: &[&str]) -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut daemon = Launch::on(own.path()).args(args).start();
        daemon._own = Some(own);
        daemon
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.launch.data
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.has_ended()
    }

    /// A connection of its own.
    pub async fn channel(&self) -> Channel {
        connect(self.address).await
    }

    /// A connection from another address of this machine.
    pub async fn channel_from(&self, own: [u8; 4]) -> Channel {
        connect_from(self.address, Some(own.into())).await
    }

    /// Clients on a connection of their own.
    pub async fn api(&self) -> Api {
        Api::new(self.channel().await)
    }

    /// Sends SIGTERM and does not wait.
    pub fn tell_to_end(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Sends SIGTERM and waits until it has ended, with exit code 0. Returns its log.
    pub async fn terminate(&mut self) -> String {
        self.process.terminate().await
    }

    /// Sends SIGKILL and waits until it has ended.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again, after its end, on the same store and the same port.
    pub fn start_again(&mut self) {
        self.launch.listen = self.address.to_string();
        let again = self.launch.clone().start();
        self.process = again.process;
    }

    /// Ends it by this signal.
    pub async fn end(&mut self, how: ShutdownSignal) {
        match how {
            ShutdownSignal::Term => drop(self.terminate().await),
            ShutdownSignal::Kill => self.kill().await,
        }
    }

    /// Ends it by this signal and starts it again.
    pub async fn restart(&mut self, how: ShutdownSignal) {
        self.end(how).await;
        self.start_again();
    }

    /// Replaces its arguments from the next start on.
    pub fn set_args(&mut self, args: &[&str]) {
        self.launch.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    pub fn launch(&self) -> &Launch {
        &self.launch
    }
}

/// The signal that ends a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownSignal {
    Term,
    Kill,
}

/// A connection, as soon as the address accepts one.
pub async fn connect(address: SocketAddr) -> Channel {
    connect_from(address, None).await
}

async fn connect_from(address: SocketAddr, own: Option<IpAddr>) -> Channel {
    let begun = now();
    loop {
        match Endpoint::from_shared(format!("http://{address}")).unwrap().local_address(own).connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(begun.elapsed() < WAIT_MAX, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One attempt at a connection, whose calls end after 20 s.
pub async fn channel(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?.timeout(Duration::from_secs(20)).connect().await
}
