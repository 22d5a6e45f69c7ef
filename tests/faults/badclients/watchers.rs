//! Watchers that don't read: a thousand of events, beside those that do; and of stale sagas that are as large as they can be.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use prost::Message;
use sagad::proto::*;
use tokio::task::JoinSet;

use super::{raw::*, siege::Siege, sized};
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_thousand_watchers_of_which_half_do_not_read() {
    const WATCHERS: usize = 1000;
    /// On one connection: those that don't read would fill the window of those that do.
    const TOGETHER: usize = 50;
    const BATCH: usize = 100;
    let batches = sized(4, 40);
    let siege = Siege::begin("1,000 watchers, half don't read", &[]).await;
    let (mut deaf, mut reading) = (Vec::new(), JoinSet::new());
    let from_now = WatchEventsRequest { queues: vec!["watched".into()], ..Default::default() };
    for _ in 0..WATCHERS / TOGETHER / 2 {
        // Room for the first bookmark, so that they begin. (A client of the library takes megabytes before it is deaf.)
        let mut raw = Raw::with(siege.daemon.address(), &[(INITIAL_WINDOW, 100)]).await.unwrap().reading();
        for _ in 0..TOGETHER {
            raw.call("/sagad.v1.SagaService/WatchEvents", &from_now.encode_to_vec()).await.unwrap();
        }
        eventually("they begin", || async { (raw.seen.data_bytes.load(Relaxed) >= 5 * TOGETHER as u64).then_some(()) })
            .await;
        deaf.push(raw);
        let api = siege.daemon.api().await;
        for _ in 0..TOGETHER {
            let mut watch = api.watch_events(from_now.clone()).await.unwrap();
            reading.spawn(async move {
                let mut seen = 0;
                while seen < batches * BATCH {
                    let answer = watch.message().await.unwrap().expect("it goes on");
                    seen += usize::from(matches!(answer.item, Some(watch_events_response::Item::Event(_))));
                }
            });
        }
    }
    let api = siege.daemon.api().await;
    let begun = now();
    for batch in 0..batches {
        let saga = |i| CreateSagaRequest { queue: "watched".into(), ..create(&format!("w-{batch}-{i}")) };
        let requests = (0..BATCH).map(saga).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    }
    while let Some(read) = tokio::time::timeout(4 * WAIT_MAX, reading.join_next()).await.expect("they are served") {
        read.unwrap();
    }
    println!(
        "{} events to each of {} watchers in {:.1} s",
        batches * BATCH,
        WATCHERS / 2,
        begun.elapsed().as_secs_f64()
    );
    siege.hold(2).await;
    drop((deaf, api));
    siege.end(sized(96, 160)).await;
}

/// A saga that is as large as one can be made, stale.
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
async fn p10_watchers_of_large_stale_sagas_that_do_not_read() {
    /// As many as a page holds, if they are small.
    const SAGAS: usize = 16;
    const TOGETHER: usize = 8;
    let watchers = sized(64, 240);
    let siege = Siege::begin("watchers of stale sagas of 1.1 MiB that don't read", &[]).await;
    let api = siege.daemon.api().await;
    for number in 0..SAGAS {
        large_and_stale(&api, number).await;
    }
    let request = WatchStaleRequest { queues: vec!["watched".into()], ..Default::default() };
    let mut deaf = Vec::new();
    for _ in 0..watchers / TOGETHER {
        // Room for the beginning of the first saga.
        let mut raw = Raw::with(siege.daemon.address(), &[(INITIAL_WINDOW, 100)]).await.unwrap().reading();
        for _ in 0..TOGETHER {
            raw.call("/sagad.v1.SagaService/WatchStale", &request.encode_to_vec()).await.unwrap();
        }
        let begun = || async { (raw.seen.data_bytes.load(Relaxed) >= 100 * TOGETHER as u64).then_some(()) };
        eventually("they begin", begun).await;
        deaf.push(raw);
    }
    siege.hold(2).await;
    // One that reads gets them all.
    let mut reading = api.watch_stale(WatchStaleRequest { snapshot_only: true, ..request }).await.unwrap();
    let mut seen = 0;
    while let Some(answer) = reading.message().await.unwrap() {
        seen += usize::from(matches!(answer.item, Some(watch_stale_response::Item::Stale(_))));
    }
    assert_eq!(seen, SAGAS);
    drop((deaf, reading, api));
    // Of each watch one saga is under way, encoded. With a page of 16 whole sagas in each it was 1.5 GiB, in CI's size.
    siege.end(sized(480, 800)).await;
}
