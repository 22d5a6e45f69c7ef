//! The bench's own daemon: the same binary in a temporary directory, on a free loopback port. It ends with the bench,
//! also by an interrupt or a panic.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{preload, progress::Progress, saga_pool::SagaPool, usage::Wal};
use crate::{
    cli::errors::CliError,
    client::{Client, ClientOptions, time},
    private_files,
    proto::GetSagaRequest,
};

/// How long the daemon may take to end; its drain grace is 10 s.
const END: Duration = Duration::from_secs(20);
/// The pause between two checks of it.
const LOOK: Duration = Duration::from_millis(10);

/// A running daemon and its directory, which is removed when this is dropped.
pub struct Daemon {
    child: Child,
    address: String,
    wal: Wal,
    dir: TempDir,
}

/// Creates a temporary directory in `dir`, or in the system's default place.
pub fn temporary(dir: Option<&Path>) -> Result<TempDir, CliError> {
    let place = dir.map_or_else(env::temp_dir, Path::to_owned);
    let made = private_files::temporary_directory(&place, "sagad-bench-");
    made.map_err(|error| CliError::Usage(format!("can't make a directory in {}: {error}", place.display())))
}

impl Daemon {
    /// Starts it in this directory and waits for its first answer; also returns how long that took.
    pub async fn start(dir: TempDir) -> Result<(Self, Duration), CliError> {
        let begun = time::now();
        let (child, address) = spawn(dir.path())?;
        let wal = Wal::watch(dir.path().join("data/sagad.db-wal"));
        // From here on it is ended when this is dropped.
        let daemon = Daemon { child, address, wal, dir };
        daemon.first_answer().await?;
        Ok((daemon, time::now().since(begun)))
    }

    /// Restarts it on its store; also returns how long it took until its first answer.
    pub async fn again(mut self) -> Result<(Self, Duration), CliError> {
        self.end();
        let begun = time::now();
        (self.child, self.address) = spawn(self.dir.path())?;
        self.first_answer().await?;
        Ok((self, time::now().since(begun)))
    }

    /// Stops it, adds these sagas to its store directly, and starts it again. Its earlier log size doesn't count.
    pub async fn filled(mut self, pool: &SagaPool, progress: &Progress) -> Result<Self, CliError> {
        self.end();
        preload::directly(&self.dir.path().join("data"), pool, progress).await?;
        (self.child, self.address) = spawn(self.dir.path())?;
        self.wal = Wal::watch(self.dir.path().join("data/sagad.db-wal"));
        self.first_answer().await?;
        Ok(self)
    }

    /// Client options for it.
    pub fn options(&self) -> ClientOptions {
        ClientOptions { server: format!("http://{}", self.address), ..ClientOptions::default() }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its write-ahead log.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Waits for its first answer. NOT_FOUND is one, for which the store has been read.
    async fn first_answer(&self) -> Result<(), CliError> {
        let client = Client::connect(&self.options()).map_err(|e| CliError::Failed(e.to_string()))?;
        let request = GetSagaRequest { task_id: "none".to_owned(), ..Default::default() };
        match client.sagas().get_saga(client.unary(request)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    /// Ends it, gracefully if possible.
    fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // If it has ended already, it has not been waited for, so the pid is still its own.
        pid.map(|pid| kill_process(pid, Signal::TERM));
        let until = time::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && time::now() < until {
            thread::sleep(LOOK);
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the process; returns once it reports its address.
fn spawn(dir: &Path) -> Result<(Child, String), CliError> {
    let log: PathBuf = dir.join("log");
    let written = private_files::open_or_create(&log)?;
    // The log of an earlier daemon is not needed.
    written.set_len(0)?;
    let mut child = Command::new(env::current_exe()?)
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(dir.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(written)
        // An interrupt at the terminal goes to the bench, which then ends the daemon.
        .process_group(0)
        .spawn()?;
    let mut line = String::new();
    let read = match child.stdout.take() {
        Some(stdout) => BufReader::new(stdout).read_line(&mut line),
        None => Err(io::Error::other("it has no standard output")),
    };
    match (read, line.trim_end().strip_prefix("sagad: serving gRPC on ")) {
        (Ok(_), Some(address)) => Ok((child, address.to_owned())),
        (_, _) => {
            child.kill().ok();
            child.wait().ok();
            let told = fs::read_to_string(&log).unwrap_or_default();
            let last = told.lines().last().unwrap_or("it said nothing");
            Err(CliError::Failed(format!("the daemon did not start: {last}")))
        }
    }
}
