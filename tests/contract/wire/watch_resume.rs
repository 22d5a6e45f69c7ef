//! A watcher receives every item exactly once, over disconnections and restarts.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sagad::proto::*;

use super::resuming_watcher::{ResumingWatcher, StaleLoad, WatchKind, WatchedItem, staleness_of};
use crate::support::{daemon::ShutdownSignal, *};

const CUTS: usize = 50;

/// All events in order of revision, read saga by saga with `ListEvents`.
async fn whole_history(api: &Api) -> Vec<SagaEvent> {
    let mut events = Vec::new();
    let mut request = ListSagasRequest { page_size: 1000, ..Default::default() };
    loop {
        let page = api.list_sagas(request.clone()).await.unwrap();
        for saga in &page.sagas {
            events.extend(api.history(&saga.task_id).await);
        }
        if page.next_page_token.is_empty() {
            events.sort_by_key(|event| event.revision);
            return events;
        }
        request.page_token = page.next_page_token;
    }
}

/// Disconnects watchers of both kinds at random, restarts the daemon now and then, and compares what they received.
async fn disconnect_at_random(seed: u64, restarts: &[(usize, ShutdownSignal)]) {
    // Without grace, so that leases end even in a short run.
    let mut daemon = Daemon::start_with(&["--restart-grace", "0s"]);
    let address = daemon.address();
    let load = StaleLoad::start(address, seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut stale = ResumingWatcher::new(WatchKind::Stale);
    let mut events = ResumingWatcher::new(WatchKind::Events);
    for cut in 0..CUTS {
        let (some, more) = (random.random_range(0..8), random.random_range(0..40));
        match restarts.iter().find(|(when, _)| *when == cut) {
            None => {
                tokio::join!(stale.watch_briefly(address, some), events.watch_briefly(address, more));
            }
            Some((_, how)) => {
                // Both watch while the daemon goes down.
                let watching =
                    async { tokio::join!(stale.watch_briefly(address, 1000), events.watch_briefly(address, 1000)) };
                let restarting = async {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    daemon.restart(*how).await;
                };
                tokio::join!(watching, restarting);
            }
        }
    }
    load.stop().await;
    let api = daemon.api().await;
    // All leases have ended, and one saga is stale at the end.
    let last = api.stale(create("last"), "w").await.revision;
    stale.catch_up(&api, last).await;
    events.catch_up(&api, last).await;

    let history = whole_history(&api).await;
    let seen: Vec<_> = events.seen.iter().map(|seen| seen.revision).collect();
    let stored: Vec<_> = history.iter().map(|event| event.revision).filter(|revision| *revision <= last).collect();
    assert_eq!(seen, stored, "seed {seed}: WatchEvents against ListEvents");
    assert_eq!(events.seen, WatchKind::Events.whole(&api, last).await, "seed {seed}: WatchEvents");
    assert_eq!(stale.seen, WatchKind::Stale.whole(&api, last).await, "seed {seed}: WatchStale");
    let expected: Vec<_> = staleness_of(&history).into_iter().filter(|seen| seen.revision <= last).collect();
    assert_eq!(stale.seen.len(), expected.len(), "seed {seed}");
    for (seen, expected) in stale.seen.iter().zip(&expected) {
        let same = seen.revision == expected.revision && seen.what.starts_with(&expected.what);
        assert!(same, "seed {seed}: {seen:?} where the history has {expected:?}");
    }
    assert!(expected.len() > 20, "too little happened: {}", expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_a_watcher_disconnected_50_times_receives_every_item_exactly_once() {
    disconnect_at_random(1, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_a_watcher_receives_every_item_exactly_once_over_restarts() {
    let restarts = [
        (5, ShutdownSignal::Term),
        (14, ShutdownSignal::Kill),
        (23, ShutdownSignal::Term),
        (31, ShutdownSignal::Kill),
        (40, ShutdownSignal::Kill),
    ];
    disconnect_at_random(2, &restarts).await;
}

#[tokio::test]
async fn p7_watch_events_begins_with_a_bookmark_followed_by_later_events() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let mut fresh = api.watch_events(WatchEventsRequest::default()).await.unwrap();
    let first = fresh.message().await.unwrap().unwrap();
    assert_eq!(first.revision, 0, "the bookmark of a store without any event");
    assert!(matches!(first.item, Some(watch_events_response::Item::Bookmark(_))));

    let saga = api.running("t", "w").await;
    api.until_published(saga.revision).await;
    let mut now_on = api.watch_events(WatchEventsRequest::default()).await.unwrap();
    assert_eq!(now_on.message().await.unwrap().unwrap().revision, saga.revision);
    let mut from = WatchKind::Events.open(&api, Some(1)).await.unwrap();
    assert_eq!(from.next().await.unwrap(), WatchedItem { revision: 1, what: String::new() });
    assert_eq!(from.next().await.unwrap().revision, 2);

    let done = api.complete(key(&saga).complete()).await.unwrap();
    let answer = now_on.message().await.unwrap().unwrap();
    let Some(watch_events_response::Item::Event(event)) = answer.item else { panic!("{answer:?}") };
    assert_eq!((event.revision, event.r#type()), (done.revision, EventType::Completed));
    assert_eq!(event, api.history("t").await.pop().unwrap(), "the same event as listed");
}

#[tokio::test]
async fn p7_watch_events_selects_one_saga_or_some_queues() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for (task_id, queue) in [("a", "one"), ("b", "two"), ("c", "one"), ("d", "three")] {
        api.create_saga(CreateSagaRequest { queue: queue.into(), ..create(task_id) }).await.unwrap();
        api.claim(claim(task_id, "w", 60_000)).await.unwrap();
    }
    let of = async |request: WatchEventsRequest, count: usize| {
        let request = WatchEventsRequest { after_revision: Some(0), ..request };
        let mut stream = api.watch_events(request).await.unwrap();
        let mut ids = Vec::new();
        while ids.len() < count {
            let answer = stream.message().await.unwrap().unwrap();
            if let Some(watch_events_response::Item::Event(event)) = answer.item {
                ids.push(event.task_id);
            }
        }
        ids
    };
    let saga = WatchEventsRequest { task_id: "b".into(), ..Default::default() };
    assert_eq!(of(saga, 2).await, ["b", "b"]);
    let queues = WatchEventsRequest { queues: vec!["one".into(), "three".into()], ..Default::default() };
    assert_eq!(of(queues, 6).await, ["a", "a", "c", "c", "d", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_watchers_that_do_not_read_delay_nobody_and_miss_nothing() {
    const SAGAS: usize = 5000;
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let mut slow = Vec::new();
    for place in 0..20 {
        let stream = if place % 2 == 0 { WatchKind::Events } else { WatchKind::Stale };
        let own = daemon.api().await;
        slow.push((own.clone(), stream, stream.open(&own, Some(0)).await.unwrap()));
    }
    let mut watch = WatchKind::Events.open(&api, Some(0)).await.unwrap();
    for batch in 0..SAGAS / 1000 {
        let requests = (0..1000).map(|i| create(&format!("t-{batch}-{i}"))).collect();
        api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    }
    let saga = api.stale(create("stale"), "w").await;
    // A watcher that reads receives everything while the others read nothing.
    let mut count = 0;
    while count < SAGAS + 3 {
        count += usize::from(!watch.next().await.unwrap().what.is_empty());
    }
    // The others then read everything from their old positions.
    for (_, stream, open) in &mut slow {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last: &WatchedItem| last.revision < saga.revision) {
            let item = tokio::time::timeout(WAIT_MAX, open.next()).await.expect("the watch continues").unwrap();
            seen.extend(Some(item).filter(|item| !item.what.is_empty()));
        }
        assert!(seen.is_sorted_by(|a, b| a.revision < b.revision));
        assert_eq!(seen.len(), if *stream == WatchKind::Events { SAGAS + 3 } else { 1 });
    }
}
