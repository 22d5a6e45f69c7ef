//! Sixty-four plain clients over restarts, and the comparison of their records with the history.

use sagad::proto::*;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    ARGS,
    acknowledged_events::AcknowledgedEvents,
    plain_client::PlainClient,
    restart_again_and_again,
    retrying_caller::{CallFigures, RetryingCaller},
    streams,
};
use crate::support::{Daemon, daemon::ShutdownSignal};

const BY_ID: usize = 24;
const BY_QUEUE: usize = 16;
const KEEPERS: usize = 8;
const FORGETFUL: usize = 6;
const LISTERS: usize = 4;
const WATCHERS: usize = 3;

/// Runs all kinds of clients over restarts: nothing fails, happens twice, or is missed.
pub async fn clients_go_on(how: ShutdownSignal) {
    let mut daemon = Daemon::start_with(ARGS);
    let address = daemon.address();
    let (figures, acknowledged, stop) = (CallFigures::new(), AcknowledgedEvents::default(), CancellationToken::new());
    let client = |n: usize, what: &str| PlainClient {
        caller: RetryingCaller::new(address, &figures),
        acknowledged: acknowledged.clone(),
        owner: format!("{what}-{n}"),
        stop: stop.clone(),
    };
    client(0, "maker").make_fixed().await;
    let (told, head) = watch::channel(i64::MAX);
    let (mut events, mut stale, mut clients) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for _ in 0..WATCHERS {
        events.spawn(streams::events(RetryingCaller::new(address, &figures), how, head.clone()));
        stale.spawn(streams::stale(RetryingCaller::new(address, &figures), how, head.clone()));
    }
    (0..BY_ID).for_each(|n| drop(clients.spawn(client(n, "by-id").work_by_id())));
    (0..BY_QUEUE).for_each(|n| drop(clients.spawn(client(n, "by-queue").work_by_queue())));
    (0..KEEPERS).for_each(|n| drop(clients.spawn(streams::keep_alive(client(n, "keeper"), how))));
    (0..FORGETFUL).for_each(|n| drop(clients.spawn(client(n, "forgetful").let_leases_expire())));
    (0..LISTERS).for_each(|n| drop(clients.spawn(client(n, "lister").list())));
    let count = clients.len() + events.len() + stale.len();

    let restarts = restart_again_and_again(&mut daemon, how).await;
    stop.cancel();
    while clients.join_next().await.transpose().expect("no client panics").is_some() {}

    let history = acknowledged.compare(&RetryingCaller::new(address, &figures)).await;
    told.send_replace(history.last().unwrap().revision);
    while let Some(record) = events.join_next().await.transpose().expect("no watcher panics") {
        let record: Vec<SagaEvent> = record.into_iter().map(|(_, event)| event).collect();
        assert!(record == history, "a watcher's record differs from the history");
    }
    let expected = stale_of(&history);
    while let Some(record) = stale.join_next().await.transpose().expect("no watcher panics") {
        assert_eq!(record, expected, "the items of a watcher of stale sagas");
    }
    println!("{count} clients, {how:?}: {restarts:?}");
    println!("{figures}; {} events, {} of them about stale sagas", history.len(), expected.len());
    let (answered, retried) = figures.counts();
    assert!(answered > 30 * u64::from(restarts.count) && retried > u64::from(restarts.count), "too few calls");
}

/// The items that a watcher of stale sagas must receive, computed from the history.
fn stale_of(history: &[SagaEvent]) -> streams::WatchRecord<streams::StaleItem> {
    let told = |event: &SagaEvent| match event.r#type() {
        EventType::LeaseExpired => Some((event.revision, (event.task_id.clone(), event.fencing_token, None))),
        EventType::Quarantined => Some((event.revision, (event.task_id.clone(), 0, Some(Resolution::Terminal)))),
        _ => None,
    };
    history.iter().filter_map(told).collect()
}
