//! Sixty-four plain clients over restarts, and the verdict.

use sagad::proto::*;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    ARGS,
    calls::{Caller, Figures},
    ledger::Ledger,
    restart_again_and_again,
    roles::Hand,
    streams,
};
use crate::support::{Daemon, daemon::ShutdownSignal};

const BY_ID: usize = 24;
const BY_QUEUE: usize = 16;
const KEEPERS: usize = 8;
const FORGETFUL: usize = 6;
const LISTERS: usize = 4;
const WATCHERS: usize = 3;

/// All that clients do, over restarts: nothing fails, nothing happens twice, nothing is missed.
pub async fn clients_go_on(how: ShutdownSignal) {
    let mut daemon = Daemon::start_with(ARGS);
    let address = daemon.address();
    let (figures, ledger, stop) = (Figures::new(), Ledger::default(), CancellationToken::new());
    let hand = |n: usize, what: &str| Hand {
        caller: Caller::new(address, &figures),
        ledger: ledger.clone(),
        owner: format!("{what}-{n}"),
        stop: stop.clone(),
    };
    hand(0, "maker").make_fixed().await;
    let (told, head) = watch::channel(i64::MAX);
    let (mut events, mut stale, mut clients) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for _ in 0..WATCHERS {
        events.spawn(streams::events(Caller::new(address, &figures), how, head.clone()));
        stale.spawn(streams::stale(Caller::new(address, &figures), how, head.clone()));
    }
    (0..BY_ID).for_each(|n| drop(clients.spawn(hand(n, "by-id").work_by_id())));
    (0..BY_QUEUE).for_each(|n| drop(clients.spawn(hand(n, "by-queue").work_by_queue())));
    (0..KEEPERS).for_each(|n| drop(clients.spawn(streams::keep_alive(hand(n, "keeper"), how))));
    (0..FORGETFUL).for_each(|n| drop(clients.spawn(hand(n, "forgetful").forget())));
    (0..LISTERS).for_each(|n| drop(clients.spawn(hand(n, "lister").list())));
    let count = clients.len() + events.len() + stale.len();

    let restarts = restart_again_and_again(&mut daemon, how).await;
    stop.cancel();
    while clients.join_next().await.transpose().expect("no client fails").is_some() {}

    let history = ledger.compare(&Caller::new(address, &figures)).await;
    told.send_replace(history.last().unwrap().revision);
    while let Some(record) = events.join_next().await.transpose().expect("no watcher fails") {
        let record: Vec<SagaEvent> = record.into_iter().map(|(_, event)| event).collect();
        assert!(record == history, "a watcher's record is not the history");
    }
    let expected = stale_of(&history);
    while let Some(record) = stale.join_next().await.transpose().expect("no watcher fails") {
        assert_eq!(record, expected, "what a watcher was told of stale sagas");
    }
    println!("{count} clients, {how:?}: {restarts:?}");
    println!("{figures}; {} events, {} of them about stale sagas", history.len(), expected.len());
    let (answered, retried) = figures.counts();
    assert!(answered > 30 * u64::from(restarts.count) && retried > u64::from(restarts.count), "too little happened");
}

/// What the history makes a watcher of stale sagas be told.
fn stale_of(history: &[SagaEvent]) -> streams::Record<streams::Told> {
    let told = |event: &SagaEvent| match event.r#type() {
        EventType::LeaseExpired => Some((event.revision, (event.task_id.clone(), event.fencing_token, None))),
        EventType::Quarantined => Some((event.revision, (event.task_id.clone(), 0, Some(Resolution::Terminal)))),
        _ => None,
    };
    history.iter().filter_map(told).collect()
}
