//! The session of the README, and the recipes of `docs/debugging.md`, are run as they stand there, against a real daemon; and the
//! figures of `docs/limits.md` are computed.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::support::tools;

const SAGAD: &str = env!("CARGO_BIN_EXE_sagad");

/// A daemon that is killed when the test is over, however it ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    /// Starts it on any free port; returns it with its address.
    fn start(data: &std::path::Path) -> (Self, String) {
        let mut child = Command::new(SAGAD)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary under test can be run");
        let stdout = child.stdout.take().expect("it is piped");
        let daemon = Daemon(child);
        let (sender, first_line) = mpsc::channel();
        // The thread goes on reading to the end, so that the daemon never waits for a reader.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = first_line.recv_timeout(Duration::from_secs(30)).expect("the daemon says where it serves");
        let address = line.strip_prefix("sagad: serving gRPC on ").expect("its first line says where it serves");
        (daemon, address.to_owned())
    }
}

/// Runs a page's blocks against a daemon of its own.
fn does_what_it_shows(page: &str) {
    let data = tempfile::tempdir().expect("a directory can be made");
    let (_daemon, address) = Daemon::start(data.path());
    let root = env!("CARGO_MANIFEST_DIR");
    tools::must_succeed(
        Command::new("bash")
            .arg(format!("{root}/tests/support/readme.sh"))
            .arg(format!("{root}/{page}"))
            .arg(address)
            .env("PATH", tools::path_with(SAGAD))
            .current_dir(data.path()),
    );
}

#[test]
#[cfg_attr(any(without_bash, without_grpcurl, without_jq), ignore = "needs bash, grpcurl and jq")]
fn the_readme_does_what_it_shows() {
    does_what_it_shows("README.md");
}

#[test]
#[cfg_attr(any(without_bash, without_grpcurl, without_jq), ignore = "needs bash, grpcurl and jq")]
fn the_recipes_for_debugging_do_what_they_show() {
    does_what_it_shows("docs/debugging.md");
}

#[test]
#[cfg_attr(any(without_bash, without_grpcurl, without_jq), ignore = "needs bash, grpcurl and jq")]
fn the_page_on_operating_does_what_it_shows() {
    does_what_it_shows("docs/operations.md");
}
