//! A daemon that is stopped until after the expiry of its leases.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::{watch_stale_response::Item, *};

use super::{claim, expiry_time};
use crate::{
    disk::requests::heartbeat,
    support::{self, Launch, Sagas, micros, reason},
};

const LEASES: usize = 12;

/// Sagas that are all claimed by one call, so that their leases end at one time.
async fn claimed_at_once(sagas: &mut Sagas, seconds: i64) -> Vec<Saga> {
    let requests = (0..LEASES).map(|n| CreateSagaRequest { task_id: format!("task-{n}"), ..Default::default() });
    let request = BatchCreateSagasRequest { requests: requests.collect(), ..BatchCreateSagasRequest::default() };
    sagas.batch_create_sagas(request).await.unwrap();
    let request = ClaimNextRequest {
        queues: vec!["default".into()],
        owner_id: "owner".into(),
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        max_sagas: LEASES as i32,
        ..ClaimNextRequest::default()
    };
    let held = sagas.claim_next(request).await.unwrap().into_inner().sagas;
    assert_eq!(held.len(), LEASES);
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_no_lease_expires_at_once_when_a_stopped_daemon_continues() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut daemon = Launch::on(&data).arg("--restart-grace=8s").start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    let mut stale = sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    let held = claimed_at_once(&mut sagas, 3).await;
    daemon.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // A heartbeat that is sent meanwhile waits in the socket.
    let mut early = sagas.clone();
    let first = held[0].clone();
    let waiting = tokio::spawn(async move { heartbeat(&mut early, &first).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    daemon.signal(Signal::CONT);
    let back = support::now();
    waiting.await.unwrap().expect("a waiting heartbeat is accepted");

    for saga in &held[..LEASES / 2] {
        let status = claim(&mut sagas, &saga.task_id, "other", 1000).await.expect_err("the lease is in its grace");
        assert_eq!(reason(&status), "LEASE_HELD", "{status:?}");
        heartbeat(&mut sagas, saga).await.expect("a heartbeat is accepted in the grace");
    }
    let request = ListSagasRequest { stale_only: true, ..ListSagasRequest::default() };
    let listed = sagas.list_sagas(request).await.unwrap().into_inner().sagas;
    assert!(listed.is_empty(), "sagas in grace are not stale: {}", listed.len());
    assert!(back.elapsed() < Duration::from_secs(7), "too slow to tell: {:?}", back.elapsed());

    // Renewed leases stay valid; the others expire after the grace.
    while back.elapsed() < Duration::from_millis(10_500) {
        for saga in &held[..LEASES / 2] {
            heartbeat(&mut sagas, saga).await.expect("the lease stays valid");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for saga in &held[..LEASES / 2] {
        assert_eq!(expiry_time(&mut sagas, &saga.task_id).await, None, "{}", saga.task_id);
    }
    for saga in &held[LEASES / 2..] {
        let over = expiry_time(&mut sagas, &saga.task_id).await.expect("the grace is over");
        let expiry = micros(saga.lease.as_ref().unwrap().expire_time.as_ref());
        // Stopped for 5.1 s of a lease of 3 s: the daemon returned 2 s after the expiry and gave 8 s of grace.
        assert!(over - expiry > 9_500_000, "{}: reported {} µs after its expiry", saga.task_id, over - expiry);
    }
    let mut reported = 0;
    while let Ok(Ok(Some(answer))) = tokio::time::timeout(Duration::from_millis(500), stale.message()).await {
        reported += usize::from(matches!(answer.item, Some(Item::Stale(_))));
    }
    assert_eq!(reported, LEASES - LEASES / 2, "each of the others was reported once");
    daemon.terminate().await;
    support::check(&data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_no_lease_expires_at_once_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let launch = Launch::on(&data).arg("--restart-grace=5s");
    let mut daemon = launch.start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    let held = claimed_at_once(&mut sagas, 1).await;
    daemon.kill().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut daemon = launch.start();
    let address = daemon.address();
    let back = support::now();
    let mut sagas = support::sagas(address).await;
    for saga in &held {
        let status = claim(&mut sagas, &saga.task_id, "other", 1000).await.expect_err("the lease is in its grace");
        assert_eq!(reason(&status), "LEASE_HELD", "{status:?}");
    }
    heartbeat(&mut sagas, &held[0]).await.expect("a heartbeat is accepted in the grace");
    assert!(back.elapsed() < Duration::from_secs(5), "too slow to tell: {:?}", back.elapsed());
    tokio::time::sleep(Duration::from_millis(6000)).await;
    for saga in &held[1..] {
        assert!(expiry_time(&mut sagas, &saga.task_id).await.is_some(), "the grace is over, once");
        claim(&mut sagas, &saga.task_id, "other", 1000).await.expect("another owner can claim it");
    }
    daemon.terminate().await;
    support::check(&data);
}
