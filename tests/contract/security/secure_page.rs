//! Runs the commands of `docs/how-to/secure.md`: certificates, tokens, a daemon, and changes of all of them while it runs.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::{SAGAD, needs, tools};

#[test]
fn the_commands_of_the_secure_page_work() {
    needs!("bash", "grpcurl", "jq", "openssl");
    let directory = tempfile::tempdir().unwrap();
    // The port stays bound until the page's daemon takes it, so that no other process can.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let child = Command::new("bash")
        .arg(format!("{root}/tests/support/readme.sh"))
        .arg(format!("{root}/docs/how-to/secure.md"))
        .arg(address.to_string())
        .env("PATH", tools::path_with(SAGAD))
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let output = child.wait_with_output();
    // The script may have ended early without ending its daemon.
    let _ = kill_process_group(group, Signal::KILL);
    let output = output.unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{}\n{log}", said(&output.stdout), said(&output.stderr));
}
