//! A daemon that was stopped while leases stood, and came back when they were over.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::{watch_stale_response::Item, *};

use crate::{
    claim, claimed,
    daemon::{self, Launch, reason},
    heartbeat, micros, ran_out,
};

const LEASES: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_nobody_runs_out_when_a_stopped_daemon_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let (mut daemon, address) = Launch::on(&data).arg("--restart-grace=3s").start();
    let mut sagas = daemon::sagas(address).await;
    let mut stale = sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    let mut held = Vec::new();
    for number in 0..LEASES {
        held.push(claimed(&mut sagas, &format!("task-{number}"), 3000).await);
    }
    daemon.signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Heartbeats that were sent meanwhile wait in the socket.
    let mut early = sagas.clone();
    let first = held[0].clone();
    let waiting = tokio::spawn(async move { heartbeat(&mut early, &first).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    daemon.signal(Signal::CONT);
    let back = daemon::now();
    waiting.await.unwrap().expect("a heartbeat that waited is accepted");

    for saga in &held[..LEASES / 2] {
        let status = claim(&mut sagas, &saga.task_id, "other", 1000).await.expect_err("it is in its grace");
        assert_eq!(reason(&status), "LEASE_HELD", "{status:?}");
        heartbeat(&mut sagas, saga).await.expect("a heartbeat is accepted in the grace");
    }
    assert!(back.elapsed() < Duration::from_secs(2), "too slow to tell: {:?}", back.elapsed());
    let request = ListSagasRequest { stale_only: true, ..ListSagasRequest::default() };
    let listed = sagas.list_sagas(request).await.unwrap().into_inner().sagas;
    assert!(listed.is_empty(), "sagas in grace are not stale: {}", listed.len());

    // Those that are renewed go on; the others run out, and not before the grace is over.
    while back.elapsed() < Duration::from_millis(5500) {
        for saga in &held[..LEASES / 2] {
            heartbeat(&mut sagas, saga).await.expect("it goes on");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for saga in &held[..LEASES / 2] {
        assert_eq!(ran_out(&mut sagas, &saga.task_id).await, None, "{}", saga.task_id);
    }
    for saga in &held[LEASES / 2..] {
        let over = ran_out(&mut sagas, &saga.task_id).await.expect("the grace is over");
        let expiry = micros(saga.lease.as_ref().unwrap().expire_time.as_ref().unwrap());
        // Stopped for 5.1 s of a lease of 3 s: 2 s after its expiry it was back, and gave 3 s of grace.
        assert!(over - expiry > 4_500_000, "{}: reported {} µs after its expiry", saga.task_id, over - expiry);
    }
    let mut reported = 0;
    while let Ok(Ok(Some(answer))) = tokio::time::timeout(Duration::from_millis(500), stale.message()).await {
        reported += usize::from(matches!(answer.item, Some(Item::Stale(_))));
    }
    assert_eq!(reported, LEASES - LEASES / 2, "each of the others was reported once");
    daemon.terminate();
    daemon::check(&data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_nobody_runs_out_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let launch = Launch::on(&data).arg("--restart-grace=2s");
    let (mut daemon, address) = launch.start();
    let mut sagas = daemon::sagas(address).await;
    let mut held = Vec::new();
    for number in 0..10 {
        held.push(claimed(&mut sagas, &format!("task-{number}"), 1000).await);
    }
    daemon.kill();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (mut daemon, address) = launch.start();
    let back = daemon::now();
    let mut sagas = daemon::sagas(address).await;
    for saga in &held {
        let status = claim(&mut sagas, &saga.task_id, "other", 1000).await.expect_err("it is in its grace");
        assert_eq!(reason(&status), "LEASE_HELD", "{status:?}");
    }
    heartbeat(&mut sagas, &held[0]).await.expect("a heartbeat is accepted in the grace");
    assert!(back.elapsed() < Duration::from_secs(2), "too slow to tell: {:?}", back.elapsed());
    tokio::time::sleep(Duration::from_millis(2800)).await;
    for saga in &held[1..] {
        assert!(ran_out(&mut sagas, &saga.task_id).await.is_some(), "the grace is over, once");
        claim(&mut sagas, &saga.task_id, "other", 1000).await.expect("another may have it");
    }
    daemon.terminate();
    daemon::check(&data);
}
