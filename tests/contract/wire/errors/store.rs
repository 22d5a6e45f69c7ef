//! Errors of the store, and those of startup and shutdown.

use std::time::Duration;

use futures::future::join_all;
use sagad::proto::*;

use super::first_error;
use crate::support::*;

fn from_revision(after: i64) -> WatchStaleRequest {
    WatchStaleRequest { after_revision: Some(after), ..Default::default() }
}

pub async fn revision_compacted() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("old", "w").await;
    let done = api.complete(key(&saga).complete()).await.unwrap();
    api.create_saga(create("new")).await.unwrap();
    let purge = PurgeSagasRequest { older_than: secs(0), actor: "ada".into(), ..Default::default() };
    // A saga that was changed in this microsecond is not older than zero.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let purged = api.purge(purge).await.unwrap();
    assert_eq!((purged.purged_sagas, purged.purged_events, purged.more), (1, 3, false));

    let problem = first_error(api.watch_stale(from_revision(done.revision - 1)).await).await;
    assert_eq!(problem.fact("oldest_revision"), done.revision.to_string());
    let events = WatchEventsRequest { after_revision: Some(0), ..Default::default() };
    assert_eq!(first_error(api.watch_events(events).await).await.reason, "REVISION_COMPACTED");
    let oldest = WatchEventsRequest { after_revision: Some(done.revision), ..Default::default() };
    let bookmark = api.watch_events(oldest).await.unwrap().message().await.unwrap().unwrap();
    assert_eq!(bookmark.revision, done.revision, "a watch can resume from the oldest revision itself");
    problem
}

pub async fn revision_unknown() -> Problem {
    let mut daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let problem = first_error(api.watch_stale(from_revision(saga.revision + 1)).await).await;
    assert_eq!(problem.fact("head_revision"), saga.revision.to_string());
    let events = WatchEventsRequest { after_revision: Some(i64::MAX), ..Default::default() };
    assert_eq!(first_error(api.watch_events(events).await).await.reason, "REVISION_UNKNOWN");

    // After a crash revisions jump ahead; a watch can't resume from the revisions in between.
    daemon.kill().await;
    daemon.start_again();
    let api = daemon.api().await;
    let next = api.create_saga(create("u")).await.unwrap();
    assert!(next.revision > saga.revision + 1);
    for inside in [saga.revision + 1, next.revision - 1] {
        assert_eq!(first_error(api.watch_stale(from_revision(inside)).await).await.reason, "REVISION_UNKNOWN");
    }
    problem
}

pub async fn overloaded() -> Problem {
    let daemon = Daemon::start_with(&["--max-waiting", "1", "--max-watches", "1", "--writer-queue", "1"]);
    let api = daemon.api().await;
    // Too many changes at once: each is made or refused, and a refused one did not happen.
    let calls = (0..300).map(|i| {
        let api = api.clone();
        tokio::spawn(async move { (i, api.create_saga(create(&format!("t-{i}"))).await) })
    });
    let mut refused = 0;
    for (i, answer) in join_all(calls).await.into_iter().map(Result::unwrap) {
        let made = api.find(&format!("t-{i}")).await.unwrap();
        if let Err(status) = answer {
            assert_eq!((Problem::of(&status).reason.as_str(), made), ("OVERLOADED", None));
            refused += 1;
        } else {
            assert!(made.is_some());
        }
    }
    assert!(refused > 0, "a queue of one took 300 changes at once");

    // Too many held claims:
    let wait = |owner: &str| ClaimNextRequest {
        queues: vec!["empty".into()],
        owner_id: owner.into(),
        wait: secs(60),
        ..Default::default()
    };
    let (first, request) = (api.clone(), wait("first"));
    let held = tokio::spawn(async move { first.claim_next(request).await });
    eventually("one claim is held", || async { (api.stats().await.waiting == 1).then_some(()) }).await;
    assert_eq!(api.claim_next(wait("second")).await.reason(), "OVERLOADED");
    assert_eq!(api.claim_next(ClaimNextRequest { wait: None, ..wait("third") }).await.unwrap(), []);
    assert!(!held.is_finished(), "the first is still held");

    // Too many watches:
    let open = api.watch_stale(WatchStaleRequest::default()).await.unwrap();
    let problem = first_error(api.watch_events(WatchEventsRequest::default()).await).await;
    drop(open);
    eventually("the place is free again", || async {
        let mut stream = api.watch_stale(WatchStaleRequest::default()).await.ok()?;
        stream.message().await.ok()?
    })
    .await;
    problem
}

/// Also P4: a full disk refuses changes, serves reads, and recovers when there is room.
pub async fn store_full() -> Option<Problem> {
    if !tools::are_there(&["mount"]) {
        return None;
    }
    let disk = SmallDisk::mount("2m");
    let mut daemon = Launch::on(disk.path()).args(&["--max-wal-bytes", "64MiB"]).start();
    let api = daemon.api().await;
    let large = |i: usize| CreateSagaRequest { payload: vec![7; 60 << 10].into(), ..create(&format!("t-{i}")) };
    let mut made = 0;
    let problem = loop {
        match api.create_saga(large(made)).await {
            Ok(_) => made += 1,
            Err(status) => break Problem::of(&status),
        }
        assert!(made < 1000, "the disk does not fill");
    };
    assert!(made > 3, "{made}");
    assert_eq!(api.find(&format!("t-{made}")).await.unwrap(), None, "the refused saga does not exist");
    assert_eq!(api.get("t-0").await.payload.len(), 60 << 10, "reads are served");
    assert_eq!(api.stats().await.ready as usize, made);
    assert_eq!(api.create_saga(large(made)).await.reason(), "STORE_FULL");

    disk.grow("64m");
    eventually("it recovers", || async { api.create_saga(large(made)).await.ok() }).await;
    daemon.restart(daemon::ShutdownSignal::Kill).await;
    let api = daemon.api().await;
    assert_eq!(api.stats().await.ready as usize, made + 1, "every acknowledged saga exists");
    Some(problem)
}

pub async fn shutting_down() -> Problem {
    let mut daemon = Daemon::start();
    let api = daemon.api().await;
    let mut stale = api.watch_stale(WatchStaleRequest::default()).await.unwrap();
    stale.message().await.unwrap().unwrap();
    let mut events = api.watch_events(WatchEventsRequest::default()).await.unwrap();
    events.message().await.unwrap().unwrap();
    let (waiting, request) = (
        api.clone(),
        ClaimNextRequest { queues: vec!["empty".into()], owner_id: "w".into(), wait: secs(60), ..Default::default() },
    );
    let held = tokio::spawn(async move { waiting.claim_next(request).await });
    eventually("one claim is held", || async { (api.stats().await.waiting == 1).then_some(()) }).await;
    daemon.tell_to_end();
    assert_eq!(held.await.unwrap().reason(), "SHUTTING_DOWN");
    assert_eq!(stale.message().await.reason(), "SHUTTING_DOWN");
    let problem = events.message().await.refused();
    assert_eq!(daemon.process().end().await.0.code(), Some(0));
    problem
}

/// While the store is being opened: here because another connection has locked its file.
pub async fn store_unavailable() -> Problem {
    let mut daemon = Daemon::start();
    daemon.terminate().await;
    let address = daemon.address();
    let lock = rusqlite::Connection::open(daemon.data().join("sagad.db")).unwrap();
    lock.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; UPDATE meta SET value = value; COMMIT;")
        .unwrap();

    let launch = Launch { listen: address.to_string(), ..daemon.launch().clone() };
    let mut process = launch.spawn();
    let channel = daemon::connect(address).await;
    let api = Api::new(channel.clone());
    let problem = api.create_saga(create("t")).await.refused();
    let watch = api.watch_stale(WatchStaleRequest::default()).await;
    assert_eq!(first_error(watch).await.reason, "STORE_UNAVAILABLE");
    let info = api.admin.clone().get_server_info(GetServerInfoRequest {}).await;
    assert_eq!(info.reason(), "STORE_UNAVAILABLE");
    // A malformed request is refused first, even without a store.
    assert_eq!(api.create_saga(create("..")).await.reason(), "INVALID_ARGUMENT");
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let status = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner().status();
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::NotServing);

    drop(lock);
    assert_eq!(process.address(), Some(address), "it serves once the store is opened");
    api.create_saga(create("t")).await.unwrap();
    problem
}

/// After a failed sync the daemon can't know whether the commit happened; it says so and ends.
pub async fn outcome_unknown() -> Option<Problem> {
    if !tools::are_there(&["strace"]) {
        return None;
    }
    let own = tempfile::tempdir().unwrap();
    let trace = own.path().join("trace");
    // Syncs are counted for each thread: this number is never reached during the start.
    let mut daemon = Launch::on(&own.path().join("data"))
        .traced(&trace, &["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=100+"])
        .start();
    let api = daemon.api().await;
    let mut made = 0;
    let problem = loop {
        match api.create_saga(create(&format!("t-{made}"))).await {
            Ok(_) => made += 1,
            Err(status) => break Problem::of(&status),
        }
        assert!(made < 1000, "the injected error does not come");
    };
    let (status, log) = daemon.process().end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("the store failed") && log.contains("sagad check"), "{log}");
    Some(problem)
}

/// A row that can't be read is an error of its own saga only.
pub async fn corrupt() -> Problem {
    let mut daemon = Daemon::start();
    let api = daemon.api().await;
    for task_id in ["good", "bad"] {
        api.create_saga(create(task_id)).await.unwrap();
    }
    daemon.terminate().await;
    let store = rusqlite::Connection::open(daemon.data().join("sagad.db")).unwrap();
    store
        .execute_batch("PRAGMA ignore_check_constraints = ON; UPDATE saga SET labels = '{' WHERE task_id = 'bad';")
        .unwrap();
    drop(store);
    daemon.start_again();
    let api = daemon.api().await;
    let get = GetSagaRequest { task_id: "bad".into(), ..Default::default() };
    assert_eq!(api.sagas.clone().get_saga(get).await.reason(), "CORRUPT");
    let problem = api.claim(claim("bad", "w", 1000)).await.refused();

    let next =
        ClaimNextRequest { queues: vec!["default".into()], owner_id: "w".into(), max_sagas: 10, ..Default::default() };
    let claimed = api.claim_next(next).await.unwrap();
    assert_eq!(claimed.len(), 1, "other sagas are claimed");
    api.complete(key(&claimed[0]).complete()).await.unwrap();
    api.create_saga(create("new")).await.unwrap();
    problem
}
