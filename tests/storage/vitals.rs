//! What a store measures of itself: that it is counted, and each thing once.

use futures::StreamExt;
use sagad::{
    domain::{event::EventType, time::Span},
    metrics::{CheckpointKind, CheckpointOutcome, QueueEventCounts, Vitals, WatchKind},
    watch,
};

use super::{
    bench::{Bench, Setup},
    build::*,
};

on_every_backend! {
    batches_and_changes_are_counted
    leases_that_run_out_are_counted_by_queue
    who_handles_compensations_is_known
    open_watches_are_known_and_how_far_they_are
    absences_are_counted
}

/// The vitals, once the writer has noted all that is before: it does so behind its answers.
fn vitals(bench: &Bench) -> Vitals {
    bench.settle();
    bench.settle();
    bench.store.vitals()
}

fn events(vitals: &Vitals, kind: EventType) -> u64 {
    vitals.events.iter().find(|(other, _)| *other == kind).map(|(_, count)| *count).unwrap()
}

fn batches_and_changes_are_counted(bench: Bench) {
    let before = vitals(&bench);
    bench.sagas(create([creation("a"), creation("b")]));
    bench.saga(claim("a", "w"));
    assert!(bench.submit(claim("a", "x")).is_err());
    let after = vitals(&bench);
    // Three of ours, and up to three of settling: refused ones are judged, too.
    let changes = after.changes - before.changes;
    assert!((4..=6).contains(&changes), "{changes}");
    assert_eq!(after.changes - before.changes, after.batch_sizes.sum - before.batch_sizes.sum);
    let batches = after.batch_sizes.count() - before.batch_sizes.count();
    assert_eq!(batches, changes, "one after the other");
    for times in [&after.batch_micros, &after.commit_micros] {
        assert_eq!(times.count(), after.batch_sizes.count());
    }
    assert_eq!(after.batch_minute.count, after.batch_sizes.count());
    assert_eq!((events(&after, EventType::Created), events(&after, EventType::Claimed)), (2, 1));
    assert_eq!((after.head, after.waiting, after.writer_queue_depth), (bench.history().last().unwrap().revision, 0, 0));
    assert_eq!(after.writer_queue_max, 10_000);
    assert!(!after.disk_full && after.refusals == Default::default());
}

fn leases_that_run_out_are_counted_by_queue(bench: Bench) {
    bench.sagas(create([placed("a", "p", 0), undoable("b", &["x"])]));
    bench.saga(claim("a", "w"));
    bench.saga(claim_undo("b", "w"));
    bench.advance(secs(3600));
    bench.saga(park("a"));
    let vitals = vitals(&bench);
    let of_q = QueueEventCounts { compensation_expired: 1, ..QueueEventCounts::default() };
    let of_p = QueueEventCounts { execution_expired: 1, quarantined: 1, ..QueueEventCounts::default() };
    assert_eq!(vitals.queues, [(queue("p"), of_p), (queue("q"), of_q)]);
    assert_eq!(vitals.other_queues, QueueEventCounts::default());
    assert_eq!(events(&vitals, EventType::LeaseExpired), 2);
}

fn who_handles_compensations_is_known(bench: Bench) {
    assert_eq!(bench.tasks(next_undo("w", &["branch", "tree"])), [""; 0]);
    bench.advance(secs(1));
    assert_eq!(bench.tasks(next_undo("w", &[])), [""; 0]);
    assert_eq!(bench.tasks(next(&["q", "p"], "w")), [""; 0]);
    let asking = bench.store.vitals().handled_kinds;
    let told: Vec<_> =
        asking.iter().map(|a| (a.kind.as_ref().map(|kind| kind.as_str()), bench.now().since(a.last))).collect();
    let (now, before) = (Span::ZERO, secs(1));
    assert_eq!(told, [(None, now), (Some("branch"), before), (Some("tree"), before)]);
    assert!(asking.iter().all(|a| a.queue == queue("q")));
}

fn open_watches_are_known_and_how_far_they_are(bench: Bench) {
    bench.sagas(create([creation("a")]));
    bench.settle();
    let stale = watch::watch_stale(bench.store.clone(), vec![queue("q")], None, false);
    let events = watch::watch_events(bench.store.clone(), Some(task("a")), Vec::new(), None);
    let (mut stale, mut events) = (Box::pin(stale), Box::pin(events));
    let begun = bench.store.vitals().head;
    for watch in bench.store.vitals().watches {
        assert_eq!(watch.position, begun);
        let of_events = watch.kind == WatchKind::Events;
        assert_eq!((watch.queues.is_empty(), watch.one_task), (of_events, of_events));
    }
    // Each tells where it begins.
    bench.wait(async { (stale.next().await, events.next().await) });
    bench.saga(claim("a", "w"));
    bench.settle();
    let position = |kind| bench.store.vitals().watches.iter().find(|watch| watch.kind == kind).unwrap().position;
    assert_eq!(position(WatchKind::Events), begun, "it has not looked yet");
    bench.wait(events.next()).unwrap().unwrap();
    assert_eq!(position(WatchKind::Events), bench.store.vitals().head);
    assert_eq!(position(WatchKind::Stale), begun);
    drop(stale);
    assert_eq!(bench.store.vitals().watches.len(), 1);
    drop(events);
    assert_eq!(bench.store.vitals().watches, []);
}

fn absences_are_counted(bench: Bench) {
    assert_eq!(vitals(&bench).clock.absences, 0);
    bench.advance(secs(60));
    let clock = vitals(&bench).clock;
    assert_eq!((clock.absences, clock.last_absence, clock.longest_absence), (1, secs(60), secs(60)));
    assert_eq!(clock.last_absence_at, Some(bench.now()));
    assert_eq!((clock.steps, clock.distance), (0, 0), "no clock was stepped");
    assert_eq!(bench.store.writer_silence(), Span::ZERO);
    assert_eq!(bench.store.vitals().writer_ran_at, bench.now());
}

#[test]
fn checkpoints_are_counted_and_the_log_is_known() {
    let bench = Bench::sqlite_with(Setup { max_wal_bytes: 1 << 20, ..Setup::default() });
    let done = |kind| {
        let log = vitals(&bench).log;
        log.checkpoints.iter().find(|(k, o, _)| (*k, *o) == (kind, CheckpointOutcome::Done)).unwrap().2
    };
    bench.sagas(create([creation("a")]));
    let before = vitals(&bench).log;
    assert!(before.bytes > 0 && before.bytes < 1 << 20, "{before:?}");
    let restarts = done(CheckpointKind::Restart);
    for n in 0..400 {
        bench.sagas(create((0..10).map(|m| creation(&format!("{n}-{m}")))));
    }
    let after = vitals(&bench).log;
    assert!(done(CheckpointKind::Restart) > restarts && after.begun > before.begun, "{after:?}");
    assert_eq!(after.begun_at, Some(bench.now()));
    assert!(after.bytes <= (1 << 20) + (1 << 19), "{after:?}");
    assert!(
        after.checkpoints.iter().all(|(_, outcome, count)| *outcome == CheckpointOutcome::Done || *count == 0),
        "{after:?}"
    );
}
