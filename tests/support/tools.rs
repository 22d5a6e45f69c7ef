//! Programs that some tests run. A test whose program is not installed is ignored: `build.rs` looks for them.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// Whether all of these can be run. If not, says loudly that the test is skipped; in CI (`CI=true`) that is a failure.
#[allow(dead_code, reason = "each test target uses a part of it")]
pub fn are_there(names: &[&str]) -> bool {
    let directories = directories();
    let missing: Vec<_> =
        names.iter().filter(|name| !directories.iter().any(|directory| directory.join(name).is_file())).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "not installed, but needed in CI: {missing:?}");
    say_skipped(&format!("not installed: {missing:?}"));
    false
}

/// Says loudly that a test tests nothing here; in CI (`CI=true`) that is a failure.
#[allow(dead_code, reason = "each test target uses a part of it")]
pub fn skip(why: &str) {
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "needed in CI: {why}");
    say_skipped(why);
}

fn say_skipped(why: &str) {
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
    if let Ok(output) = Command::new("go").args(["env", "GOPATH"]).output() {
        let gopath = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !gopath.is_empty() {
            all.push(Path::new(&gopath).join("bin"));
        }
    }
    all
}
