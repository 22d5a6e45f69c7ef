//! Programs that some tests need. Without one its tests are skipped and say so on stderr; in CI (`CI=true`) they fail.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// Tools that are available if a command succeeds. Any other is a program, available if `PATH` has a file of that name.
const PROBES: [(&str, &[&str]); 4] = [
    ("mount", &["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]),
    ("pid_namespace", &["unshare", "--pid", "--fork", "--mount-proc", "true"]),
    // Of Debian's package, whatever other Python is found first.
    ("seccomp", &["/usr/bin/python3", "-c", "import seccomp"]),
    // The kernel may forbid tracing.
    ("strace", &["strace", "-f", "-o", "/dev/null", "true"]),
];

/// The first statement of a test that needs tools: it returns if one is missing.
macro_rules! needs {
    ($($name:literal),+) => {
        if !$crate::support::tools::are_there(&[$($name),+]) {
            return;
        }
    };
}
pub(crate) use needs;

/// True if all of these are available. If not, reports that the test is skipped; fails in CI.
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

/// Reports that a test is skipped; fails in CI.
pub fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "needed in CI: {why}");
    say(&format!("\n!!! SKIPPED, NOTHING WAS TESTED: {why} !!!"));
}

/// Prints on the real stderr: the output of `eprintln!` is shown only if the test fails.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Runs a script, which must succeed; prints its output if it fails.
pub fn must_succeed(script: &mut Command) {
    let output = script.output().expect("bash is there");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr));
}

/// `PATH`, with the directory of the binary under test before it and that of `go install` after it.
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
