//! The binary under test, run against a fake coordinator without blocking the runtime.

use std::{process::Stdio, time::Duration};

use tokio::process::{Child, Command};

use crate::support::SAGAD;

/// Starts the binary.
pub fn spawn(server: &str, arguments: &[&str]) -> Child {
    Command::new(SAGAD)
        .args(arguments)
        .env("SAGAD_SERVER", server)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary runs")
}

/// Runs the binary; returns its exit code, stdout and stderr.
pub async fn run(server: &str, arguments: &[&str]) -> (i32, String, String) {
    finish(spawn(server, arguments)).await
}

/// Waits until it ends; returns its exit code, stdout and stderr.
pub async fn finish(child: Child) -> (i32, String, String) {
    let output = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output());
    let output = output.await.expect("it ends in time").expect("it ran");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
