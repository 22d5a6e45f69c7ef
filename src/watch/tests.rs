//! Tests of watches on a store in memory: cut off and resumed, slow, filtered, idle.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, BytesMut};
use futures::{FutureExt, Stream, StreamExt, stream};
use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        event::{Event, EventType, Resolution, StaleMark},
        ids::{FencingToken, OwnerId, QueueName, Revision, TaskId},
        lease::StaleCause,
        saga::{Spec, State},
        time::Timestamp,
    },
    store::{
        Store, StoreError,
        memory::{Memory, testing::running},
        recent_events::EncodedRun,
    },
};

type Watch<T> = Pin<Box<dyn Stream<Item = Result<T, StoreError>> + Send>>;

fn queue(i: u8) -> QueueName {
    QueueName::parse(&format!("q{i}")).unwrap()
}

/// An event of one of four sagas in one of two queues; every third one marks.
fn event(revision: i64) -> Event {
    let saga = revision % 4;
    let mark = match revision % 6 {
        0 => Some(StaleMark::Stale {
            owner: OwnerId::parse("worker-1").unwrap(),
            token: FencingToken(revision),
            expire_time: Timestamp::from_micros(revision),
            cause: StaleCause::Ttl,
        }),
        3 => Some(StaleMark::Resolved(Resolution::Requeued)),
        _ => None,
    };
    let task_id = TaskId::parse(&format!("t{saga}")).unwrap();
    Event {
        revision: Revision(revision),
        saga_id: task_id.to_saga_id(),
        task_id,
        queue: queue((saga % 2) as u8),
        time: Timestamp::from_micros(revision),
        kind: EventType::Annotated,
        actor: None,
        reason: "".into(),
        from_state: Some(State::Running),
        to_state: State::Running,
        token: None,
        details: Default::default(),
        mark,
    }
}

/// What a watcher of events was sent, one thing at a time.
#[derive(Debug, PartialEq, Eq)]
enum SentItem {
    Event(i64),
    Bookmark(Revision),
}

/// Each event as eight bytes, and as many more as its revision is odd: they have different lengths.
fn encode(events: &[Arc<Event>]) -> EncodedRun {
    let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
    for event in events {
        bytes.put_i64(event.revision.0);
        bytes.put_bytes(b'.', usize::from(event.revision.0 % 2 == 1));
        ends.push(bytes.len());
    }
    EncodedRun { bytes: bytes.freeze(), ends }
}

/// The items, told apart by their encoding. It has to be that of the item's events and of nothing else.
fn sent(items: impl Stream<Item = Result<EventItem, StoreError>> + Send + 'static) -> Watch<SentItem> {
    let told = |item| match item {
        Ok(EventItem::Events(wanted)) => {
            let parts = match wanted.encoded(encode) {
                SelectionBytes::All(bytes) => bytes.to_vec(),
                SelectionBytes::Parts(parts) => parts.concat(),
            };
            let (mut bytes, mut revisions) = (&parts[..], Vec::new());
            while bytes.has_remaining() {
                let revision = bytes.get_i64();
                bytes.advance(usize::from(revision % 2 == 1));
                revisions.push(revision);
            }
            assert!(revisions.iter().copied().eq(wanted.events().map(|event| event.revision.0)));
            revisions.into_iter().map(|revision| Ok(SentItem::Event(revision))).collect()
        }
        Ok(EventItem::Bookmark(revision)) => vec![Ok(SentItem::Bookmark(revision))],
        Err(error) => vec![Err(error)],
    };
    Box::pin(items.flat_map(move |item| stream::iter(told(item))))
}

fn follow(store: &Store, queues: &[QueueName], after: Option<Revision>) -> Watch<SentItem> {
    sent(watch_events(store.clone(), None, queues.to_vec(), after))
}

fn follow_stale(store: &Store, after: Option<Revision>, snapshot_only: bool) -> Watch<StaleItem> {
    Box::pin(watch_stale(store.clone(), Vec::new(), after, snapshot_only))
}

fn revision_of(item: &StaleItem) -> Revision {
    match item {
        StaleItem::Stale { revision, .. }
        | StaleItem::Resolved { revision, .. }
        | StaleItem::Bookmark { revision, .. } => *revision,
    }
}

/// What a watch sends until it has nothing more for a second.
async fn drained<T>(watch: &mut Watch<T>) -> Vec<T> {
    let mut items = Vec::new();
    while let Ok(Some(item)) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
        items.push(item.unwrap());
    }
    items
}

fn revisions(items: &[SentItem]) -> Vec<i64> {
    items
        .iter()
        .filter_map(|item| match item {
            SentItem::Event(revision) => Some(*revision),
            SentItem::Bookmark(_) => None,
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_with_a_bookmark_and_follows() {
    let memory = Memory::default();
    memory.append((1..=5).map(event));
    let store = memory.read_only_store();
    let mut watch = follow(&store, &[], None);
    assert_eq!(watch.next().await, Some(Ok(SentItem::Bookmark(Revision(5)))));
    assert!(watch.next().now_or_never().is_none());
    memory.publish(&store, vec![event(7), event(9)]);
    assert_eq!(revisions(&drained(&mut watch).await), [7, 9]);

    let mut all = follow(&store, &[], Some(Revision::ZERO));
    assert_eq!(all.next().await, Some(Ok(SentItem::Bookmark(Revision::ZERO))));
    assert_eq!(revisions(&drained(&mut all).await), [1, 2, 3, 4, 5, 7, 9]);
}

#[tokio::test(start_paused = true)]
async fn one_saga_and_one_queue_can_be_followed() {
    let memory = Memory::default();
    memory.append((1..=400).map(event));
    let store = memory.read_only_store();
    let task_id = TaskId::parse("t2").unwrap();
    let mut one = sent(watch_events(store.clone(), Some(task_id), Vec::new(), Some(Revision(10))));
    let mut odd = follow(&store, &[queue(1)], Some(Revision(10)));
    memory.publish(&store, (401..=600).map(event).collect());
    let expected = |wanted: fn(i64) -> bool| (11..=600).filter(|r| wanted(*r)).collect::<Vec<i64>>();
    assert_eq!(revisions(&drained(&mut one).await), expected(|r| r % 4 == 2));
    assert_eq!(revisions(&drained(&mut odd).await), expected(|r| r % 2 == 1));
}

/// A watcher that is behind sees the event of a saga that was purged since, whose task_id another one has by now.
#[tokio::test(start_paused = true)]
async fn p17_a_watch_of_a_reused_task_id_shows_no_other_saga() {
    for used_again in [false, true] {
        let memory = Memory::default();
        let store = memory.read_only_store();
        let mut watch = follow_stale(&store, None, false);
        assert!(matches!(watch.next().await, Some(Ok(StaleItem::Bookmark { .. }))));
        let mut saga = running("t2", "elsewhere", None);
        if used_again {
            let saga_id = TaskId::parse("made-later").unwrap().to_saga_id();
            saga.spec = Arc::new(Spec { saga_id, ..(*saga.spec).clone() });
        }
        memory.put([saga]);
        memory.publish(&store, vec![event(6)]);
        let items = drained(&mut watch).await;
        let [StaleItem::Stale { saga, .. }] = &items[..] else { panic!("{items:?}") };
        assert_eq!(saga.is_none(), used_again, "{saga:?}");
    }
}

/// Runs are shared among all watchers, whatever they may see of them.
#[tokio::test(start_paused = true)]
async fn p17_shared_events_are_sent_only_to_watchers_that_select_them() {
    let memory = Memory::default();
    let store = memory.read_only_store();
    let task_id = TaskId::parse("t2").unwrap();
    let mut all = follow(&store, &[], None);
    let mut all_too = follow(&store, &[queue(0), queue(1)], None);
    let mut odd = follow(&store, &[queue(1)], None);
    let mut one = sent(watch_events(store.clone(), Some(task_id), Vec::new(), None));
    for watch in [&mut all, &mut all_too, &mut odd, &mut one] {
        assert_eq!(watch.next().await, Some(Ok(SentItem::Bookmark(Revision::ZERO))));
    }
    memory.publish(&store, (1..=500).map(event).collect());
    // Who joins in the middle of a run gets the rest of it.
    let mut late = follow(&store, &[], Some(Revision(7)));
    let expected = |wanted: fn(i64) -> bool| (1..=500).filter(|r| wanted(*r)).collect::<Vec<i64>>();
    assert_eq!(revisions(&drained(&mut all).await), expected(|_| true));
    assert_eq!(revisions(&drained(&mut odd).await), expected(|r| r % 2 == 1));
    assert_eq!(revisions(&drained(&mut one).await), expected(|r| r % 4 == 2));
    assert_eq!(revisions(&drained(&mut all_too).await), expected(|_| true));
    assert_eq!(revisions(&drained(&mut late).await), expected(|r| r > 7));
}

/// Two watchers of everything are sent the same bytes, not copies of them.
#[tokio::test(start_paused = true)]
async fn watchers_at_the_same_position_share_encoded_events() {
    let memory = Memory::default();
    let store = memory.read_only_store();
    let mut watches = [0, 1].map(|_| Box::pin(watch_events(store.clone(), None, Vec::new(), None)));
    for watch in &mut watches {
        watch.next().await.unwrap().unwrap();
    }
    memory.publish(&store, (1..=10).map(event).collect());
    let mut places = Vec::new();
    for watch in &mut watches {
        let Some(Ok(EventItem::Events(wanted))) = watch.next().await else { panic!("there are events") };
        let SelectionBytes::All(bytes) = wanted.encoded(encode) else { panic!("all are wanted") };
        places.push(bytes.as_ptr());
    }
    assert_eq!(places[0], places[1]);
}

#[tokio::test(start_paused = true)]
async fn a_compacted_or_unknown_revision_ends_the_watch_at_once() {
    let memory = Memory::default();
    memory.append((1..=20).map(event));
    memory.compact(Revision(10));
    let store = memory.read_only_store();
    let compacted = StoreError::Compacted { oldest: Revision(10) };
    let unknown = StoreError::UnknownRevision { head: Revision(20) };
    assert_eq!(follow(&store, &[], Some(Revision(9))).next().await, Some(Err(compacted.clone())));
    assert_eq!(follow_stale(&store, Some(Revision(9)), false).next().await, Some(Err(compacted)));
    assert_eq!(follow(&store, &[], Some(Revision(21))).next().await, Some(Err(unknown.clone())));
    let mut watch = follow_stale(&store, Some(Revision(21)), false);
    assert_eq!(watch.next().await, Some(Err(unknown)));
    assert_eq!(watch.next().await, None);
    assert_eq!(revisions(&drained(&mut follow(&store, &[], Some(Revision(10)))).await).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_served_from_the_store() {
    let memory = Memory::default();
    let store = memory.read_only_store();
    let mut watch = follow(&store, &[], None);
    assert_eq!(watch.next().await, Some(Ok(SentItem::Bookmark(Revision::ZERO))));
    for batch in 0..100 {
        // More than the ring keeps, all in all.
        memory.publish(&store, (batch * 100 + 1..=batch * 100 + 100).map(event).collect());
    }
    assert_eq!(revisions(&drained(&mut watch).await), (1..=10_000).collect::<Vec<i64>>());
    let reads = memory.event_reads();
    assert!((1..30).contains(&reads), "it fell behind what is in memory, and came back to it: {reads}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_told_of_a_purge_beyond_its_position() {
    let memory = Memory::default();
    let store = memory.read_only_store();
    let mut watch = follow(&store, &[], None);
    watch.next().await;
    memory.publish(&store, (1..=10_000).map(event).collect());
    memory.compact(Revision(50));
    assert_eq!(watch.next().await, Some(Err(StoreError::Compacted { oldest: Revision(50) })));
}

#[tokio::test(start_paused = true)]
async fn bookmarks_advance_while_no_event_is_selected() {
    let memory = Memory::default();
    let store = memory.read_only_store();
    let task_id = TaskId::parse("nobody").unwrap();
    let mut watch = sent(watch_events(store.clone(), Some(task_id), Vec::new(), None));
    assert_eq!(watch.next().await, Some(Ok(SentItem::Bookmark(Revision::ZERO))));

    // Others' events keep it busy, but don't put the bookmark off.
    let others = async {
        for revision in 1..=100 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            memory.publish(&store, vec![event(revision)]);
        }
    };
    let mine = async {
        let mut bookmarks = Vec::new();
        for _ in 0..5 {
            let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("within 10 s");
            bookmarks.push(item.unwrap().unwrap());
        }
        bookmarks
    };
    let ((), bookmarks) = tokio::join!(others, mine);
    let mut last = -1;
    for bookmark in bookmarks {
        let SentItem::Bookmark(revision) = bookmark else { panic!("{bookmark:?}") };
        assert!(revision.0 > last && revision <= store.event_feed().head());
        last = revision.0;
    }
    assert!(last > 80, "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_sent_in_order_and_then_new_events() {
    let memory = Memory::default();
    memory.append((1..=100).map(event));
    // In another order than that of their expiries, and more than a page of them.
    memory.put((1..=40).map(|i| running(&format!("s{i}"), "q0", Some(Revision((i * 37) % 41)))));
    let store = memory.read_only_store();
    let mut watch = follow_stale(&store, None, false);
    let mut seen = Vec::new();
    for _ in 0..40 {
        let item = watch.next().await.unwrap().unwrap();
        assert!(matches!(&item, StaleItem::Stale { saga: Some(_), .. }), "{item:?}");
        seen.push(revision_of(&item).0);
    }
    assert_eq!(seen, (1..=40).collect::<Vec<i64>>());
    let end = StaleItem::Bookmark { revision: Revision(100), snapshot_end: true };
    assert_eq!(watch.next().await, Some(Ok(end.clone())));

    memory.publish(&store, (101..=103).map(event).collect());
    let stale = watch.next().await.unwrap().unwrap();
    assert!(matches!(&stale, StaleItem::Stale { saga: None, revision: Revision(102), .. }), "purged: {stale:?}");
    let bookmark = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert_eq!(bookmark, Some(Ok(StaleItem::Bookmark { revision: Revision(103), snapshot_end: false })));

    let only: Vec<_> = follow_stale(&store, None, true).collect().await;
    assert_eq!(only.len(), 41);
    let end = StaleItem::Bookmark { revision: Revision(103), snapshot_end: true };
    assert_eq!(only.last(), Some(&Ok(end)));
}

/// One thing that happens while a watcher is there.
#[derive(Clone, Copy, Debug)]
enum WatchTestStep {
    /// So many events are committed together, with a gap of so many revisions before them.
    Publish(u8, u8),
    /// The watcher takes so many items.
    Take(u8),
    /// It is cut off, and resumes from the last revision it received.
    Cut,
}

fn happening() -> impl Strategy<Value = WatchTestStep> {
    prop_oneof![
        3 => (1_u8..40, 0_u8..3).prop_map(|(count, gap)| WatchTestStep::Publish(count, gap)),
        3 => (1_u8..60).prop_map(WatchTestStep::Take),
        2 => Just(WatchTestStep::Cut),
    ]
}

/// Runs a watcher through what happens; returns the events it saw, and those there were.
async fn watched(kept: i64, happenings: Vec<WatchTestStep>, only_odd: bool) -> (Vec<i64>, Vec<i64>) {
    let memory = Memory::default();
    memory.append((1..=kept).map(event));
    let store = memory.read_only_store();
    let queues = if only_odd { vec![queue(1)] } else { Vec::new() };
    let mut position = Revision::ZERO;
    let mut head = kept;
    let mut seen = Vec::new();
    let mut watch = follow(&store, &queues, Some(position));
    for happening in happenings {
        match happening {
            WatchTestStep::Publish(count, gap) => {
                let first = head + i64::from(gap) + 1;
                head = first + i64::from(count) - 1;
                memory.publish(&store, (first..=head).map(event).collect());
            }
            WatchTestStep::Cut => watch = follow(&store, &queues, Some(position)),
            WatchTestStep::Take(count) => {
                for _ in 0..count {
                    let Ok(item) = tokio::time::timeout(Duration::from_millis(10), watch.next()).await else { break };
                    take(item.unwrap().unwrap(), &mut position, &mut seen);
                }
            }
        }
    }
    for item in drained(&mut watch).await {
        take(item, &mut position, &mut seen);
    }
    let there = memory
        .data()
        .events(Revision::ZERO, Revision(i64::MAX))
        .map(|e| e.revision.0)
        .filter(|r| !only_odd || r % 2 == 1)
        .collect();
    (seen, there)
}

fn take(item: SentItem, position: &mut Revision, seen: &mut Vec<i64>) {
    let revision = match item {
        SentItem::Event(revision) => {
            seen.push(revision);
            Revision(revision)
        }
        SentItem::Bookmark(revision) => revision,
    };
    assert!(revision >= *position, "positions never go back");
    *position = revision;
}

/// The same for a watcher of stale sagas.
async fn watched_stale(happenings: Vec<WatchTestStep>) -> (Vec<i64>, Vec<i64>) {
    let memory = Memory::default();
    let store = memory.read_only_store();
    let (mut position, mut head) = (Revision::ZERO, 0);
    let mut seen = Vec::new();
    let mut watch = follow_stale(&store, None, false);
    let nothing = StaleItem::Bookmark { revision: Revision::ZERO, snapshot_end: true };
    assert_eq!(watch.next().await, Some(Ok(nothing)));
    for happening in happenings.into_iter().chain([WatchTestStep::Take(u8::MAX); 8]) {
        match happening {
            WatchTestStep::Publish(count, gap) => {
                let first = head + i64::from(gap) + 1;
                head = first + i64::from(count) - 1;
                memory.publish(&store, (first..=head).map(event).collect());
            }
            WatchTestStep::Cut => watch = follow_stale(&store, Some(position), false),
            WatchTestStep::Take(count) => {
                for _ in 0..count {
                    let Ok(item) = tokio::time::timeout(Duration::from_millis(10), watch.next()).await else { break };
                    let item = item.unwrap().unwrap();
                    position = revision_of(&item).max(position);
                    match item {
                        StaleItem::Stale { revision, .. } | StaleItem::Resolved { revision, .. } => {
                            seen.push(revision.0)
                        }
                        StaleItem::Bookmark { .. } => {}
                    }
                }
            }
        }
    }
    let there =
        memory.data().events(Revision::ZERO, Revision(i64::MAX)).map(|e| e.revision.0).filter(|r| r % 3 == 0).collect();
    (seen, there)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_interrupted_watch_of_events_equals_the_history(
        kept in 0_i64..300,
        happenings in prop::collection::vec(happening(), 0..60),
        only_odd: bool,
    ) {
        let (seen, there) = run(watched(kept, happenings, only_odd));
        prop_assert_eq!(seen, there);
    }

    #[test]
    fn an_interrupted_watch_of_stale_sagas_equals_the_history(happenings in prop::collection::vec(happening(), 0..60)) {
        let (seen, there) = run(watched_stale(happenings));
        prop_assert_eq!(seen, there);
    }
}

#[test]
fn streams_can_move_between_threads() {
    fn sendable<T: Send + 'static>(_: T) {}
    let memory = Memory::default();
    let store = memory.read_only_store();
    sendable(watch_events(store.clone(), None, Vec::new(), None));
    sendable(watch_stale(store, Vec::new(), None, false));
}
