//! The store's files become smaller again: the database when much was purged, its log when a long read is over.

use std::{path::Path, time::Duration};

use rusqlite::Connection;
use sagad::proto::*;

use crate::{
    daemon::{Launch, PATIENCE, check, now, sagas},
    small::{claim, create, heartbeat},
};

const WAL_BYTES: u64 = 2 << 20;

fn size(data: &Path, name: &str) -> u64 {
    data.join(name).metadata().map_or(0, |metadata| metadata.len())
}

#[tokio::test]
async fn the_database_shrinks_when_most_of_it_was_purged() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let launch = Launch::on(data).arg(&format!("--max-wal-bytes={WAL_BYTES}"));
    let (mut daemon, address) = launch.start();
    let mut client = sagas(address).await;
    for number in 0..40 {
        let requests = (0..20).map(|index| CreateSagaRequest {
            task_id: format!("task-{number}-{index}"),
            payload: vec![b'x'; 30_000].into(),
            ..Default::default()
        });
        let batch = BatchCreateSagasRequest { requests: requests.collect(), ..Default::default() };
        client.batch_create_sagas(batch).await.unwrap();
        for index in 0..20 {
            let quarantine = QuarantineRequest {
                task_id: format!("task-{number}-{index}"),
                actor: "somebody".into(),
                reason: "enough".into(),
                ..Default::default()
            };
            client.quarantine(quarantine).await.unwrap();
        }
    }
    create(&mut client, "kept", 1000).await.unwrap();
    let kept = claim(&mut client, "kept", 3600).await.unwrap();
    daemon.terminate();
    let before = size(data, "sagad.db");
    assert!(before > 20 << 20, "{before}");

    let (mut daemon, address) = launch.arg("--retain-quarantined=1s").start();
    let mut client = sagas(address).await;
    let (begun, mut longest) = (now(), 0);
    while size(data, "sagad.db") > before / 4 {
        assert!(begun.elapsed() < PATIENCE, "it stays at {} of {before}:\n{}", size(data, "sagad.db"), daemon.log());
        heartbeat(&mut client, &kept).await.expect("others are served meanwhile");
        longest = longest.max(size(data, "sagad.db-wal"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(longest < WAL_BYTES * 3 / 2, "the log reached {longest}");
    daemon.terminate();
    check(data);
}

#[tokio::test]
async fn the_log_shrinks_when_a_long_read_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let (mut daemon, address) = Launch::on(data).arg(&format!("--max-wal-bytes={WAL_BYTES}")).start();
    let mut client = sagas(address).await;
    create(&mut client, "first", 10).await.unwrap();
    let reader = Connection::open(data.join("sagad.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM saga;").unwrap();
    let mut number = 0;
    while size(data, "sagad.db-wal") < 3 * WAL_BYTES {
        number += 1;
        create(&mut client, &format!("task-{number}"), 60_000).await.unwrap();
    }
    reader.execute_batch("COMMIT").unwrap();
    let begun = now();
    while size(data, "sagad.db-wal") > WAL_BYTES {
        assert!(begun.elapsed() < PATIENCE, "it stays at {}", size(data, "sagad.db-wal"));
        number += 1;
        create(&mut client, &format!("task-{number}"), 60_000).await.unwrap();
    }
    daemon.terminate();
}
