//! P2: what was acknowledged survives the loss of power: the log is synced before the answer.
//!
//! `kill -9` can't show this, since the page cache survives it. So the daemon's calls to the kernel are looked at. Each change
//! carries a mark that no other has: the write of the log that holds it, a sync of the log that is done, and the first byte
//! of the change's answer have to come in this order.

use std::path::Path;

use sagad::proto::{AnnotateRequest, ClaimRequest, CreateSagaRequest, HeartbeatRequest};

use super::{
    small::seconds,
    trace::{Act, Change, acts, answered_early},
};
use crate::support::{self, Launch, needs};

/// Changes that the one client makes, one after the other.
const CHANGES: usize = 80;

/// Lets one client make its changes, one after the other, and returns what the daemon did meanwhile, and the changes.
///
/// Whatever `SAGAD_MUTANT` says goes to the daemon, too: see `.ci/mutants`.
async fn traced_run(directory: &Path) -> (Vec<Act>, Vec<Change>) {
    let file = directory.join("trace");
    let calls = "trace=pwrite64,fsync,fdatasync,sendto,sendmsg,write,writev";
    // A page is written whole.
    let launch = Launch::on(&directory.join("data")).traced(&file, &["-y", "-s", "8192", "-e", calls]);
    let mut daemon = launch.start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    // What belongs to the start is over.
    let begun = std::fs::read_to_string(&file).unwrap().len();
    for number in 0..CHANGES / 4 {
        let task_id = format!("made-{number:03}.");
        let request = CreateSagaRequest { task_id: task_id.clone(), ..CreateSagaRequest::default() };
        sagas.create_saga(request).await.unwrap();
        let owner_id = format!("held-{number:03}.");
        let request = ClaimRequest {
            task_id: task_id.clone(),
            owner_id: owner_id.clone(),
            ttl: seconds(60),
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
    // A client's streams have odd numbers, in order.
    let changes = marks.zip((1..).step_by(2)).map(|(mark, stream)| Change { mark, stream });
    (acts(&trace[begun..]), changes.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_the_log_is_synced_before_every_answer() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let (acts, changes) = traced_run(directory.path()).await;
    let syncs = acts.iter().filter(|act| **act == Act::LogSynced).count();
    let early = answered_early(&acts, &changes);
    eprintln!("{CHANGES} changes, {syncs} syncs of the log, {} answers before what they tell was synced", early.len());
    assert_eq!(early, Vec::<String>::new(), "answered before what they tell was synced, or never seen to be written");

    // The check can fail: the same run with its syncs taken away, and with each answer before its write.
    let without: Vec<_> = acts.iter().filter(|act| **act != Act::LogSynced).cloned().collect();
    assert_eq!(answered_early(&without, &changes).len(), CHANGES);
    let (answers, others): (Vec<_>, Vec<_>) = acts.into_iter().partition(|act| matches!(act, Act::Answer(_)));
    let mut answers = answers.into_iter();
    let mut shifted: Vec<_> = answers.next().into_iter().collect();
    for act in others {
        let is_sync = act == Act::LogSynced;
        shifted.push(act);
        shifted.extend(answers.next().filter(|_| is_sync));
    }
    assert!(answered_early(&shifted, &changes).len() > CHANGES / 2);
}
