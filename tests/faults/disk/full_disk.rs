//! P4: a full disk refuses changes, keeps serving reads, keeps leases, and recovers when there is room.

use std::{fs, path::Path, process::Command, time::Duration};

use rusqlite::Connection;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::requests::{claim, create, get, heartbeat};
use crate::support::{self, Daemon, Launch, Sagas, SmallDisk, check, needs, reason};

/// The bytes of a frame in the log, and the number of frames in the first part of its index.
const FRAME: u64 = 24 + 4096;
const INDEXED: u64 = 4062;

fn is_full(status: &Status) -> bool {
    let refused = (status.code(), reason(status).as_str()) == (Code::ResourceExhausted, "STORE_FULL");
    assert!(!refused || status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
    refused
}

/// A store of some hundred KiB fills its disk, and then gets room again. A small change that fits into the existing log, such as
/// a heartbeat, may be accepted meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_full_disk_refuses_and_recovers() {
    needs!("mount");
    let disk = SmallDisk::mount("900k");
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 256 << 10]).unwrap();
    let data = disk.path().join("data");
    let mut daemon = Launch::on(&data).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    create(&mut sagas, "held", 10).await.unwrap();
    let held = claim(&mut sagas, "held", 3).await.unwrap();

    let (mut made, mut refused, mut in_a_row, mut renewed) = (Vec::new(), 0, 0, 0);
    while in_a_row < 30 {
        let task_id = format!("task-{}", made.len());
        match create(&mut sagas, &task_id, 8 << 10).await {
            Ok(saga) => {
                made.push(saga);
                in_a_row = 0;
            }
            Err(status) => {
                assert!(is_full(&status), "{status:?}");
                refused += 1;
                in_a_row += 1;
                let read = get(&mut sagas, &made[refused % made.len()].task_id).await.expect("reads are served");
                assert_eq!(read.payload.len(), 8 << 10);
            }
        }
        match heartbeat(&mut sagas, &held).await {
            Ok(_) => renewed += 1,
            Err(status) => assert!(is_full(&status), "{status:?}"),
        }
        assert!(made.len() < 1000, "the disk does not fill");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(daemon.has_ended().is_none(), "{}", daemon.log());

    fs::remove_file(&ballast).unwrap();
    let begun = support::now();
    while let Err(status) = create(&mut sagas, "now", 8 << 10).await {
        assert!(is_full(&status), "{status:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "it does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = made.len();
    eprintln!("{count} sagas fit, {refused} refused, {renewed} heartbeats accepted; room after {:?}", begun.elapsed());
    heartbeat(&mut sagas, &held).await.expect("the lease is still valid");
    daemon.kill().await;
    check(&data);
    let mut daemon = Launch::on(&data).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    for saga in &made {
        assert_eq!(get(&mut sagas, &saga.task_id).await.expect("the saga was acknowledged").payload, saga.payload);
    }
    let next = get(&mut sagas, &format!("task-{count}")).await;
    assert_eq!(next.expect_err("the saga was refused").code(), Code::NotFound);
    daemon.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_leases_have_their_grace_after_a_full_disk() {
    needs!("strace");
    leases_are_kept_while_writes_are_told("ENOSPC").await;
}

/// SQLite reports an exhausted quota like a failing disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_an_exhausted_quota_is_treated_as_a_full_disk() {
    needs!("strace");
    leases_are_kept_while_writes_are_told("EDQUOT").await;
}

/// Every write fails for lack of room, for longer than a lease: no heartbeat is possible, and no other owner may get the lease.
async fn leases_are_kept_while_writes_are_told(error: &str) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut daemon = Launch::on(&data).arg("--restart-grace=3s").start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    create(&mut sagas, "held", 10).await.unwrap();
    create(&mut sagas, "silent", 10).await.unwrap();
    let held = claim(&mut sagas, "held", 2).await.unwrap();
    claim(&mut sagas, "silent", 2).await.unwrap();
    let mut full = Command::new("strace")
        .args(["-f", "-q", "-o", "/dev/null", "-e", "trace=pwrite64"])
        .args(["-e", &format!("inject=pwrite64:error={error}"), "-p"])
        .arg(daemon.pid().as_raw_nonzero().to_string())
        .spawn()
        .unwrap();
    let begun = support::now();
    let (mut refused, mut accepted) = (0, 0);
    while begun.elapsed() < Duration::from_secs(4) {
        match heartbeat(&mut sagas, &held).await {
            // Until the tracer is attached.
            Ok(_) => accepted += 1,
            Err(status) => {
                assert!(is_full(&status), "{status:?}\n{}", daemon.log());
                refused += 1;
            }
        }
        get(&mut sagas, "held").await.expect("reads are served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // strace detaches from the daemon on SIGTERM.
    rustix::process::kill_process(rustix::process::Pid::from_child(&full), rustix::process::Signal::TERM).unwrap();
    full.wait().unwrap();
    for task_id in ["held", "silent"] {
        let begun = support::now();
        let status = loop {
            match claim(&mut sagas, task_id, 2).await {
                Err(status) if is_full(&status) => {}
                other => break other.expect_err("the lease is in its grace"),
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "it does not recover");
        };
        assert_eq!(reason(&status), "LEASE_HELD", "{status:?}");
    }
    heartbeat(&mut sagas, &held).await.expect("the lease has its grace");
    eprintln!("{accepted} heartbeats before the disk was full, {refused} refused; then accepted again");
    assert!(refused > 20);
    daemon.terminate().await;
    check(&data);
}

/// The log's index grows by 32 KiB for every 4062 frames, which can fail on a full disk, too. A long read keeps the log growing.
/// Then so much room is left that the frames fit, but the larger index does not. The commit is then in the log, and it is
/// unknown whether it happened: the daemon reports that and ends, as after any failed commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_full_disk_for_the_index_of_the_log_loses_nothing() {
    needs!("mount");
    for step in 0..7 {
        let disk = SmallDisk::mount("48m");
        let ballast = disk.path().join("ballast");
        let data = disk.path().join("data");
        let mut daemon = Launch::on(&data).start();
        let address = daemon.address();
        let mut sagas = support::sagas(address).await;
        create(&mut sagas, "first", 10).await.unwrap();
        let reader = Connection::open(data.join("sagad.db")).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        reader.query_row("SELECT count(*) FROM saga", [], |row| row.get::<_, i64>(0)).unwrap();
        let frames = || (data.join("sagad.db-wal").metadata().unwrap().len() - 32) / FRAME;
        let mut made = 0;
        while frames() < INDEXED - 60 {
            create(&mut sagas, &format!("task-{made}"), if frames() < INDEXED - 200 { 60 << 10 } else { 10 })
                .await
                .unwrap();
            made += 1;
        }
        fill(&ballast, disk.path(), (INDEXED - frames()) * FRAME + step * (16 << 10));
        let status = loop {
            match create(&mut sagas, &format!("task-{made}"), 60 << 10).await {
                Ok(_) => made += 1,
                Err(status) => break status,
            }
        };
        fs::remove_file(&ballast).unwrap();
        drop(reader);
        if !is_full(&status) {
            assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{step}: {status:?}");
            let (ended, log) = daemon.process().end().await;
            assert_eq!(ended.code(), Some(1));
            assert!(log.contains("the store failed: disk I/O error") && log.contains("free space"), "{log}");
            eprintln!("step {step}: ended with OUTCOME_UNKNOWN");
            (daemon, sagas) = started_again(&data).await;
        }
        let begun = support::now();
        while let Err(status) = create(&mut sagas, &format!("task-{made}"), 60 << 10).await {
            // The change may have happened before the daemon ended.
            if reason(&status) == "SAGA_EXISTS" {
                break;
            }
            assert!(is_full(&status) && daemon.has_ended().is_none(), "{step}: {status:?}\n{}", daemon.log());
            assert!(begun.elapsed() < Duration::from_secs(5), "it does not recover");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for number in 0..made {
            get(&mut sagas, &format!("task-{number}")).await.expect("the saga was acknowledged");
        }
        daemon.kill().await;
        check(&data);
    }
}

async fn started_again(data: &Path) -> (Daemon, Sagas) {
    let daemon = Launch::on(data).start();
    let address = daemon.address();
    (daemon, support::sagas(address).await)
}

/// Writes ballast until only this many bytes are free.
fn fill(ballast: &Path, disk: &Path, left: u64) {
    let state = rustix::fs::statvfs(disk).unwrap();
    let free = state.f_bavail * state.f_frsize;
    fs::write(ballast, vec![1; usize::try_from(free.saturating_sub(left)).unwrap()]).unwrap();
}
