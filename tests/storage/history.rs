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
    bench::{Bench, task_of},
    build::*,
};

on_every_backend! {
    one_commands_events_come_in_order
    stretches_of_it
    filters_hold_together
    p7_only_revisions_that_were_given_can_be_resumed_from
    what_begins_and_ends_staleness_is_marked
    p7_stale_pages
    p10_stale_pages_are_bounded_by_bytes
    annotations_are_history
}

fn all() -> EventQuery {
    EventQuery { through: Revision(i64::MAX), limit: 1000, ..EventQuery::default() }
}

fn kinds(events: &[Event]) -> Vec<EventType> {
    events.iter().map(|event| event.kind).collect()
}

fn one_commands_events_come_in_order(bench: Bench) {
    use EventType::*;
    bench.sagas(create([undoable("a", &["x", "y"])]));
    let claimed = bench.saga(claim("a", "w"));
    bench.saga(register(&claimed, &["z", "x", "v"]));
    bench.tick(TTL);
    bench.saga(recover("a", RecoveryDecision::Compensate));
    let history = bench.history();
    assert_eq!(
        kinds(&history),
        [Created, Claimed, CompensationRegistered, CompensationRegistered, LeaseExpired, RecoveryDecided, Compensating]
    );
    let decided = &history[5];
    assert_eq!(decided.actor, Some(actor("op")));
    assert_eq!((&*decided.reason, decided.token), ("decided", claimed.lease.map(|lease| lease.token)));
    bench.sagas(create([undoable("b", &["x", "y"])]));
    bench.saga(cancel("b"));
    let of_b = EventQuery { task_id: Some(task("b")), ..all() };
    let of_b = bench.events(of_b).unwrap();
    assert_eq!(kinds(&of_b), [Created, CancelRequested, CompensationSettled, CompensationSettled, Compensated]);
    let positions: Vec<_> = of_b.iter().filter_map(|event| event.details.get("position")).collect();
    assert_eq!(positions, ["2", "1"], "the latest position first");
    assert!(bench.history().windows(2).all(|pair| pair[0].revision < pair[1].revision));
}

fn stretches_of_it(bench: Bench) {
    bench.sagas(create((0..30).map(|n| placed(&format!("t{n}"), if n % 3 == 0 { "p" } else { "q" }, 0))));
    let history = bench.history();
    let (third, last) = (history[2].revision, history[29].revision);
    assert_eq!(bench.events(EventQuery { after: third, ..all() }).unwrap(), history[3..]);
    assert_eq!(bench.events(EventQuery { through: third, ..all() }).unwrap(), history[..3]);
    assert_eq!(bench.events(EventQuery { after: third, limit: 2, ..all() }).unwrap(), history[3..5]);
    assert_eq!(bench.events(EventQuery { after: last, ..all() }).unwrap(), []);
    assert_eq!(bench.events(EventQuery { after: third, through: third, ..all() }).unwrap(), []);
    let in_p: Vec<_> = history.iter().filter(|event| event.queue == queue("p")).cloned().collect();
    assert_eq!(in_p.len(), 10);
    let query = EventQuery { queues: vec![queue("p"), queue("nowhere")], ..all() };
    assert_eq!(bench.events(query.clone()).unwrap(), in_p);
    assert_eq!(bench.events(EventQuery { limit: 4, after: third, ..query }).unwrap(), in_p[1..5]);
    let of_one = EventQuery { task_id: Some(task("t7")), ..all() };
    assert_eq!(bench.events(of_one.clone()).unwrap(), history[7..8]);
    assert_eq!(bench.events(EventQuery { after: last, whole: true, ..of_one }).unwrap(), []);
    assert_eq!(bench.events(EventQuery { task_id: Some(task("nobody")), ..all() }).unwrap(), []);
}

fn filters_hold_together(bench: Bench) {
    bench.sagas(create([placed("a", "p", 0), placed("b", "q", 0)]));
    for id in ["a", "b"] {
        bench.saga(claim(id, "w"));
    }
    bench.advance(TTL);
    for id in ["a", "b"] {
        bench.saga(claim(id, "v"));
    }
    let of_a = EventQuery { task_id: Some(task("a")), ..all() };
    assert_eq!(bench.events(of_a.clone()).unwrap().len(), 4);
    assert_eq!(bench.events(EventQuery { queues: vec![queue("q")], ..of_a.clone() }).unwrap(), []);
    assert_eq!(bench.events(EventQuery { queues: vec![queue("p"), queue("q")], ..of_a.clone() }).unwrap().len(), 4);
    let marked = EventQuery { marked_only: true, ..of_a };
    let expected = [EventType::LeaseExpired, EventType::Claimed];
    assert_eq!(kinds(&bench.events(marked.clone()).unwrap()), expected);
    assert_eq!(kinds(&bench.events(EventQuery { limit: 1, ..marked.clone() }).unwrap()), expected[..1]);
    let in_q = EventQuery { task_id: None, queues: vec![queue("q")], ..marked };
    assert_eq!(kinds(&bench.events(in_q).unwrap()), expected);
}

fn p7_only_revisions_that_were_given_can_be_resumed_from(bench: Bench) {
    bench.sagas(create([creation("a")]));
    bench.settle();
    let head = bench.store.event_feed().head();
    let above = bench.events(EventQuery { after: head.after(1), ..all() });
    assert_eq!(above, Err(StoreError::UnknownRevision { head }));
    assert_eq!(bench.events(EventQuery { after: head, ..all() }), Ok(vec![]));
    assert_eq!(bench.events(all()).unwrap().len(), 1);
}

fn what_begins_and_ends_staleness_is_marked(bench: Bench) {
    let mut limited = creation("c");
    limited.policy.execution_timeout = Some(secs(5));
    bench.sagas(create([creation("a"), creation("b"), limited]));
    let a = bench.saga(claim("a", "w"));
    bench.saga(claim("b", "w"));
    bench.saga(claim("c", "w"));
    bench.advance(TTL);
    bench.saga(claim("a", "v"));
    bench.saga(recover("b", RecoveryDecision::Requeue));
    bench.saga(park("c"));
    let marked = bench.events(EventQuery { marked_only: true, ..all() }).unwrap();
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

fn stale(bench: &Bench, queues: &[&str], after: Revision, through: Revision, limit: usize) -> Vec<(Revision, Saga)> {
    let queues: Vec<QueueName> = queues.iter().map(|name| queue(name)).collect();
    bench.wait(bench.store.stale(queues, after, through, PageBounds::of_sagas(limit))).unwrap().found
}

fn p7_stale_pages(bench: Bench) {
    let max = Revision(i64::MAX);
    bench.sagas(create((0..9).map(|n| placed(&format!("t{n}"), if n % 2 == 0 { "p" } else { "q" }, 0))));
    // They run out in another order than that of their creation.
    for n in [4, 1, 7, 0, 8] {
        // Short ones: behind an absence they would all run out at once.
        bench.saga(claim_with(&format!("t{n}"), "w", LeasePurpose::Execute, secs(1)));
        bench.tick(us(1));
    }
    bench.advance(us(500_000));
    bench.advance(us(500_000));
    bench.saga(claim("t7", "v"));
    let found = stale(&bench, &[], Revision::ZERO, max, 100);
    assert_eq!(found.iter().map(|(_, saga)| task_of(saga)).collect::<Vec<_>>(), ["t4", "t1", "t0", "t8"]);
    for (revision, saga) in &found {
        assert_eq!(saga.reported_stale(), Some(*revision));
        assert_eq!(bench.get(&task_of(saga)).as_ref(), Some(saga));
        let event = bench.history().into_iter().find(|event| event.revision == *revision).unwrap();
        assert_eq!((event.kind, event.task_id.clone()), (EventType::LeaseExpired, saga.spec.task_id.clone()));
    }
    assert_eq!(stale(&bench, &[], Revision::ZERO, max, 2), found[..2]);
    assert_eq!(stale(&bench, &[], found[1].0, max, 2), found[2..]);
    assert_eq!(stale(&bench, &[], Revision::ZERO, found[1].0, 9), found[..2]);
    let in_q = stale(&bench, &["q"], Revision::ZERO, max, 9);
    assert_eq!(in_q, found[1..2]);
    assert_eq!(stale(&bench, &["p"], found[0].0, max, 1), found[2..3]);
}

/// However many sagas a page may hold, it ends before they are too large together; one is always there.
fn p10_stale_pages_are_bounded_by_bytes(bench: Bench) {
    const PAYLOAD: usize = 10_000;
    let large = |n: usize| {
        let payload = Blob::parse(vec![b'x'; PAYLOAD].into()).unwrap();
        Creation { payload, ..creation(&format!("t{n}")) }
    };
    bench.sagas(create((0..9).map(large)));
    for n in 0..9 {
        bench.saga(claim_with(&format!("t{n}"), "w", LeasePurpose::Execute, secs(1)));
    }
    bench.advance(us(500_000));
    bench.advance(us(500_000));
    let read = |bytes: usize| {
        let bounds = PageBounds { sagas: 7, bytes };
        bench.wait(bench.store.stale(Vec::new(), Revision::ZERO, Revision(i64::MAX), bounds)).unwrap().found.len()
    };
    assert_eq!([0, PAYLOAD, 2 * PAYLOAD, 4 * PAYLOAD, usize::MAX].map(read), [1, 1, 1, 3, 7]);
}

fn annotations_are_history(bench: Bench) {
    bench.sagas(create([creation("a")]));
    bench.advance(us(5));
    let noted = bench.saga(annotate("a", "looked at it"));
    let event = bench.history().pop().unwrap();
    assert_eq!((event.kind, &*event.reason, event.time), (EventType::Annotated, "looked at it", bench.now()));
    assert_eq!((event.from_state, event.to_state), (Some(noted.state), noted.state));
    assert_eq!((noted.revision, noted.update_time), (event.revision, bench.now()));
    assert!(matches!(bench.refusal(amend("a", "x")), sagad::domain::rejection::Rejection::WrongState { .. }));
    bench.saga(park("a"));
    for (reason, previous) in [("one", "odd"), ("two", "one"), ("", "two")] {
        bench.saga(amend("a", reason));
        let details = bench.history().pop().unwrap().details;
        assert_eq!(details.get("previous_terminal_reason").map(String::as_str), Some(previous));
    }
    assert_eq!(bench.get("a").unwrap().terminal_reason, Some(text("QUARANTINED")));
}
