//! The store's files shrink: the database after a large purge, the log after a long read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use sagad::proto::*;

use crate::{
    disk::requests::{claim, create, get, heartbeat},
    support::{Daemon, Launch, WAIT_MAX, check, now, run, sagas},
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
    let mut daemon = launch.start();
    let address = daemon.address();
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
    daemon.terminate().await;
    let before = size(data, "sagad.db");
    assert!(before > 20 << 20, "{before}");

    let mut daemon = launch.arg("--retain-quarantined=1s").start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    let (begun, mut longest) = (now(), 0);
    while size(data, "sagad.db") > before / 4 {
        assert!(
            begun.elapsed() < WAIT_MAX,
            "it does not shrink: {} of {before}:\n{}",
            size(data, "sagad.db"),
            daemon.log()
        );
        heartbeat(&mut client, &kept).await.expect("other calls are served meanwhile");
        longest = longest.max(size(data, "sagad.db-wal"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(longest < WAL_BYTES * 3 / 2, "the log reached {longest}");
    // Shrinking ends by itself and leaves some free pages for later writes.
    while !daemon.log().contains("free pages were given back") {
        assert!(begun.elapsed() < WAIT_MAX, "shrinking does not end:\n{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    daemon.terminate().await;
    check(data);
}

/// The output of `sagad check`.
fn told(data: &Path) -> String {
    let output = run(&["check", "--data", data.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn check_reports_free_pages_and_vacuum_frees_them() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let mut daemon = Launch::on(data).start();
    let address = daemon.address();
    create(&mut sagas(address).await, "kept", 1000).await.unwrap();
    daemon.terminate().await;
    assert!(!told(data).contains("are unused"));
    let connection = Connection::open(data.join("sagad.db")).unwrap();
    connection.execute_batch("CREATE TABLE big AS SELECT zeroblob(8000000) AS x; DROP TABLE big").unwrap();
    drop(connection);
    let before = size(data, "sagad.db");
    assert!(before > 8_000_000 && told(data).contains("are unused"), "{before}: {}", told(data));

    let output = run(&["vacuum", "--data", data.to_str().unwrap()]);
    let after = size(data, "sagad.db");
    assert!(output.status.success() && after < 300_000, "{after}: {output:?}");
    let line = format!("{}: {after} bytes, {before} before\n", data.display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), line);
    assert!(!told(data).contains("are unused"));
    let mut daemon = Launch::on(data).start();
    let address = daemon.address();
    get(&mut sagas(address).await, "kept").await.expect("the saga is unchanged");
    daemon.terminate().await;
}

/// The number of voluntary context switches of the writer.
fn writer_wakeups(daemon: &Daemon) -> u64 {
    let tasks = format!("/proc/{}/task", daemon.pid().as_raw_nonzero());
    let tasks = fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
    let of = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        (field("Name:")? == "sagad-writer").then(|| field("voluntary_ctxt_switches:").unwrap().parse().unwrap())
    };
    tasks.into_iter().find_map(of).expect("there is a writer thread")
}

#[tokio::test]
async fn the_log_shrinks_when_a_long_read_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let mut daemon = Launch::on(data).arg(&format!("--max-wal-bytes={WAL_BYTES}")).start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    create(&mut client, "first", 10).await.unwrap();
    let reader = Connection::open(data.join("sagad.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM saga;").unwrap();
    let mut number = 0;
    while size(data, "sagad.db-wal") < 3 * WAL_BYTES {
        number += 1;
        create(&mut client, &format!("task-{number}"), 60_000).await.unwrap();
    }
    // Until then the writer waits, without polling.
    let wakeups = writer_wakeups(&daemon);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let wakeups = writer_wakeups(&daemon) - wakeups;
    assert!(wakeups < 60, "the writer woke up {wakeups} times within a second, with nothing to do");
    reader.execute_batch("COMMIT").unwrap();
    let begun = now();
    while size(data, "sagad.db-wal") > WAL_BYTES {
        assert!(begun.elapsed() < WAIT_MAX, "it does not shrink: {}", size(data, "sagad.db-wal"));
        number += 1;
        create(&mut client, &format!("task-{number}"), 60_000).await.unwrap();
    }
    daemon.terminate().await;
}
