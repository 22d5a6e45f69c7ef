//! Retention of the real daemon: which sagas are purged, what watches are told, and exports.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use sagad::proto::*;
use serde_json::Value;
use tonic::Code;

use crate::{
    disk::requests::{annotate, claim, create, get},
    support::{Launch, Sagas, SmallDisk, WAIT_MAX, needs, now, reason, sagas},
};

/// Waits until a condition holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = now();
    while !holds().await {
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn is_gone(sagas: &Sagas, task_id: &str) -> bool {
    get(&mut sagas.clone(), task_id).await.is_err_and(|status| status.code() == Code::NotFound)
}

async fn completed(sagas: &mut Sagas, task_id: &str) -> Saga {
    create(sagas, task_id, 100).await.unwrap();
    let claimed = claim(sagas, task_id, 3600).await.unwrap();
    let lease = claimed.lease.unwrap();
    let request = CompleteRequest {
        task_id: task_id.into(),
        owner_id: lease.owner_id,
        fencing_token: lease.fencing_token,
        ..Default::default()
    };
    sagas.complete(request).await.unwrap().into_inner().saga.unwrap()
}

async fn quarantined(sagas: &mut Sagas, task_id: &str) {
    create(sagas, task_id, 100).await.unwrap();
    let request = QuarantineRequest {
        task_id: task_id.into(),
        actor: "somebody".into(),
        reason: "look".into(),
        ..Default::default()
    };
    sagas.quarantine(request).await.unwrap();
}

/// The lines of all files of a directory.
fn exported(directory: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.extension().unwrap(), "jsonl");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "others can't read it");
        lines.extend(fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()));
    }
    lines
}

#[tokio::test]
async fn p7_sagas_past_their_retention_are_purged_and_watches_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Launch::on(directory.path()).arg("--retain-completed=1s").start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    quarantined(&mut client, "quarantined").await;
    create(&mut client, "planned", 0).await.unwrap();
    let old = completed(&mut client, "old").await;
    until("the completed one is gone", || is_gone(&client, "old")).await;
    assert!(get(&mut client, "quarantined").await.is_ok() && get(&mut client, "planned").await.is_ok());

    let watch = |after| WatchEventsRequest { after_revision: Some(after), ..Default::default() };
    let refused = match client.watch_events(watch(old.revision - 1)).await {
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!((refused.code(), reason(&refused)), (Code::OutOfRange, "REVISION_COMPACTED".to_owned()));
    let mut resumed = client.watch_events(watch(old.revision)).await.unwrap().into_inner();
    annotate(&mut client, "quarantined", "seen").await.unwrap();
    let told = async { while resumed.message().await.unwrap().unwrap().item.is_none() {} };
    tokio::time::timeout(WAIT_MAX, told).await.expect("later events are sent");
    let log = daemon.terminate().await;
    assert!(log.contains("sagas that were of age were purged"), "{log}");
    crate::support::check(directory.path());
}

#[tokio::test]
async fn a_saga_is_exported_before_it_is_purged() {
    let directory = tempfile::tempdir().unwrap();
    let export = directory.path().join("export");
    let launch = Launch::on(&directory.path().join("data"))
        .arg("--retain-completed=1s")
        .arg(&format!("--retention-export={}", export.display()));
    let mut daemon = launch.start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    let done = completed(&mut client, "done").await;
    // The directory does not exist, so nothing is purged, and the log has the reason.
    until("the failure is logged", || async { daemon.log().contains("retention failed") }).await;
    assert!(get(&mut client, "done").await.is_ok());
    fs::create_dir(&export).unwrap();
    until("it is gone", || is_gone(&client, "done")).await;
    let lines = exported(&export);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (saga, events) = (&lines[0]["saga"], lines[0]["events"].as_array().unwrap());
    assert_eq!((saga["taskId"].as_str(), saga["state"].as_str()), (Some("done"), Some("SAGA_STATE_COMPLETED")));
    assert_eq!(saga["revision"].as_str(), Some(&*done.revision.to_string()));
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["EVENT_TYPE_CREATED", "EVENT_TYPE_CLAIMED", "EVENT_TYPE_COMPLETED"]);
    daemon.terminate().await;
}

#[tokio::test]
async fn each_state_has_its_retention() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::on(directory.path()).arg("--retain-completed=1h").arg("--retain-quarantined=1s");
    let mut daemon = launch.start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    completed(&mut client, "young").await;
    quarantined(&mut client, "old").await;
    until("the quarantined saga is purged", || is_gone(&client, "old")).await;
    get(&mut client, "young").await.expect("it is kept although it is older than the purged one");
    let stats = client.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
    let mut counts: Vec<_> = stats.queues[0].states.iter().map(|count| (count.state(), count.count)).collect();
    counts.retain(|(_, count)| *count > 0);
    assert_eq!(counts, [(SagaState::Completed, 1)]);
    daemon.terminate().await;
}

/// More sagas than one step exports.
#[tokio::test]
async fn every_purged_saga_is_exported_once_and_complete() {
    let directory = tempfile::tempdir().unwrap();
    let (data, export) = (directory.path().join("data"), directory.path().join("export"));
    fs::create_dir(&export).unwrap();
    let mut daemon = Launch::on(&data).start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    let mut ended = BTreeMap::new();
    for number in 0..150 {
        let saga = completed(&mut client, &format!("done-{number}")).await;
        ended.insert(saga.task_id, saga.revision.to_string());
    }
    daemon.terminate().await;
    let launch =
        Launch::on(&data).arg("--retain-completed=1s").arg(&format!("--retention-export={}", export.display()));
    let mut daemon = launch.start();
    let address = daemon.address();
    let client = sagas(address).await;
    for task_id in ended.keys() {
        until("it is gone", || is_gone(&client, task_id)).await;
    }
    daemon.terminate().await;
    let lines = exported(&export);
    assert_eq!(lines.len(), ended.len());
    let told = lines.iter().map(|line| {
        assert_eq!(line["events"].as_array().unwrap().len(), 3, "{line}");
        let text = |field: &str| line["saga"][field].as_str().unwrap().to_owned();
        (text("taskId"), text("revision"))
    });
    assert_eq!(told.collect::<BTreeMap<_, _>>(), ended);
}

#[tokio::test]
async fn an_export_is_synced_before_the_purge_is_written() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let (data, export) = (directory.path().join("data"), directory.path().join("export"));
    fs::create_dir(&export).unwrap();
    let trace = directory.path().join("trace");
    let mut daemon = Launch::on(&data)
        .arg("--retain-completed=1s")
        .arg(&format!("--retention-export={}", export.display()))
        .traced(&trace, &["-y", "-s", "0", "-e", "trace=write,pwrite64,fsync,fdatasync"])
        .start();
    let address = daemon.address();
    let client = sagas(address).await;
    completed(&mut client.clone(), "done").await;
    until("it is gone", || is_gone(&client, "done")).await;
    daemon.terminate().await;
    until("the trace has its end", || async { fs::read_to_string(&trace).unwrap().contains(" +++ exited") }).await;
    let text = fs::read_to_string(&trace).unwrap();
    // The calls from the export up to the next write of the store, which is the purge.
    let mut lines = text.lines().filter(|line| !line.contains("resumed>"));
    lines.find(|line| line.contains("write(") && line.contains(".jsonl>")).expect("it is exported");
    let is_purge = |line: &&str| line.contains("pwrite64(") && line.contains("sagad.db-wal>");
    let between: Vec<_> = lines.take_while(|line| !is_purge(line)).collect();
    for path in [".jsonl>".to_owned(), format!("{}>", export.display())] {
        let is_synced = between.iter().any(|line| line.contains("sync(") && line.contains(&path));
        assert!(is_synced, "{path} is not synced: {between:#?}");
    }
}

#[tokio::test]
async fn a_saga_that_cannot_be_exported_is_kept() {
    needs!("mount");
    let (directory, small) = (tempfile::tempdir().unwrap(), SmallDisk::mount("64k"));
    let launch = Launch::on(&directory.path().join("data"))
        .arg("--retain-completed=1s")
        .arg(&format!("--retention-export={}", small.path().display()));
    // On a small file system that is full.
    let ballast = small.path().join("ballast");
    assert!(fs::write(&ballast, vec![1; 1 << 20]).is_err(), "the file system is smaller than that");
    let mut daemon = launch.start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    for number in 0..5 {
        completed(&mut client, &format!("done-{number}")).await;
    }
    until("the failure is logged", || async { daemon.log().contains("retention failed") }).await;
    for number in 0..5 {
        assert!(get(&mut client, &format!("done-{number}")).await.is_ok());
    }
    fs::remove_file(&ballast).unwrap();
    for number in 0..5 {
        let task_id = format!("done-{number}");
        until("it is gone", || is_gone(&client, &task_id)).await;
    }
    assert_eq!(exported(small.path()).len(), 5, "whole lines only, each once");
    daemon.terminate().await;
}
