//! `docs/how-to/secure.md` is run as it stands there: certificates, tokens, a daemon, and everything changed under it.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::{SAGAD, needs, tools};

#[test]
fn the_page_does_what_it_shows() {
    needs!("bash", "grpcurl", "jq", "openssl");
    let directory = tempfile::tempdir().unwrap();
    // Nobody else takes it in the moment until the page's daemon does.
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
    // Should it have ended early, its daemon has not.
    let _ = kill_process_group(group, Signal::KILL);
    let output = output.unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{}\n{log}", said(&output.stdout), said(&output.stderr));
}
