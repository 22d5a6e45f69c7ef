//! Acknowledged changes are synced to disk, and a failing disk ends the daemon.

use std::{path::Path, time::Duration};

use crate::support::*;

const CALLS: usize = 40;

/// A line of a trace made with `-ttt -T -y`.
struct LogCall {
    begun: Duration,
    ended: Duration,
    is_sync: bool,
}

impl LogCall {
    /// Parses a line; none if it is not a successful write or sync of the log.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let time: f64 = words.nth(1)?.parse().ok()?;
        let call = words.next()?;
        let is_sync = call.starts_with("fsync(") || call.starts_with("fdatasync(");
        if !(is_sync || call.starts_with("pwrite64(")) || !line.contains("sagad.db-wal>") || line.contains(" = -1") {
            return None;
        }
        let took: f64 = line.rsplit_once('<')?.1.strip_suffix('>')?.parse().ok()?;
        Some(LogCall { begun: Duration::from_secs_f64(time), ended: Duration::from_secs_f64(time + took), is_sync })
    }
}

#[tokio::test]
async fn p2_every_answer_follows_a_sync_of_the_log() {
    needs!("strace");
    let own = tempfile::tempdir().unwrap();
    let trace = own.path().join("trace");
    let options = ["-ttt", "-T", "-y", "-e", "trace=pwrite64,fsync,fdatasync"];
    let mut daemon = Launch::on(&own.path().join("data")).traced(&trace, &options).start();
    let pid = daemon.process().pid();
    let api = daemon.api().await;
    let mut windows = Vec::new();
    let mut last = None;
    for i in 0..CALLS {
        let begun = since_1970();
        // A create, a claim, a heartbeat and a complete.
        match (i % 4, &last) {
            (1, _) => last = Some(api.claim(claim(&format!("t-{}", i - 1), "w", 60_000)).await.unwrap()),
            (2, Some(saga)) => drop(api.heartbeat(key(saga).heartbeat()).await.unwrap()),
            (3, Some(saga)) => drop(api.complete(key(saga).complete()).await.unwrap()),
            _ => drop(api.create_saga(create(&format!("t-{i}"))).await.unwrap()),
        }
        windows.push((begun, since_1970()));
    }
    daemon.terminate().await;
    let traced: Vec<_> = strace::lines(&trace, pid).iter().filter_map(|line| LogCall::parse(line)).collect();
    for (call, (sent, answered)) in windows.iter().enumerate() {
        let during = traced.iter().filter(|traced| traced.begun >= *sent && traced.ended <= *answered);
        let during: Vec<_> = during.map(|traced| traced.is_sync).collect();
        assert!(during.contains(&false), "call {call} wrote nothing to the log");
        assert_eq!(during.last(), Some(&true), "call {call} was answered before its last write was synced");
    }
}

/// Starts a daemon whose `n`th and each later sync of a thread fails, and creates sagas until it ends. Returns the
/// acknowledged ids.
async fn until_the_disk_fails(data: &Path, n: usize) -> Vec<String> {
    let trace = data.with_extension("trace");
    let inject = format!("inject=fsync,fdatasync:error=EIO:when={n}+");
    let launch = Launch::on(data).traced(&trace, &["-e", "trace=fsync,fdatasync", "-e", &inject]);
    let mut process = launch.spawn();
    let mut acknowledged = Vec::new();
    if let Some(address) = process.address() {
        let api = Api::new(daemon::connect(address).await);
        for i in 0..200 {
            let task_id = format!("t-{n}-{i}");
            match api.create_saga(create(&task_id)).await {
                Ok(_) => acknowledged.push(task_id),
                Err(_) => break,
            }
        }
        assert!(acknowledged.len() < 200, "sync {n} did not fail");
    }
    let (status, log) = process.end().await;
    assert!(status.code().is_some_and(|code| code != 0), "sync {n}: {status}\n{log}");
    let said = log.lines().filter(|line| line.starts_with("sagad: ")).collect::<Vec<_>>();
    assert_eq!(said.len(), 1, "one message: {log}");
    assert!(said[0].contains("disk I/O error") || said[0].contains("the store failed"), "{log}");
    acknowledged
}

#[tokio::test]
async fn p3_a_failing_disk_ends_the_daemon_and_acknowledged_changes_are_kept() {
    needs!("strace");
    let own = tempfile::tempdir().unwrap();
    let data = own.path().join("data");
    let mut acknowledged = Vec::new();
    // From the first sync of a new store on, through those of opening it, to those of changes.
    for n in (1..=14).chain([17, 25]) {
        acknowledged.extend(until_the_disk_fails(&data, n).await);
        let mut daemon = Launch::on(&data).start();
        let api = daemon.api().await;
        for task_id in &acknowledged {
            assert!(api.find(task_id).await.unwrap().is_some(), "{task_id} was acknowledged before sync {n} failed");
        }
        daemon.terminate().await;
    }
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
}
