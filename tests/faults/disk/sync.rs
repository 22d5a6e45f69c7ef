//! P2: acknowledged changes survive a loss of power, because the log is synced before the answer.
//!
//! `kill -9` can't show this, since the page cache survives it, so the test traces the daemon's system calls. Each change has a
//! unique mark. The write of the log with the mark, the end of a sync of the log, and the first byte of the change's answer must
//! come in this order.

use std::path::Path;

use sagad::proto::{AnnotateRequest, ClaimRequest, CreateSagaRequest, HeartbeatRequest};

use super::trace::{Change, KernelCall, answered_early, kernel_calls};
use crate::support::{self, Launch, needs};

/// The number of changes, made one after the other.
const CHANGES: usize = 80;

/// Makes the changes and returns the daemon's system calls and the changes.
///
/// `SAGAD_MUTANT` is passed on to the daemon: see `.ci/mutants`.
async fn traced_run(directory: &Path) -> (Vec<KernelCall>, Vec<Change>) {
    let file = directory.join("trace");
    let calls = "trace=pwrite64,fsync,fdatasync,sendto,sendmsg,write,writev";
    // Whole pages must be in the trace.
    let launch = Launch::on(&directory.join("data")).traced(&file, &["-y", "-s", "8192", "-e", calls]);
    let mut daemon = launch.start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    // The start is over.
    let begun = std::fs::read_to_string(&file).unwrap().len();
    for number in 0..CHANGES / 4 {
        let task_id = format!("made-{number:03}.");
        let request = CreateSagaRequest { task_id: task_id.clone(), ..CreateSagaRequest::default() };
        sagas.create_saga(request).await.unwrap();
        let owner_id = format!("held-{number:03}.");
        let request = ClaimRequest {
            task_id: task_id.clone(),
            owner_id: owner_id.clone(),
            ttl: support::secs(60),
            ..ClaimRequest::default()
        };
        let saga = sagas.claim(request).await.unwrap().into_inner().saga.unwrap();
        let request = HeartbeatRequest {
            task_id: task_id.clone(),
            owner_id,
            fencing_token: saga.lease.unwrap().fencing_token,
            progress: Some(format!("beat-{number:03}.").into()),
            ..HeartbeatRequest::default()
        };
        sagas.heartbeat(request).await.unwrap();
        let request = AnnotateRequest {
            task_id,
            actor: "somebody".into(),
            note: format!("note-{number:03}."),
            ..AnnotateRequest::default()
        };
        sagas.annotate(request).await.unwrap();
    }
    let trace = std::fs::read_to_string(&file).unwrap();
    daemon.kill().await;
    let marks = (0..CHANGES).map(|n| format!("{}-{:03}.", ["made", "held", "beat", "note"][n % 4], n / 4));
    // A client's streams have consecutive odd numbers.
    let changes = marks.zip((1..).step_by(2)).map(|(mark, stream)| Change { mark, stream });
    (kernel_calls(&trace[begun..]), changes.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_the_log_is_synced_before_every_answer() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let (kernel_calls, changes) = traced_run(directory.path()).await;
    let syncs = kernel_calls.iter().filter(|act| **act == KernelCall::LogSynced).count();
    let early = answered_early(&kernel_calls, &changes);
    eprintln!("{CHANGES} changes, {syncs} syncs of the log, {} answers before the sync of their change", early.len());
    assert_eq!(early, Vec::<String>::new(), "answered before the sync of the change, or its write was not found");

    // The check can fail: on the same run without its syncs, and with each answer before its write.
    let without: Vec<_> = kernel_calls.iter().filter(|act| **act != KernelCall::LogSynced).cloned().collect();
    assert_eq!(answered_early(&without, &changes).len(), CHANGES);
    let (answers, others): (Vec<_>, Vec<_>) =
        kernel_calls.into_iter().partition(|act| matches!(act, KernelCall::Answer(_)));
    let mut answers = answers.into_iter();
    let mut shifted: Vec<_> = answers.next().into_iter().collect();
    for act in others {
        let is_sync = act == KernelCall::LogSynced;
        shifted.push(act);
        shifted.extend(answers.next().filter(|_| is_sync));
    }
    assert!(answered_early(&shifted, &changes).len() > CHANGES / 2);
}
