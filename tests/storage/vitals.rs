//! The vitals of a store: each event is counted once.

use futures::StreamExt;
use sagad::{
    domain::{event::EventType, time::Span},
    metrics::{CheckpointKind, CheckpointOutcome, QueueEventCounts, Vitals, WatchKind},
    watch,
};

use super::{
    builders::*,
    test_store::{StoreSetup, TestStore},
};

on_every_backend! {
    batches_and_changes_are_counted
    expired_leases_are_counted_by_queue
    compensation_handlers_are_known_by_queue_and_kind
    open_watches_and_their_positions_are_known
    absences_are_counted
}

/// The vitals, after the writer has recorded everything so far: it records after it has answered.
fn vitals(store: &TestStore) -> Vitals {
    store.settle();
    store.settle();
    store.handle.vitals()
}

fn events(vitals: &Vitals, kind: EventType) -> u64 {
    vitals.events.iter().find(|(other, _)| *other == kind).map(|(_, count)| *count).unwrap()
}

fn batches_and_changes_are_counted(store: TestStore) {
    let before = vitals(&store);
    store.sagas(create([creation("a"), creation("b")]));
    store.saga(claim("a", "w"));
    assert!(store.submit(claim("a", "x")).is_err());
    let after = vitals(&store);
    // Three calls of the test, and up to three of `settle`: refused calls count, too.
    let changes = after.changes - before.changes;
    assert!((4..=6).contains(&changes), "{changes}");
    assert_eq!(after.changes - before.changes, after.batch_sizes.sum - before.batch_sizes.sum);
    let batches = after.batch_sizes.count() - before.batch_sizes.count();
    assert_eq!(batches, changes, "one change in each batch");
    for times in [&after.batch_micros, &after.commit_micros] {
        assert_eq!(times.count(), after.batch_sizes.count());
    }
    assert_eq!(after.batch_minute.count, after.batch_sizes.count());
    assert_eq!((events(&after, EventType::Created), events(&after, EventType::Claimed)), (2, 1));
    assert_eq!((after.head, after.waiting, after.writer_queue_depth), (store.history().last().unwrap().revision, 0, 0));
    assert_eq!(after.writer_queue_max, 10_000);
    assert!(!after.disk_full && after.refusals == Default::default());
}

fn expired_leases_are_counted_by_queue(store: TestStore) {
    store.sagas(create([placed("a", "p", 0), undoable("b", &["x"])]));
    store.saga(claim("a", "w"));
    store.saga(claim_undo("b", "w"));
    store.advance(secs(3600));
    store.saga(quarantine("a"));
    let vitals = vitals(&store);
    let of_q = QueueEventCounts { compensation_expired: 1, ..QueueEventCounts::default() };
    let of_p = QueueEventCounts { execution_expired: 1, quarantined: 1, ..QueueEventCounts::default() };
    assert_eq!(vitals.queues, [(queue("p"), of_p), (queue("q"), of_q)]);
    assert_eq!(vitals.other_queues, QueueEventCounts::default());
    assert_eq!(events(&vitals, EventType::LeaseExpired), 2);
}

fn compensation_handlers_are_known_by_queue_and_kind(store: TestStore) {
    assert_eq!(store.tasks(next_undo("w", &["branch", "tree"])), [""; 0]);
    store.advance(secs(1));
    assert_eq!(store.tasks(next_undo("w", &[])), [""; 0]);
    assert_eq!(store.tasks(next(&["q", "p"], "w")), [""; 0]);
    let asking = store.handle.vitals().handled_kinds;
    let told: Vec<_> =
        asking.iter().map(|a| (a.kind.as_ref().map(|kind| kind.as_str()), store.now().since(a.last))).collect();
    let (now, before) = (Span::ZERO, secs(1));
    assert_eq!(told, [(None, now), (Some("branch"), before), (Some("tree"), before)]);
    assert!(asking.iter().all(|a| a.queue == queue("q")));
}

fn open_watches_and_their_positions_are_known(store: TestStore) {
    store.sagas(create([creation("a")]));
    store.settle();
    let stale = watch::watch_stale(store.handle.clone(), vec![queue("q")], None, false);
    let events = watch::watch_events(store.handle.clone(), Some(task("a")), Vec::new(), None);
    let (mut stale, mut events) = (Box::pin(stale), Box::pin(events));
    let begun = store.handle.vitals().head;
    for watch in store.handle.vitals().watches {
        assert_eq!(watch.position, begun);
        let of_events = watch.kind == WatchKind::Events;
        assert_eq!((watch.queues.is_empty(), watch.one_task), (of_events, of_events));
    }
    // Each sends its first bookmark.
    store.wait(async { (stale.next().await, events.next().await) });
    store.saga(claim("a", "w"));
    store.settle();
    let position = |kind| store.handle.vitals().watches.iter().find(|watch| watch.kind == kind).unwrap().position;
    assert_eq!(position(WatchKind::Events), begun, "it has not read further yet");
    store.wait(events.next()).unwrap().unwrap();
    assert_eq!(position(WatchKind::Events), store.handle.vitals().head);
    assert_eq!(position(WatchKind::Stale), begun);
    drop(stale);
    assert_eq!(store.handle.vitals().watches.len(), 1);
    drop(events);
    assert_eq!(store.handle.vitals().watches, []);
}

fn absences_are_counted(store: TestStore) {
    assert_eq!(vitals(&store).clock.absences, 0);
    store.advance(secs(60));
    let clock = vitals(&store).clock;
    assert_eq!((clock.absences, clock.last_absence, clock.longest_absence), (1, secs(60), secs(60)));
    assert_eq!(clock.last_absence_at, Some(store.now()));
    assert_eq!((clock.steps, clock.distance), (0, 0), "an absence is no clock step");
    assert_eq!(store.handle.writer_silence(), Span::ZERO);
    assert_eq!(store.handle.vitals().writer_ran_at, store.now());
}

#[test]
fn checkpoints_and_the_size_of_the_log_are_measured() {
    let store = TestStore::sqlite_with(StoreSetup { max_wal_bytes: 1 << 20, ..StoreSetup::default() });
    let done = |kind| {
        let log = vitals(&store).log;
        log.checkpoints.iter().find(|(k, o, _)| (*k, *o) == (kind, CheckpointOutcome::Done)).unwrap().2
    };
    store.sagas(create([creation("a")]));
    let before = vitals(&store).log;
    assert!(before.bytes > 0 && before.bytes < 1 << 20, "{before:?}");
    let restarts = done(CheckpointKind::Restart);
    for n in 0..400 {
        store.sagas(create((0..10).map(|m| creation(&format!("{n}-{m}")))));
    }
    let after = vitals(&store).log;
    assert!(done(CheckpointKind::Restart) > restarts && after.begun > before.begun, "{after:?}");
    assert_eq!(after.begun_at, Some(store.now()));
    assert!(after.bytes <= (1 << 20) + (1 << 19), "{after:?}");
    assert!(
        after.checkpoints.iter().all(|(_, outcome, count)| *outcome == CheckpointOutcome::Done || *count == 0),
        "{after:?}"
    );
}
