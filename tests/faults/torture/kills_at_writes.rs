//! Kills at each system call that writes, while a store is created, opened, or restored; and during backups. Random kills seldom
//! hit these moments.
//!
//! `strace` kills the process at its N-th call. Some N are tried; `TORTURE_EVERY=1` tries each.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use sagad::proto::*;

use super::verify;
use crate::support::{self, Launch, SAGAD, backup, binary, check, copy_data, needs, run};

/// System calls that change files.
const WRITES: &str = "write,pwrite64,fsync,fdatasync,ftruncate,fallocate,unlink,rename,renameat,renameat2,mkdir,\
                      copy_file_range,sendfile";

/// Every `stride`-th call, from a random one, so that runs try different calls.
pub fn calls(stride: usize) -> impl Iterator<Item = usize> {
    let stride = support::number("TORTURE_EVERY").map_or(stride, |every: usize| every.max(1));
    (rand::random_range(1..=stride)..).step_by(stride)
}

pub fn kill_at(call: usize) -> [String; 4] {
    ["-e".into(), format!("trace={WRITES}"), "-e".into(), format!("inject={WRITES}:signal=KILL:when={call}")]
}

/// Creates a saga, which shows that the store works; returns its revision.
pub async fn make_one(address: std::net::SocketAddr, payload_bytes: usize) -> i64 {
    let request = CreateSagaRequest { payload: vec![7; payload_bytes].into(), ..CreateSagaRequest::default() };
    let saga = support::sagas(address).await.create_saga(request).await.expect("a saga is created").into_inner().saga;
    saga.expect("the answer carries it").revision
}

#[tokio::test]
async fn p1_a_store_whose_creation_was_killed_is_created_by_the_next_start() {
    needs!("strace");
    let mut killed = 0;
    for call in calls(4) {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let options = kill_at(call);
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut daemon = Launch::on(&data).traced(&directory.path().join("trace"), &options).spawn();
        let served = daemon.address().is_some();
        if !served {
            daemon.end().await;
            killed += 1;
        }
        daemon.kill().await;
        if data.join("sagad.db").exists() {
            check(&data);
        }
        // Starts on what is left, and then once more.
        for _ in 0..2 {
            let mut daemon = Launch::on(&data).start();
            let address = daemon.address();
            make_one(address, 10).await;
            daemon.terminate().await;
            check(&data);
        }
        if served {
            break;
        }
    }
    eprintln!("killed at {killed} calls while a store was created");
    assert!(killed > 5, "too few calls were hit: {killed}");
}

#[tokio::test]
async fn p1_a_killed_start_loses_nothing() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let begun = directory.path().join("begun");
    let mut daemon = Launch::on(&begun).start();
    let address = daemon.address();
    let mut told = 0;
    for _ in 0..40 {
        told = make_one(address, 5000).await;
    }
    daemon.kill().await;
    let mut killed = 0;
    for call in calls(3) {
        let data = directory.path().join(format!("data-{call}"));
        copy_data(&begun, &data);
        let options = kill_at(call);
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut daemon = Launch::on(&data).traced(&directory.path().join("trace"), &options).spawn();
        let served = daemon.address().is_some();
        // It may be killed just after it began to serve.
        thread::sleep(Duration::from_millis(20));
        let ended = daemon.has_ended().is_some();
        daemon.kill().await;
        killed += u64::from(ended);
        check(&data);
        let mut daemon = Launch::on(&data).start();
        let address = daemon.address();
        let mut sagas = support::sagas(address).await;
        assert_eq!(verify::list(&mut sagas).await.len(), 40, "killed at call {call}");
        assert!(make_one(address, 10).await > told);
        daemon.terminate().await;
        if served && !ended {
            break;
        }
    }
    eprintln!("killed at {killed} calls of a start on an existing store");
    assert!(killed > 1, "too few calls were hit: {killed}");
}

#[tokio::test]
async fn p9_a_killed_restore_leaves_no_partial_store() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Launch::on(&directory.path().join("first")).start();
    let address = daemon.address();
    let mut told = 0;
    for _ in 0..10 {
        told = make_one(address, 3000).await;
    }
    let copy = directory.path().join("copy.db");
    std::fs::write(&copy, backup(address).await.expect("a backup")).unwrap();
    daemon.terminate().await;
    let mut killed = 0;
    for call in calls(2) {
        let data = directory.path().join(format!("data-{call}"));
        let ended = Command::new("strace")
            .args(["-f", "-q", "-o", "/dev/null"])
            .args(kill_at(call))
            .args(["--", SAGAD, "restore", copy.to_str().unwrap(), "--data", data.to_str().unwrap()])
            .output()
            .unwrap();
        killed += u64::from(!ended.status.success());
        after_a_cut_restore(&copy, &data, told).await;
        if ended.status.success() {
            break;
        }
    }
    eprintln!("killed at {killed} calls of a restore");
    assert!(killed > 5, "too few calls were hit: {killed}");
}

/// Asserts that a complete store was left, or none: then no daemon starts on it, and another restore succeeds.
async fn after_a_cut_restore(copy: &Path, data: &Path, told: i64) {
    if !data.join("sagad.db").exists() {
        if data.join("sagad.db.partial").exists() {
            let (status, log) = Launch::on(data).refused();
            assert_eq!(status.code(), Some(1));
            assert!(log.contains("restore") && log.contains("again"), "it says what to do: {log}");
        }
        let again = run(&["restore", copy.to_str().unwrap(), "--data", data.to_str().unwrap()]);
        assert!(again.status.success(), "{again:?}");
    }
    check(data);
    let mut daemon = Launch::on(data).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    assert_eq!(verify::list(&mut sagas).await.len(), 10);
    assert!(make_one(address, 10).await > told + (1 << 39), "later revisions are far above all that were assigned");
    daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_killed_backup_leaves_no_partial_file() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let file = directory.path().join("copy.db");
    let mut daemon = Launch::on(&data).start();
    let address = daemon.address();
    for _ in 0..60 {
        make_one(address, 64 << 10).await;
    }
    daemon.terminate().await;
    let mut cut_off = 0;
    for round in 0..8u64 {
        let mut daemon = Launch::on(&data).start();
        let address = daemon.address();
        let backup = binary::sagad()
            .args(["backup", file.to_str().unwrap()])
            .env("SAGAD_SERVER", format!("http://{address}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(20 + 70 * round));
        daemon.kill().await;
        let output = backup.wait_with_output().unwrap();
        assert_eq!(
            output.status.success(),
            file.exists(),
            "the copy exists if and only if the backup succeeded: {output:?}"
        );
        cut_off += u64::from(!output.status.success());
        if file.exists() {
            restored_and_whole(&file, &directory.path().join(format!("early-{round}")));
            std::fs::remove_file(&file).unwrap();
        }
        check(&data);
    }
    eprintln!("{cut_off} of 8 backups were cut off");
    let mut daemon = Launch::on(&data).start();
    let address = daemon.address();
    std::fs::write(&file, backup(address).await.expect("a backup")).unwrap();
    daemon.terminate().await;
    let left: Vec<_> = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("backup-")), "files were left: {left:?}");
    restored_and_whole(&file, &directory.path().join("restored"));
}

fn restored_and_whole(copy: &Path, data: &Path) {
    let restored = run(&["restore", copy.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    check(data);
}
