//! The history: by saga, by queue, from any revision; and which sagas are stale.

use sagad::{
    domain::{
        command::{Creation, RecoveryDecision},
        event::{Event, EventType, Resolution, StaleMark},
        ids::{QueueName, Revision},
        lease::{LeasePurpose, StaleCause},
        saga::Saga,
        text::Blob,
    },
    store::{EventQuery, PageBounds, StoreError},
};

use super::{
    builders::*,
    test_store::{TestStore, task_of},
};

on_every_backend! {
    the_events_of_one_command_are_stored_in_order
    the_history_is_read_in_ranges
    event_filters_combine
    p7_only_assigned_revisions_can_be_resumed_from
    events_mark_the_begin_and_the_end_of_staleness
    p7_stale_sagas_are_read_page_by_page
    p10_stale_pages_are_bounded_by_bytes
    annotations_are_events_of_the_history
}

fn all() -> EventQuery {
    EventQuery { through: Revision(i64::MAX), limit: 1000, ..EventQuery::default() }
}

fn kinds(events: &[Event]) -> Vec<EventType> {
    events.iter().map(|event| event.kind).collect()
}

fn the_events_of_one_command_are_stored_in_order(store: TestStore) {
    use EventType::*;
    store.sagas(create([undoable("a", &["x", "y"])]));
    let claimed = store.saga(claim("a", "w"));
    store.saga(register(&claimed, &["z", "x", "v"]));
    store.tick(TTL);
    store.saga(recover("a", RecoveryDecision::Compensate));
    let history = store.history();
    assert_eq!(
        kinds(&history),
        [Created, Claimed, CompensationRegistered, CompensationRegistered, LeaseExpired, RecoveryDecided, Compensating]
    );
    let decided = &history[5];
    assert_eq!(decided.actor, Some(actor("op")));
    assert_eq!((&*decided.reason, decided.token), ("decided", claimed.lease.map(|lease| lease.token)));
    store.sagas(create([undoable("b", &["x", "y"])]));
    store.saga(cancel("b"));
    let of_b = EventQuery { task_id: Some(task("b")), ..all() };
    let of_b = store.events(of_b).unwrap();
    assert_eq!(kinds(&of_b), [Created, CancelRequested, CompensationSettled, CompensationSettled, Compensated]);
    let positions: Vec<_> = of_b.iter().filter_map(|event| event.details.get("position")).collect();
    assert_eq!(positions, ["2", "1"], "the highest position first");
    assert!(store.history().windows(2).all(|pair| pair[0].revision < pair[1].revision));
}

fn the_history_is_read_in_ranges(store: TestStore) {
    store.sagas(create((0..30).map(|n| placed(&format!("t{n}"), if n % 3 == 0 { "p" } else { "q" }, 0))));
    let history = store.history();
    let (third, last) = (history[2].revision, history[29].revision);
    assert_eq!(store.events(EventQuery { after: third, ..all() }).unwrap(), history[3..]);
    assert_eq!(store.events(EventQuery { through: third, ..all() }).unwrap(), history[..3]);
    assert_eq!(store.events(EventQuery { after: third, limit: 2, ..all() }).unwrap(), history[3..5]);
    assert_eq!(store.events(EventQuery { after: last, ..all() }).unwrap(), []);
    assert_eq!(store.events(EventQuery { after: third, through: third, ..all() }).unwrap(), []);
    let in_p: Vec<_> = history.iter().filter(|event| event.queue == queue("p")).cloned().collect();
    assert_eq!(in_p.len(), 10);
    let query = EventQuery { queues: vec![queue("p"), queue("nowhere")], ..all() };
    assert_eq!(store.events(query.clone()).unwrap(), in_p);
    assert_eq!(store.events(EventQuery { limit: 4, after: third, ..query }).unwrap(), in_p[1..5]);
    let of_one = EventQuery { task_id: Some(task("t7")), ..all() };
    assert_eq!(store.events(of_one.clone()).unwrap(), history[7..8]);
    assert_eq!(store.events(EventQuery { after: last, whole: true, ..of_one }).unwrap(), []);
    assert_eq!(store.events(EventQuery { task_id: Some(task("nobody")), ..all() }).unwrap(), []);
}

fn event_filters_combine(store: TestStore) {
    store.sagas(create([placed("a", "p", 0), placed("b", "q", 0)]));
    for id in ["a", "b"] {
        store.saga(claim(id, "w"));
    }
    store.advance(TTL);
    for id in ["a", "b"] {
        store.saga(claim(id, "v"));
    }
    let of_a = EventQuery { task_id: Some(task("a")), ..all() };
    assert_eq!(store.events(of_a.clone()).unwrap().len(), 4);
    assert_eq!(store.events(EventQuery { queues: vec![queue("q")], ..of_a.clone() }).unwrap(), []);
    assert_eq!(store.events(EventQuery { queues: vec![queue("p"), queue("q")], ..of_a.clone() }).unwrap().len(), 4);
    let marked = EventQuery { marked_only: true, ..of_a };
    let expected = [EventType::LeaseExpired, EventType::Claimed];
    assert_eq!(kinds(&store.events(marked.clone()).unwrap()), expected);
    assert_eq!(kinds(&store.events(EventQuery { limit: 1, ..marked.clone() }).unwrap()), expected[..1]);
    let in_q = EventQuery { task_id: None, queues: vec![queue("q")], ..marked };
    assert_eq!(kinds(&store.events(in_q).unwrap()), expected);
}

fn p7_only_assigned_revisions_can_be_resumed_from(store: TestStore) {
    store.sagas(create([creation("a")]));
    store.settle();
    let head = store.handle.event_feed().head();
    let above = store.events(EventQuery { after: head.after(1), ..all() });
    assert_eq!(above, Err(StoreError::UnknownRevision { head }));
    assert_eq!(store.events(EventQuery { after: head, ..all() }), Ok(vec![]));
    assert_eq!(store.events(all()).unwrap().len(), 1);
}

fn events_mark_the_begin_and_the_end_of_staleness(store: TestStore) {
    let mut limited = creation("c");
    limited.policy.execution_timeout = Some(secs(5));
    store.sagas(create([creation("a"), creation("b"), limited]));
    let a = store.saga(claim("a", "w"));
    store.saga(claim("b", "w"));
    store.saga(claim("c", "w"));
    store.advance(TTL);
    store.saga(claim("a", "v"));
    store.saga(recover("b", RecoveryDecision::Requeue));
    store.saga(quarantine("c"));
    let marked = store.events(EventQuery { marked_only: true, ..all() }).unwrap();
    let of = |id: &str| -> Vec<_> {
        marked.iter().filter(|event| event.task_id == task(id)).map(|event| event.mark.clone().unwrap()).collect()
    };
    let lease = a.lease.unwrap();
    let stale = StaleMark::Stale {
        owner: owner("w"),
        token: lease.token,
        expire_time: lease.expire_time,
        cause: StaleCause::Ttl,
    };
    assert_eq!(of("a"), [stale, StaleMark::Resolved(Resolution::Reclaimed)]);
    assert_eq!(of("b")[1], StaleMark::Resolved(Resolution::Requeued));
    assert_eq!(of("c")[1], StaleMark::Resolved(Resolution::Terminal));
    assert!(matches!(&of("c")[0], StaleMark::Stale { cause: StaleCause::ExecutionTimeout, .. }));
    assert_eq!(marked.len(), 6);
}

fn stale(
    store: &TestStore,
    queues: &[&str],
    after: Revision,
    through: Revision,
    limit: usize,
) -> Vec<(Revision, Saga)> {
    let queues: Vec<QueueName> = queues.iter().map(|name| queue(name)).collect();
    store.wait(store.handle.stale(queues, after, through, PageBounds::of_sagas(limit))).unwrap().found
}

fn p7_stale_sagas_are_read_page_by_page(store: TestStore) {
    let max = Revision(i64::MAX);
    store.sagas(create((0..9).map(|n| placed(&format!("t{n}"), if n % 2 == 0 { "p" } else { "q" }, 0))));
    // They expire in another order than they were created.
    for n in [4, 1, 7, 0, 8] {
        // Short ones, so that they don't expire together after an absence.
        store.saga(claim_with(&format!("t{n}"), "w", LeasePurpose::Execute, secs(1)));
        store.tick(us(1));
    }
    store.advance(us(500_000));
    store.advance(us(500_000));
    store.saga(claim("t7", "v"));
    let found = stale(&store, &[], Revision::ZERO, max, 100);
    assert_eq!(found.iter().map(|(_, saga)| task_of(saga)).collect::<Vec<_>>(), ["t4", "t1", "t0", "t8"]);
    for (revision, saga) in &found {
        assert_eq!(saga.reported_stale(), Some(*revision));
        assert_eq!(store.get(&task_of(saga)).as_ref(), Some(saga));
        let event = store.history().into_iter().find(|event| event.revision == *revision).unwrap();
        assert_eq!((event.kind, event.task_id.clone()), (EventType::LeaseExpired, saga.spec.task_id.clone()));
    }
    assert_eq!(stale(&store, &[], Revision::ZERO, max, 2), found[..2]);
    assert_eq!(stale(&store, &[], found[1].0, max, 2), found[2..]);
    assert_eq!(stale(&store, &[], Revision::ZERO, found[1].0, 9), found[..2]);
    let in_q = stale(&store, &["q"], Revision::ZERO, max, 9);
    assert_eq!(in_q, found[1..2]);
    assert_eq!(stale(&store, &["p"], found[0].0, max, 1), found[2..3]);
}

/// A page is limited in bytes, too; it always has at least one saga.
fn p10_stale_pages_are_bounded_by_bytes(store: TestStore) {
    const PAYLOAD: usize = 10_000;
    let large = |n: usize| {
        let payload = Blob::parse(vec![b'x'; PAYLOAD].into()).unwrap();
        Creation { payload, ..creation(&format!("t{n}")) }
    };
    store.sagas(create((0..9).map(large)));
    for n in 0..9 {
        store.saga(claim_with(&format!("t{n}"), "w", LeasePurpose::Execute, secs(1)));
    }
    store.advance(us(500_000));
    store.advance(us(500_000));
    let read = |bytes: usize| {
        let bounds = PageBounds { sagas: 7, bytes };
        store.wait(store.handle.stale(Vec::new(), Revision::ZERO, Revision(i64::MAX), bounds)).unwrap().found.len()
    };
    assert_eq!([0, PAYLOAD, 2 * PAYLOAD, 4 * PAYLOAD, usize::MAX].map(read), [1, 1, 1, 3, 7]);
}

fn annotations_are_events_of_the_history(store: TestStore) {
    store.sagas(create([creation("a")]));
    store.advance(us(5));
    let noted = store.saga(annotate("a", "looked at it"));
    let event = store.history().pop().unwrap();
    assert_eq!((event.kind, &*event.reason, event.time), (EventType::Annotated, "looked at it", store.now()));
    assert_eq!((event.from_state, event.to_state), (Some(noted.state), noted.state));
    assert_eq!((noted.revision, noted.update_time), (event.revision, store.now()));
    assert!(matches!(store.refusal(amend("a", "x")), sagad::domain::rejection::Rejection::WrongState { .. }));
    store.saga(quarantine("a"));
    for (reason, previous) in [("one", "odd"), ("two", "one"), ("", "two")] {
        store.saga(amend("a", reason));
        let details = store.history().pop().unwrap().details;
        assert_eq!(details.get("previous_terminal_reason").map(String::as_str), Some(previous));
    }
    assert_eq!(store.get("a").unwrap().terminal_reason, Some(text("QUARANTINED")));
}
