//! `sagad doctor`: each problem is caused on the real daemon, reported, and no longer reported after its repair.

use std::{collections::BTreeSet, future::Future, path::Path, time::Duration};

use futures::StreamExt;
use rustix::process::Signal;
use sagad::proto::*;
use serde_json::Value;

use super::top_once::sagad;
use crate::support::{
    Api, Daemon, Launch, WAIT_MAX, binary, claim, create, eventually, held, key, ms, needs, now, secs,
};

/// Runs the doctor; returns its exit code and its findings.
async fn doctor(daemon: &Daemon, arguments: &[&str]) -> (i32, Vec<Value>) {
    let server = format!("http://{}", daemon.address());
    let mut all = vec!["doctor", "-o", "json", "--server", &server];
    if !arguments.contains(&"--patience") {
        all.extend(["--patience", "1s"]);
    }
    all.extend(arguments);
    let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
    tokio::task::spawn_blocking(move || {
        let (code, out, err) = sagad(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(err.is_empty(), "{err}");
        (code, out.lines().map(|line| serde_json::from_str(line).expect("a line is a finding")).collect())
    })
    .await
    .unwrap()
}

/// Runs the doctor until a check has a finding with all of these parts.
async fn until_found(daemon: &Daemon, check: &str, severity: &str, parts: &[&str]) -> Value {
    eventually(&format!("{check}: {parts:?}"), || async {
        let (code, findings) = doctor(daemon, &["--check", check]).await;
        let found = findings.into_iter().find(|finding| {
            let seen = finding["seen"].as_str().expect("a text");
            finding["severity"] == severity && parts.iter().all(|part| seen.contains(part))
        })?;
        assert_eq!(found["check"], check);
        assert_eq!(code, i32::from(severity == "problem"), "{found}");
        Some(found)
    })
    .await
}

/// Runs the doctor until a check has no finding with this part.
async fn until_gone(daemon: &Daemon, check: &str, part: &str) {
    eventually(&format!("{check} of {part} is gone"), || async {
        let (_, findings) = doctor(daemon, &["--check", check]).await;
        let there = findings.iter().any(|finding| finding["seen"].as_str().expect("a text").contains(part));
        (!there).then_some(())
    })
    .await;
}

fn in_queue(request: CreateSagaRequest, queue: &str) -> CreateSagaRequest {
    CreateSagaRequest { queue: queue.into(), ..request }
}

/// A task that is aborted when this is dropped.
struct BackgroundTask(tokio::task::JoinHandle<()>);

impl BackgroundTask {
    fn run(work: impl Future<Output = ()> + Send + 'static) -> Self {
        BackgroundTask(tokio::spawn(work))
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[test]
fn doctor_reports_an_unreachable_daemon() {
    let (code, out, err) = sagad(&["doctor", "--server", "http://127.0.0.1:1"]);
    assert_eq!((code, err.as_str()), (5, ""));
    assert!(out.starts_with("PROBLEM (serving): no answer from http://127.0.0.1:1"), "{out}");
    assert!(out.contains("do:  start it with `sagad serve`"), "{out}");
    let (code, _, err) = sagad(&["doctor", "--check", "everything"]);
    assert!(code == 2 && err.contains("stuck-queue"), "the error lists the names: {err}");
}

/// Checks that a busy machine may fail by itself.
const OF_THE_MACHINE: [&str; 3] = ["absences", "disk-speed", "grace"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_finds_nothing_on_a_healthy_busy_daemon() {
    // In memory where possible, because this machine's disk may be nearly full.
    let place = if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let own = tempfile::tempdir_in(place).unwrap();
    let daemon = Launch::on(own.path()).args(&["--max-wal-bytes", "1048576"]).start();
    let api = daemon.api().await;
    let mut watch = api.watch_stale(WatchStaleRequest::default()).await.unwrap();
    let _watching = BackgroundTask::run(async move { while watch.message().await.is_ok_and(|item| item.is_some()) {} });
    // Running work and a backlog.
    api.running("long", "worker-1").await;
    api.create_saga(create("waits")).await.unwrap();
    let _busy = BackgroundTask::run(busy(daemon.api().await));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let (code, findings) = doctor(&daemon, &[]).await;
    let own = findings.iter().filter(|finding| !OF_THE_MACHINE.iter().any(|name| finding["check"] == *name));
    assert_eq!(own.collect::<Vec<_>>(), Vec::<&Value>::new());
    assert!(code == 0 || !findings.is_empty());
    // A stale saga is reported even while a watch is open, so the check works.
    api.stale(create("stale"), "worker-0").await;
    until_found(&daemon, "stale", "problem", &["stale", "a WatchStale stream tells somebody"]).await;
}

/// Creates, claims, renews and completes sagas until it is aborted.
async fn busy(api: Api) {
    for number in 0.. {
        let task_id = format!("busy-{number}");
        let saga = api.running(&task_id, "worker-2").await;
        api.heartbeat(key(&saga).heartbeat()).await.unwrap();
        api.complete(key(&saga).complete()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_queues_without_workers() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(in_queue(create("waits"), "nobodys")).await.unwrap();
    let found = until_found(&daemon, "stuck-queue", "problem", &["queue nobodys", "1 saga"]).await;
    assert!(found["do"].as_str().unwrap().contains("sagad work --queue nobodys"), "{found}");
    // A worker claims from the queue now.
    api.create_saga(in_queue(create("more"), "nobodys")).await.unwrap();
    api.claim(claim("waits", "worker-1", 60_000)).await.unwrap();
    until_gone(&daemon, "stuck-queue", "nobodys").await;

    api.create_saga(in_queue(create("stopped"), "held-up")).await.unwrap();
    let pause = PauseQueueRequest {
        queue: "held-up".into(),
        actor: "ann".into(),
        reason: "the registry".into(),
        ..Default::default()
    };
    api.admin.clone().pause_queue(pause).await.unwrap();
    until_found(&daemon, "paused-queue", "warning", &["queue held-up", "by ann", "the registry"]).await;
    until_gone(&daemon, "stuck-queue", "held-up").await;
    let resume = ResumeQueueRequest { queue: "held-up".into(), actor: "ann".into(), ..Default::default() };
    api.admin.clone().resume_queue(resume).await.unwrap();
    until_gone(&daemon, "paused-queue", "held-up").await;

    // More paused queues than one answer lists: the one with the longest backlog comes first, with who paused it and why.
    let requests = (0..802).map(|i| {
        let queue = if i < 800 { format!("many-{i:03}") } else { "zz-last".to_owned() };
        in_queue(create(&format!("held-{i}")), &queue)
    });
    let batch = BatchCreateSagasRequest { requests: requests.collect(), ..Default::default() };
    api.batch_create_sagas(batch).await.unwrap();
    let pauses = (0..801).map(|i| {
        let (queue, reason) = if i < 800 {
            (format!("many-{i:03}"), "r".repeat(4096))
        } else {
            ("zz-last".to_owned(), "its machine moves".to_owned())
        };
        let mut admin = api.admin.clone();
        async move {
            let pause = PauseQueueRequest { queue, actor: "ann".into(), reason, ..Default::default() };
            admin.pause_queue(pause).await.unwrap();
        }
    });
    futures::stream::iter(pauses).buffer_unordered(64).collect::<Vec<()>>().await;
    until_found(&daemon, "paused-queue", "warning", &["queue zz-last", "by ann", "its machine moves", "2 sagas"]).await;
    until_found(&daemon, "paused-queue", "warning", &["and 791 more like this are not shown"]).await;
    let server = format!("http://{}", daemon.address());
    let listed = tokio::task::spawn_blocking(move || sagad(&["queues", "--server", &server])).await.unwrap();
    assert_eq!((listed.0, listed.1.matches(" paused ").count()), (0, 801), "all pages are followed");

    api.create_saga(create("reserved")).await.unwrap();
    let dispatch = DispatchRequest {
        task_id: "reserved".into(),
        assignee: "worker-9".into(),
        ttl: secs(600),
        actor: "ann".into(),
        ..Default::default()
    };
    api.dispatch(dispatch).await.unwrap();
    until_found(&daemon, "dispatched", "warning", &["reserved for worker-9"]).await;
    api.claim(claim("reserved", "worker-9", 60_000)).await.unwrap();
    until_gone(&daemon, "dispatched", "reserved").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_what_dead_workers_left() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.stale(in_queue(create("dead"), "builds"), "worker-1").await;
    let found = until_found(&daemon, "stale", "problem", &["queue builds", "dead of worker-1", "nobody is told"]).await;
    let advice = found["do"].as_str().unwrap();
    assert!(
        advice.contains("sagad recover dead --decision") && advice.contains("sagad compensate --queue builds --stale")
    );
    assert!(advice.contains("--on-stale requeue") && !advice.contains("sagad watch"), "{advice}");
    // An open watch alone does not repair it.
    let request = WatchStaleRequest { queues: vec!["builds".into()], ..Default::default() };
    let watch = api.watch_stale(request).await.unwrap();
    until_found(&daemon, "stale", "problem", &["dead of worker-1", "a WatchStale stream tells somebody"]).await;
    drop(watch);
    // A saga that went stale within `--patience` is counted but is no problem.
    let (code, findings) = doctor(&daemon, &["--patience", "1h", "--check", "stale"]).await;
    assert_eq!((code, &findings[0]["severity"]), (0, &"note".into()), "{findings:?}");
    assert!(findings[0]["seen"].as_str().unwrap().contains("1 saga of queue builds has been stale for less than 1h"));
    api.recover(RecoverRequest {
        task_id: "dead".into(),
        decision: RecoveryDecision::Requeue.into(),
        actor: "ann".into(),
        reason: "gone".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    until_gone(&daemon, "stale", "dead").await;

    // A saga to compensate, without a handler for its kind.
    api.stale(in_queue(held("undo", &["branch", "worktree"]), "builds"), "worker-1").await;
    let recover = |task_id: &str| RecoverRequest {
        task_id: task_id.into(),
        decision: RecoveryDecision::Compensate.into(),
        actor: "ann".into(),
        reason: "gone".into(),
        ..Default::default()
    };
    api.recover(recover("undo")).await.unwrap();
    until_found(&daemon, "compensation-kinds", "problem", &["queue builds", "undo", "`branch`"]).await;
    let ask = ClaimNextRequest {
        queues: vec!["builds".into()],
        owner_id: "handler".into(),
        purpose: LeasePurpose::Compensate.into(),
        compensation_kinds: vec!["branch".into()],
        wait: ms(100),
        ..Default::default()
    };
    assert!(api.claim_next(ask.clone()).await.unwrap().is_empty(), "this handler does not handle its kind");
    until_gone(&daemon, "compensation-kinds", "`branch`").await;
    until_found(&daemon, "compensation-kinds", "problem", &["`worktree`"]).await;
    let both = ClaimNextRequest { compensation_kinds: vec!["branch".into(), "worktree".into()], ..ask };
    assert_eq!(api.claim_next(both).await.unwrap().len(), 1);
    until_gone(&daemon, "compensation-kinds", "undo").await;

    // Soon quarantined: in the last quarter of its compensation timeout.
    let policy = Policy { compensation_timeout: secs(40), ..Default::default() };
    api.stale(CreateSagaRequest { policy: Some(policy), ..held("late", &["branch"]) }, "worker-1").await;
    api.recover(recover("late")).await.unwrap();
    let quarantine = QuarantineRequest {
        task_id: "dead".into(),
        actor: "ann".into(),
        reason: "needs a look".into(),
        ..Default::default()
    };
    api.quarantine(quarantine).await.unwrap();
    until_found(&daemon, "quarantined", "warning", &["1 saga", "dead (needs a look)"]).await;
    tokio::time::sleep(Duration::from_secs(28)).await;
    until_found(&daemon, "compensation-timeout", "problem", &["late", "40s"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_clock_steps() {
    needs!("faketime");
    let libraries = std::fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let mut libraries = libraries.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let library = libraries.find(|path| path.is_file()).expect("faketime is installed with its library");
    let own = tempfile::tempdir().unwrap();
    let offset = own.path().join("offset");
    std::fs::write(&offset, "+0").unwrap();
    let mut launch = Launch::on(&own.path().join("data"));
    launch.wrapper = [
        "env".into(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
        "FAKETIME_NO_CACHE=1".into(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
    ]
    .map(Into::into)
    .to_vec();
    let daemon = launch.start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    // The writer compares the clocks once a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(doctor(&daemon, &["--check", "clock"]).await, (0, vec![]));
    std::fs::write(&offset, "+3600").unwrap();
    until_found(&daemon, "clock", "problem", &["-3600.0 s from", "stepped 1 time", "by +3600.0 s"]).await;
    std::fs::write(&offset, "+0").unwrap();
    until_found(&daemon, "clock", "note", &["+0.0 s from", "stepped 2 times"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_absences() {
    let mut daemon = Daemon::start_with(&["--restart-grace", "1h"]);
    daemon.api().await.running("t", "worker-1").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    daemon.process().signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(7)).await;
    daemon.process().signal(Signal::CONT);
    until_found(&daemon, "absences", "warning", &["was away"]).await;
    until_found(&daemon, "grace", "note", &["kept for another"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_a_slow_disk_and_a_hanging_writer() {
    needs!("strace");
    let own = tempfile::tempdir().unwrap();
    let trace = own.path().join("trace");
    let calls = "trace=fsync,fdatasync";
    // Each sync takes a tenth of a second.
    let slow = "inject=fsync,fdatasync:delay_enter=100000:when=1+";
    let daemon = Launch::on(&own.path().join("slow")).traced(&trace, &["-e", calls, "-e", slow]).start();
    let api = daemon.api().await;
    until_found(&daemon, "disk-speed", "note", &["nothing was committed"]).await;
    let _busy = BackgroundTask::run(busy(api));
    let found = until_found(&daemon, "disk-speed", "warning", &["one in a hundred"]).await;
    assert!(found["seen"].as_str().unwrap().contains("half took up to 1"), "100 ms and more: {found}");
    drop(_busy);
    drop(daemon);

    // After the start, every twentieth sync takes twelve seconds.
    let hanging = "inject=fsync,fdatasync:delay_enter=12000000:when=40+20";
    let daemon = Launch::on(&own.path().join("hangs")).traced(&trace, &["-e", calls, "-e", hanging]).start();
    let _busy = BackgroundTask::run(busy(daemon.api().await));
    until_found(&daemon, "writer", "problem", &["has done nothing for"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_a_reader_that_blocks_checkpoints() {
    let daemon = Daemon::start_with(&["--max-wal-bytes", "1048576"]);
    let api = daemon.api().await;
    api.create_saga(create("first")).await.unwrap();
    // This process begins a read and does not end it.
    let reader = rusqlite::Connection::open(daemon.data().join("sagad.db")).unwrap();
    reader.execute_batch("PRAGMA query_only = 1; BEGIN; SELECT count(*) FROM sqlite_schema").unwrap();
    reader.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).unwrap();
    let busy = BackgroundTask::run(busy(daemon.api().await));
    let found = until_found(&daemon, "wal", "problem", &["write-ahead log", "a reader prevented that"]).await;
    assert!(found["do"].as_str().unwrap().contains("lsof"), "{found}");
    reader.execute_batch("COMMIT").unwrap();
    drop(reader);
    until_gone(&daemon, "wal", "write-ahead log").await;
    drop(busy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_a_full_disk_and_refused_changes() {
    // A log limit of a tebibyte needs two tebibytes of free space.
    let daemon = Daemon::start_with(&["--max-wal-bytes", "1099511627776", "--max-waiting", "1"]);
    until_found(&daemon, "disk-space", "problem", &["are free on the disk of the store"]).await;
    assert_eq!(doctor(&daemon, &["--check", "overload"]).await, (0, vec![]));
    let ask = || ClaimNextRequest {
        queues: vec!["empty".into()],
        owner_id: "worker-1".into(),
        wait: secs(50),
        ..Default::default()
    };
    let api = daemon.api().await;
    let waiting = api.clone();
    let _waiting = BackgroundTask::run(async move { drop(waiting.claim_next(ask()).await) });
    eventually("it waits", || async { (api.stats().await.waiting == 1).then_some(()) }).await;
    let refused = api.claim_next(ask()).await.expect_err("there is no room for a second");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    until_found(&daemon, "overload", "note", &["1 change was refused", "0 of them"]).await;
    let _turned_away = BackgroundTask::run(async move {
        loop {
            drop(api.claim_next(ask()).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    until_found(&daemon, "overload", "problem", &["refused since the start"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_reports_too_many_open_files() {
    let own = tempfile::tempdir().unwrap();
    let mut launch = Launch::on(own.path());
    // Most open files can be connections; some are reserved for the store and the threads.
    launch.args.extend(["--readers", "1", "--network-threads", "1"].map(Into::into));
    launch.wrapper = ["bash", "-c", "ulimit -n 1000; exec \"$@\"", "limited"].map(Into::into).to_vec();
    let daemon = launch.start();
    assert_eq!(doctor(&daemon, &["--check", "open-files"]).await, (0, vec![]));
    let mut open = Vec::new();
    for _ in 0..790 {
        let mut client = tokio::net::TcpStream::connect(daemon.address()).await.unwrap();
        // The preface and empty SETTINGS: an idle client.
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        tokio::io::AsyncWriteExt::write_all(&mut client, hello).await.unwrap();
        open.push(client);
    }
    until_found(&daemon, "open-files", "warning", &["of 1000 files and connections"]).await;
    drop(open);
    until_gone(&daemon, "open-files", "of 1000").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_prints_what_to_do() {
    let daemon = Daemon::start();
    daemon.api().await.create_saga(in_queue(create("waits"), "nobodys")).await.unwrap();
    let begun = now();
    loop {
        let server = format!("http://{}", daemon.address());
        let output = binary::sagad().args(["doctor", "--patience", "1s", "--server", &server]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if text.contains("PROBLEM (stuck-queue): queue nobodys has 1 saga ready") {
            assert_eq!(output.status.code(), Some(1));
            assert!(
                text.contains("\n  why: ") && text.contains("\n  do:  start a worker: `sagad work --queue nobodys")
            );
            assert!(text.trim_end().ends_with("checks"), "a summary: {text}");
            let checks: BTreeSet<_> = text.lines().filter(|line| line.contains("): ")).collect();
            assert!(!checks.is_empty());
            return;
        }
        assert!(begun.elapsed() < WAIT_MAX, "{text}");
    }
}
