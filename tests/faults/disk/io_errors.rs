//! P3: a failing disk ends the daemon, and it never answers OK for a change that may be lost.
//!
//! `strace` makes the N-th sync or write of a thread fail with EIO, for each N of a short run.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use sagad::proto::Saga;
use tonic::Status;

use super::requests::{annotate, claim, create, get};
use crate::support::{self, Launch, Sagas, check, copy_data, needs, number};

/// The result of a run on a failing disk.
struct FailingRun {
    /// Each saga as it was last acknowledged.
    acknowledged: HashMap<String, Saga>,
    /// Exit code and stderr, if the daemon ended by itself.
    ended: Option<(Option<i32>, String)>,
    served: bool,
}

async fn changes(sagas: &mut Sagas, acknowledged: &mut HashMap<String, Saga>) -> Result<(), Status> {
    for number in 0..6 {
        let task_id = format!("task-{number}");
        let saga = create(sagas, &task_id, 1000).await?;
        acknowledged.insert(task_id.clone(), saga);
        let saga = claim(sagas, &task_id, 3600).await?;
        acknowledged.insert(task_id.clone(), saga);
        let saga = annotate(sagas, &task_id, "noted").await?;
        acknowledged.insert(task_id, saga);
    }
    Ok(())
}

/// A short run in which each thread's N-th call of a kind fails.
async fn run_failing(directory: &Path, begun: Option<&Path>, calls: &str, nth: usize) -> FailingRun {
    let data = directory.join("data");
    if let Some(begun) = begun {
        copy_data(begun, &data);
    }
    let inject = format!("inject={calls}:error=EIO:when={nth}");
    let options = ["-e", &format!("trace={calls}"), "-e", &inject];
    let mut daemon = Launch::on(&data).traced(&directory.join("trace"), &options).spawn();
    let mut acknowledged = HashMap::new();
    let Some(address) = daemon.address() else {
        let (status, log) = daemon.end().await;
        return FailingRun { acknowledged, ended: Some((status.code(), log)), served: false };
    };
    let mut failure = None;
    if let Ok(channel) = support::channel(address).await {
        failure = changes(&mut Sagas::new(channel), &mut acknowledged).await.err();
    }
    let ended = match failure {
        Some(_) => {
            let (status, log) = daemon.end().await;
            Some((status.code(), log))
        }
        None => {
            daemon.kill().await;
            None
        }
    };
    FailingRun { acknowledged, ended, served: true }
}

/// The number of runs that failed before they served, and while they served.
#[derive(Clone, Copy, Debug, Default)]
struct FailureCounts {
    refused: u32,
    stopped: u32,
}

/// Increases N until a run ends without a failure, on an existing store or without one.
async fn sweep(begun: Option<&Path>, calls: &str, step: usize) -> FailureCounts {
    let FailureCounts { mut refused, mut stopped } = FailureCounts::default();
    let mut last = 0;
    for nth in (1..).step_by(step) {
        let directory = tempfile::tempdir().unwrap();
        let run = run_failing(directory.path(), begun, calls, nth).await;
        let injected = std::fs::read_to_string(directory.path().join("trace")).unwrap().contains("(INJECTED)");
        last = nth;
        if let Some((code, log)) = &run.ended {
            assert_eq!(*code, Some(1), "{calls} {nth}: it ends with exit code 1:\n{log}");
            assert!(log.contains("disk I/O error") || log.contains("Input/output error"), "it says why: {log}");
            if run.served { stopped += 1 } else { refused += 1 }
        }
        nothing_is_lost(&directory.path().join("data"), &run).await;
        if !injected && run.ended.is_none() {
            break;
        }
    }
    eprintln!("{calls}: up to the {last}th; {refused} runs ended before they served, {stopped} while they did");
    FailureCounts { refused, stopped }
}

/// A small closed store.
async fn begun(directory: &Path) -> PathBuf {
    let data = directory.join("begun");
    let mut daemon = Launch::on(&data).start();
    daemon.terminate().await;
    data
}

async fn nothing_is_lost(data: &Path, run: &FailingRun) {
    let mut daemon = Launch::on(data).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    for (task_id, known) in &run.acknowledged {
        let saga = get(&mut sagas, task_id).await.expect("an acknowledged saga exists");
        assert!(saga.revision >= known.revision, "lost: {known:?} {saga:?}");
        assert_eq!(saga.lease.is_some(), known.lease.is_some() || saga.revision > known.revision);
    }
    // At most the change that was being written when the disk failed exists without an acknowledgement.
    let told = run.acknowledged.values().map(|saga| saga.revision).max().unwrap_or(0);
    let created = create(&mut sagas, "afterwards", 10).await.expect("changes are accepted again");
    assert!(created.revision > told);
    daemon.terminate().await;
    check(data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_sync_that_fails_ends_the_daemon() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let swept = sweep(Some(&begun(directory.path()).await), "fsync,fdatasync", 1).await;
    // strace counts the calls of each thread: while N is in the range of the thread that opens the store, the writer is not reached.
    assert!(swept.refused + swept.stopped >= 18 && swept.stopped >= 10, "each change has a sync: {swept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_write_that_fails_ends_the_daemon() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let swept = sweep(Some(&begun(directory.path()).await), "pwrite64", number("TORTURE_EVERY").unwrap_or(7)).await;
    assert!(swept.stopped >= 10, "too few failures met a change: {swept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_no_store_is_created_on_a_failing_disk() {
    needs!("strace");
    let swept = sweep(None, "fsync,fdatasync", 1).await;
    assert!(swept.refused >= 3, "making a store has syncs that can fail: {swept:?}");
}
