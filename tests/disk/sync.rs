//! P2: what was acknowledged survives the loss of power: the log is synced before the answer.
//!
//! `kill -9` can't show this, since the page cache survives it. So the daemon's calls to the kernel are looked at: between
//! the last write of a commit to the log and the first byte to the client there is a sync of the log that is done.

use std::path::Path;

use crate::{
    daemon::{self, Launch},
    small::{annotate, claim, create, heartbeat},
    tools,
    trace::{Act, acts, unsynced_sends},
};

/// Changes that the one client makes, one after the other.
const CHANGES: usize = 80;

/// Lets one client make its changes, one after the other, and returns what the daemon did meanwhile.
async fn traced_run(directory: &Path, mutant: &str) -> Vec<Act> {
    let file = directory.join("trace");
    let calls = "trace=pwrite64,fsync,fdatasync,sendto,sendmsg,write,writev";
    let launch = Launch::on(&directory.join("data")).traced(&file, &["-y", "-s", "8", "-e", calls]);
    let (mut daemon, address) = launch.env("SAGAD_MUTANT", mutant).start();
    let mut sagas = daemon::sagas(address).await;
    // What belongs to the start is over.
    let begun = std::fs::read_to_string(&file).unwrap().len();
    for number in 0..CHANGES / 4 {
        let task_id = format!("task-{number}");
        create(&mut sagas, &task_id, 100).await.unwrap();
        let saga = claim(&mut sagas, &task_id, 60).await.unwrap();
        heartbeat(&mut sagas, &saga).await.unwrap();
        annotate(&mut sagas, &task_id, "noted").await.unwrap();
    }
    let trace = std::fs::read_to_string(&file).unwrap();
    daemon.kill();
    acts(&trace[begun..])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_the_log_is_synced_before_every_answer() {
    if !tools::are_there(&["strace"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let acts = traced_run(directory.path(), "").await;
    let (unsynced, synced) = unsynced_sends(&acts);
    let syncs = acts.iter().filter(|act| **act == Act::LogSynced).count();
    eprintln!("{CHANGES} changes, {syncs} syncs of the log, {synced} sends right after one, {unsynced} before one");
    assert_eq!(unsynced, 0, "something was sent while the log was not synced");
    assert!(synced >= CHANGES && syncs >= CHANGES, "each change has its sync: {syncs} syncs, {synced} answers");

    // The check can fail: the same run with its syncs taken away.
    let without: Vec<_> = acts.into_iter().filter(|act| *act != Act::LogSynced).collect();
    assert!(unsynced_sends(&without).0 >= CHANGES);
}

/// The check fails on a daemon that does not sync.
#[cfg(feature = "mutants")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_the_check_finds_a_daemon_that_does_not_sync() {
    if !tools::are_there(&["strace"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let acts = traced_run(directory.path(), "synchronous-normal").await;
    let (unsynced, _) = unsynced_sends(&acts);
    eprintln!("synchronous=NORMAL: {unsynced} sends while the log was not synced");
    assert!(unsynced >= CHANGES, "the check did not find it: {unsynced}");
}
