//! Watchers that don't read: of events, beside those that read; and of stale sagas of the largest size.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use prost::Message;
use sagad::proto::*;
use tokio::task::JoinSet;

use super::{measured_attack::MeasuredAttack, raw_connection::*, sized};
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_watchers_that_do_not_read_delay_no_others() {
    const WATCHERS: usize = 1000;
    /// Watchers on one connection. Those that don't read have other connections, so as not to fill the window of the others.
    const TOGETHER: usize = 50;
    const BATCH: usize = 100;
    let batches = sized(4, 40);
    let attack = MeasuredAttack::begin("1,000 watchers, half don't read", &[]).await;
    let (mut deaf, mut reading) = (Vec::new(), JoinSet::new());
    let from_now = WatchEventsRequest { queues: vec!["watched".into()], ..Default::default() };
    for _ in 0..WATCHERS / TOGETHER / 2 {
        // A window for the first bookmark only. (The client library would read megabytes before it stops.)
        let mut raw = RawConnection::with(attack.daemon.address(), &[(INITIAL_WINDOW, 100)]).await.unwrap().reading();
        for _ in 0..TOGETHER {
            raw.call("/sagad.v1.SagaService/WatchEvents", &from_now.encode_to_vec()).await.unwrap();
        }
        eventually("they begin", || async { (raw.seen.data_bytes.load(Relaxed) >= 5 * TOGETHER as u64).then_some(()) })
            .await;
        deaf.push(raw);
        let api = attack.daemon.api().await;
        for _ in 0..TOGETHER {
            let mut watch = api.watch_events(from_now.clone()).await.unwrap();
            reading.spawn(async move {
                let mut seen = 0;
                while seen < batches * BATCH {
                    let answer = watch.message().await.unwrap().expect("the watch continues");
                    seen += usize::from(matches!(answer.item, Some(watch_events_response::Item::Event(_))));
                }
            });
        }
    }
    let api = attack.daemon.api().await;
    let begun = now();
    for batch in 0..batches {
        let saga = |i| CreateSagaRequest { queue: "watched".into(), ..create(&format!("w-{batch}-{i}")) };
        let requests = (0..BATCH).map(saga).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    }
    while let Some(read) =
        tokio::time::timeout(4 * WAIT_MAX, reading.join_next()).await.expect("the readers are served")
    {
        read.unwrap();
    }
    println!(
        "{} events to each of {} watchers in {:.1} s",
        batches * BATCH,
        WATCHERS / 2,
        begun.elapsed().as_secs_f64()
    );
    attack.hold(2).await;
    drop((deaf, api));
    attack.end(sized(96, 160)).await;
}

/// A stale saga of the largest size.
async fn large_and_stale(api: &Api, number: usize) {
    let compensation =
        |n: usize| CompensationSpec { kind: format!("kind-{n}"), target: "t".repeat(4096), reason: "r".repeat(4096) };
    let request = CreateSagaRequest {
        queue: "watched".into(),
        payload: vec![b'x'; 64 << 10].into(),
        compensations: (0..128).map(compensation).collect(),
        ..create(&format!("large-{number}"))
    };
    api.stale(request, "gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_watchers_that_do_not_read_large_stale_sagas_take_bounded_memory() {
    /// As many sagas as a page may have.
    const SAGAS: usize = 16;
    const TOGETHER: usize = 8;
    let watchers = sized(64, 240);
    let attack = MeasuredAttack::begin("watchers of stale sagas of 1.1 MiB that don't read", &[]).await;
    let api = attack.daemon.api().await;
    for number in 0..SAGAS {
        large_and_stale(&api, number).await;
    }
    let request = WatchStaleRequest { queues: vec!["watched".into()], ..Default::default() };
    let mut deaf = Vec::new();
    for _ in 0..watchers / TOGETHER {
        // A window for the begin of the first saga.
        let mut raw = RawConnection::with(attack.daemon.address(), &[(INITIAL_WINDOW, 100)]).await.unwrap().reading();
        for _ in 0..TOGETHER {
            raw.call("/sagad.v1.SagaService/WatchStale", &request.encode_to_vec()).await.unwrap();
        }
        let begun = || async { (raw.seen.data_bytes.load(Relaxed) >= 100 * TOGETHER as u64).then_some(()) };
        eventually("they begin", begun).await;
        deaf.push(raw);
    }
    attack.hold(2).await;
    // A watcher that reads receives all sagas.
    let mut reading = api.watch_stale(WatchStaleRequest { snapshot_only: true, ..request }).await.unwrap();
    let mut seen = 0;
    while let Some(answer) = reading.message().await.unwrap() {
        seen += usize::from(matches!(answer.item, Some(watch_stale_response::Item::Stale(_))));
    }
    assert_eq!(seen, SAGAS);
    drop((deaf, reading, api));
    // Each watch has one encoded saga. With a page of 16 whole sagas each it was 1.5 GiB, in CI's size.
    attack.end(sized(480, 800)).await;
}
