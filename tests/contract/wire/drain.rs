//! Shutdown by SIGTERM whatever the clients do, and refused starts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, stream};
use sagad::proto::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::*;

/// The outcomes of calls made without a pause, by task id.
type CallOutcomes = Arc<Mutex<BTreeMap<String, Result<(), Status>>>>;

fn keep_calling(api: Api, name: usize, outcomes: CallOutcomes) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for i in 0.. {
            let task_id = format!("t-{name}-{i}");
            let outcome = api.create_saga(create(&task_id)).await.map(drop);
            let failed = outcome.is_err();
            outcomes.lock().unwrap().insert(task_id, outcome);
            if failed {
                return;
            }
        }
    })
}

async fn is_closed(mut stream: TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match tokio::time::timeout(WAIT_MAX, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_sigterm_ends_the_daemon_within_the_grace_whatever_the_clients_do() {
    const GRACE: Duration = Duration::from_secs(10);
    let mut daemon = Daemon::start_with(&["--preface-timeout", "60s", "--drain-grace", "10s"]);
    let address = daemon.address();
    let api = daemon.api().await;
    // A silent connection, one with a partial preface, and one with a preface only.
    let silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut preface_only = TcpStream::connect(address).await.unwrap();
    preface_only.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Streams that are read, and one that is not read.
    let mut stale = daemon.api().await.watch_stale(WatchStaleRequest::default()).await.unwrap();
    stale.message().await.unwrap().unwrap();
    let saga = api.running("kept", "w").await;
    let items = stream::iter([key(&saga).keep_alive()]).chain(stream::pending());
    let mut kept = api.sagas.clone().keep_alive(items).await.unwrap().into_inner();
    kept.message().await.unwrap().unwrap();
    let requests = (0..1000).map(|i| create(&format!("many-{i}"))).collect();
    api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    let unread_api = daemon.api().await;
    let after_revision = Some(0);
    let _unread = unread_api.watch_events(WatchEventsRequest { after_revision, ..Default::default() }).await.unwrap();
    // A held claim, and calls in flight.
    let request =
        ClaimNextRequest { queues: vec!["empty".into()], owner_id: "w".into(), wait: secs(60), ..Default::default() };
    let waiting = api.clone();
    let held = tokio::spawn(async move { waiting.claim_next(request).await });
    eventually("one claim is held", || async { (api.stats().await.waiting == 1).then_some(()) }).await;
    let outcomes = CallOutcomes::default();
    let mut callers = Vec::new();
    for name in 0..8 {
        callers.push(keep_calling(daemon.api().await, name, outcomes.clone()));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    let begun = now();
    daemon.tell_to_end();
    let (status, log) = daemon.process().end().await;
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(took < GRACE, "{took:?}");
    assert_eq!(held.await.unwrap().reason(), "SHUTTING_DOWN");
    assert_eq!(stale.message().await.reason(), "SHUTTING_DOWN");
    assert_eq!(kept.message().await.reason(), "SHUTTING_DOWN");
    for stream in [silent, half, preface_only] {
        assert!(is_closed(stream).await);
    }
    assert!(TcpStream::connect(address).await.is_err(), "the listening socket is closed");
    for caller in callers {
        caller.await.unwrap();
    }
    daemon.start_again();
    assert_answered(&daemon.api().await, &outcomes).await;
}

/// Every accepted call was answered: acknowledged sagas exist, and calls without an OK changed nothing.
async fn assert_answered(api: &Api, outcomes: &CallOutcomes) {
    let outcomes = std::mem::take(&mut *outcomes.lock().unwrap());
    let (mut accepted, mut refused) = (0, 0);
    for (task_id, outcome) in outcomes {
        let found = api.find(&task_id).await.unwrap().is_some();
        match outcome {
            Ok(()) => {
                accepted += 1;
                assert!(found, "{task_id} was acknowledged");
            }
            Err(status) => {
                refused += 1;
                let answered = status.get_error_details().error_info().is_some();
                assert!(!found, "{task_id} happened, and the caller was told {status:?}");
                if answered {
                    assert_eq!(Problem::of(&status).reason, "SHUTTING_DOWN");
                }
            }
        }
    }
    assert!(accepted > 8 && refused == 8, "{accepted} accepted, {refused} refused");
}

#[tokio::test]
async fn p8_a_second_daemon_on_the_same_store_is_refused_and_the_first_keeps_serving() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let (status, log) = Launch::on(daemon.data()).spawn().end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("sagad.lock") && log.contains("another sagad"), "{log}");
    api.create_saga(create("u")).await.unwrap();
}

#[tokio::test]
async fn p8_a_file_that_is_not_a_sagad_store_is_refused_and_not_changed() {
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("sagad.db");
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("PRAGMA application_id = 7; CREATE TABLE t (x); INSERT INTO t VALUES (1);").unwrap();
    drop(foreign);
    let before = std::fs::read(&path).unwrap();
    let (status, log) = Launch::on(own.path()).spawn().end().await;
    assert_eq!((status.code(), log.contains("another program")), (Some(1), true), "{log}");
    assert_eq!(std::fs::read(&path).unwrap(), before);

    std::fs::write(&path, b"not a database, but long enough to be looked at as if it were one").unwrap();
    let (status, log) = Launch::on(own.path()).spawn().end().await;
    assert_eq!((status.code(), log.contains("damaged")), (Some(1), true), "{log}");
}

#[tokio::test]
async fn p11_a_port_in_use_is_reported_with_the_setting_to_change() {
    let daemon = Daemon::start();
    let own = tempfile::tempdir().unwrap();
    let taken = Launch { listen: daemon.address().to_string(), ..Launch::on(own.path()) };
    let (status, log) = taken.spawn().end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("can't listen on") && log.contains("--listen"), "{log}");
}
