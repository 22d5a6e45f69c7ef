//! The systemd units: their restrictions allow what the daemon and the backup need.

use std::{
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{self, Launch, SAGAD, binary, needs, tools};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The begin of a command line that runs a program under the filter of a unit, as a user other than root.
fn confined(unit: &str) -> Vec<PathBuf> {
    // Debian's Python, because the library is a Debian package.
    let python = PathBuf::from("/usr/bin/python3");
    let mut words = Vec::new();
    if rustix::process::geteuid().is_root() {
        // As root, SQLite gives its files to the directory's owner, which the daemon may not do.
        words.extend(["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"].map(PathBuf::from));
    }
    words.extend([python, root().join("tests/deploy/run_under_filter.py"), root().join("deploy/systemd").join(unit)]);
    words
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// Runs a client command outside of the filter.
fn sagad(address: &str, words: &str) {
    succeeds(binary::sagad().args(["--server", address]).args(words.split(' ')));
}

#[tokio::test]
async fn the_units_restrictions_allow_all_that_the_daemon_does() {
    needs!("systemd-analyze", "seccomp");
    let confined = confined("sagad.service");
    let directory = tempfile::tempdir().unwrap();
    let mut launch = Launch::on(&directory.path().join("data"));
    // A small log, so that it is restarted, which needs system calls, too.
    launch = launch.arg("--max-wal-bytes=1MiB");
    launch.wrapper = confined.into_iter().map(Into::into).collect();
    for _again in 0..2 {
        let mut daemon = launch.start();
        let address = daemon.address();
        let server = format!("http://{address}");
        let copy = directory.path().join("copy.db");
        for mode in ["cycle", "keepalive"] {
            sagad(
                &server,
                &format!("bench --mode {mode} --clients 8 --connections 2 --duration 1s --warmup 0s --preload 500"),
            );
        }
        sagad(&server, "create --queue confined --compensate undo=it");
        sagad(&server, "work --queue confined --drain -- true");
        sagad(&server, "stats");
        sagad(&server, "health");
        sagad(&server, &format!("backup --force {}", copy.display()));
        daemon.terminate().await;
    }
    support::check(&launch.data);
}

#[test]
fn the_backup_units_restrictions_allow_a_backup_and_its_check() {
    needs!("systemd-analyze", "seccomp");
    let confined = confined("sagad-backup.service");
    let directory = tempfile::tempdir().unwrap();
    let daemon = Launch::on(&directory.path().join("data")).start();
    let address = daemon.address();
    let server = format!("http://{address}");
    let copies = directory.path().join("copies");
    let script = root().join("deploy/systemd/sagad-rotate-backups");
    let backup = |keep: &str, server: &str| {
        let mut command = Command::new(&confined[0]);
        command.args(&confined[1..]).arg(&script).arg(&copies).arg(keep);
        command.env("SAGAD_SERVER", server).env("PATH", tools::path_with(SAGAD)).output().unwrap()
    };
    let names = || {
        let entries = std::fs::read_dir(&copies).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // Older backups, and another file.
    std::fs::create_dir(&copies).unwrap();
    for name in ["sagad-20200101T000000Z.db", "sagad-20210101T000000Z.db", "sagad-before-upgrade.db"] {
        std::fs::write(copies.join(name), "").unwrap();
    }
    let output = backup("2", &server);
    assert!(output.status.success(), "{output:?}");
    let made = String::from_utf8(output.stdout).unwrap();
    let kept = names();
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert_eq!(kept[0], "sagad-20210101T000000Z.db", "the oldest is gone");
    assert_eq!(kept[2], "sagad-before-upgrade.db", "files of others are kept");
    assert!(made.trim_end().ends_with(&kept[1]), "{made} {kept:?}");

    // A failed backup removes nothing and leaves nothing.
    drop(daemon);
    assert!(!backup("1", &server).status.success());
    assert_eq!(names(), kept);
    assert_eq!(backup("0", &server).status.code(), Some(2));
}

#[test]
fn a_forbidden_system_call_ends_the_process() {
    needs!("systemd-analyze", "seccomp");
    let confined = confined("sagad.service");
    // Run by the filter's own interpreter, so that nothing else can fail.
    for (call, signal) in [
        ("os.getpid()", None),
        ("os.chroot('/')", Some(libc_sigsys())),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", Some(libc_sigsys())),
        ("mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)", Some(libc_sigsys())),
    ] {
        let python = format!("import mmap, os, socket; {call}");
        let output =
            Command::new(&confined[0]).args(&confined[1..]).arg("/usr/bin/python3").args(["-c", &python]).output();
        let output = output.unwrap();
        assert_eq!(output.status.signal(), signal, "{call}: {output:?}");
    }
}

fn libc_sigsys() -> i32 {
    rustix::process::Signal::SYS.as_raw()
}
