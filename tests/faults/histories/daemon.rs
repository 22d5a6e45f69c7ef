//! The daemon as a process that is killed and started again, always on the same address.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

pub struct Daemon {
    binary: PathBuf,
    mutant: Option<&'static str>,
    data: tempfile::TempDir,
    child: Option<Child>,
    pub address: SocketAddr,
    pub kills: u64,
}

impl Daemon {
    pub fn start(binary: &Path, mutant: Option<&'static str>) -> Self {
        let data = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut daemon = Daemon { binary: binary.into(), mutant, data, child: None, address, kills: 0 };
        daemon.spawn();
        daemon
    }

    /// Starts it and waits until it serves.
    fn spawn(&mut self) {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--restart-grace", "200ms", "--log", "warn", "--listen", &self.address.to_string()]);
        command.arg("--data").arg(self.data.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(mutant) = self.mutant {
            command.env("SAGAD_MUTANT", mutant);
        }
        let mut child = command.spawn().expect("the daemon can be run");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.address = line.trim().rsplit(' ').next().and_then(|a| a.parse().ok()).expect("it says where it serves");
        self.child = Some(child);
    }

    /// Kills it at once, and starts it again.
    pub fn kill_and_start(&mut self) {
        self.kills += 1;
        self.kill();
        self.spawn();
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
