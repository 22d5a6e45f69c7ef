//! A daemon that is suspended again and again while it writes, at random moments of its transactions.
//!
//!   SUSPENSIONS=n     the number of suspensions (default 12)

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::RngExt;
use rustix::process::Signal;
use sagad::proto::*;
use tokio::task::JoinSet;

use super::{claim, claimed, expiry_time};
use crate::{
    disk::requests::heartbeat,
    support::{self, Launch, Sagas, number, reason},
};

/// Leases that are kept alive, each by its own task.
const KEPT: usize = 16;
/// Their length. A suspension lasts longer, so that all of them are past their expiry when it ends.
const TTL_MS: u64 = 1000;
const SUSPENDED: Duration = Duration::from_millis(1300);
/// Clients that make changes all the time.
const BUSY: usize = 8;

/// Sends heartbeats more often than a worker would, so that only suspensions exceed the lease.
async fn keep(mut sagas: Sagas, saga: Saga, over: Arc<AtomicBool>) {
    while !over.load(SeqCst) {
        if let Err(status) = heartbeat(&mut sagas, &saga).await {
            panic!("{} was kept alive, and lost: {status:?}", saga.task_id);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Claims the kept sagas without a pause, also right after a return.
async fn claim_all(mut sagas: Sagas, over: Arc<AtomicBool>) {
    while !over.load(SeqCst) {
        for number in 0..KEPT {
            match claim(&mut sagas, &format!("kept-{number}"), "other", TTL_MS).await {
                Ok(saga) => panic!("{} was kept alive, and taken", saga.task_id),
                Err(status) => assert_eq!(reason(&status), "LEASE_HELD", "{status:?}"),
            }
        }
    }
}

async fn create_and_create(mut sagas: Sagas, name: usize, over: Arc<AtomicBool>, made: Arc<AtomicU64>) {
    let payload = vec![b'x'; 2000];
    for number in 0.. {
        if over.load(SeqCst) {
            return;
        }
        let request = CreateSagaRequest {
            task_id: format!("busy-{name}-{number}"),
            payload: payload.clone().into(),
            ..CreateSagaRequest::default()
        };
        sagas.create_saga(request).await.unwrap();
        made.fetch_add(1, SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_suspensions_under_load_lose_no_lease() {
    let suspensions = number("SUSPENSIONS").unwrap_or(12);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut daemon = Launch::on(&data).arg("--restart-grace=5s").start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    let (over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for number in 0..KEPT {
        let saga = claimed(&mut sagas, &format!("kept-{number}"), TTL_MS).await;
        clients.spawn(keep(sagas.clone(), saga, over.clone()));
    }
    for name in 0..BUSY {
        // Each on its own connection, so that their calls don't wait for each other.
        clients.spawn(create_and_create(support::sagas(address).await, name, over.clone(), made.clone()));
    }
    for _ in 0..2 {
        clients.spawn(claim_all(support::sagas(address).await, over.clone()));
    }
    for _ in 0..suspensions {
        let between = rand::rng().random_range(100..400);
        tokio::time::sleep(Duration::from_millis(between)).await;
        daemon.signal(Signal::STOP);
        tokio::time::sleep(SUSPENDED).await;
        daemon.signal(Signal::CONT);
        // A failed task fails the test.
        if let Some(ended) = clients.try_join_next() {
            ended.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    over.store(true, SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    for number in 0..KEPT {
        assert_eq!(expiry_time(&mut sagas, &format!("kept-{number}")).await, None, "kept-{number}");
    }
    let noticed = daemon.log().matches("the coordinator was away").count();
    eprintln!("{suspensions} suspensions, {noticed} absences noticed, {} sagas made meanwhile", made.load(SeqCst));
    assert!(noticed >= suspensions, "each is an absence");
    daemon.terminate().await;
    support::check(&data);
}
