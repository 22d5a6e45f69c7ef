//! What some tests need beside Rust and the binary. A test without it is skipped, which is said loudly; in CI (`CI=true`) it fails.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// What is there if a command succeeds. Anything else is a program, which is there if `PATH` has a file of that name.
const PROBES: [(&str, &[&str]); 4] = [
    ("mount", &["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]),
    ("pid_namespace", &["unshare", "--pid", "--fork", "--mount-proc", "true"]),
    // Of Debian's package, whatever other Python is found first.
    ("seccomp", &["/usr/bin/python3", "-c", "import seccomp"]),
    // The kernel may forbid tracing.
    ("strace", &["strace", "-f", "-o", "/dev/null", "true"]),
];

/// The first statement of a test that needs something: where that is missing, the test returns.
macro_rules! needs {
    ($($name:literal),+) => {
        if !$crate::support::tools::are_there(&[$($name),+]) {
            return;
        }
    };
}
pub(crate) use needs;

/// Whether all of these are there. If not, says loudly that the test is skipped; in CI that is a failure.
pub fn are_there(names: &[&str]) -> bool {
    let directories = directories();
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name, &directories)).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&format!("not there, or not allowed: {missing:?}"));
    false
}

fn is_there(name: &str, directories: &[PathBuf]) -> bool {
    let Some((_, command)) = PROBES.iter().find(|(probed, _)| *probed == name) else {
        return directories.iter().any(|directory| directory.join(name).is_file());
    };
    Command::new(command[0]).args(&command[1..]).output().is_ok_and(|output| output.status.success())
}

/// Says loudly that a test tests nothing here; in CI that is a failure.
pub fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "needed in CI: {why}");
    say(&format!("\n!!! SKIPPED, NOTHING WAS TESTED: {why} !!!"));
}

/// Says something on the real stderr: `eprintln!` is captured, and shown only of a test that fails.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs a script; shows what it said if it fails.
pub fn must_succeed(script: &mut Command) {
    let output = script.output().expect("bash is there");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr));
}

/// `PATH`, with the directory of the binary under test before it and the one where `go install` puts programs behind.
pub fn path_with(binary: &str) -> OsString {
    let mut all = vec![Path::new(binary).parent().expect("a binary lies in a directory").to_owned()];
    all.extend(directories());
    env::join_paths(all).expect("parts of PATH can be joined")
}

fn directories() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let go = env::var_os("GOPATH").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join("go")));
    all.extend(go.map(|go| go.join("bin")));
    all
}
