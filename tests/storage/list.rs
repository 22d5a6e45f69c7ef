//! Lists of sagas, and pages of them while everything changes.

use sagad::{
    domain::{
        saga::{Saga, State},
        text::Blob,
    },
    store::{Cursor, Filter, ListQuery},
};

use super::{
    bench::{Bench, task_of},
    build::*,
};

on_every_backend! {
    each_filter_by_itself
    filters_together
    without_blobs
    stale_by_the_clock
    pages_have_everything_once
    p_a_saga_that_matches_throughout_appears_once
}

fn query(bench: &Bench, filter: Filter) -> ListQuery {
    ListQuery { filter, newest_first: false, after: None, limit: 1000, read_time: bench.store.read_time() }
}

/// All pages, one after the other; between them, something may happen.
fn all_pages(bench: &Bench, mut query: ListQuery, mut between: impl FnMut(&Bench, usize)) -> Vec<Saga> {
    let mut all = Vec::new();
    for page_number in 0.. {
        assert!(page_number < 10_000, "it never ends");
        let page = bench.list(query.clone());
        assert!(page.sagas.len() <= query.limit);
        all.extend(page.sagas.into_iter().map(|(_, saga)| saga));
        let Some(next) = page.next else { break };
        query.after = Some(next);
        between(bench, page_number);
    }
    all
}

fn ids(bench: &Bench, filter: Filter) -> Vec<String> {
    let query = query(bench, filter);
    let oldest: Vec<_> = all_pages(bench, query.clone(), |_, _| {}).iter().map(task_of).collect();
    let mut newest: Vec<_> =
        all_pages(bench, ListQuery { newest_first: true, limit: 1, ..query }, |_, _| {}).iter().map(task_of).collect();
    newest.reverse();
    assert_eq!(oldest, newest, "the same sagas the other way round");
    oldest
}

fn populated(bench: &Bench) {
    let mut a = placed("a", "q", 0);
    a.labels = labels(&[("team", "x"), ("size", "1")]);
    a.issue = Some(7);
    let mut b = placed("b", "p", 0);
    b.labels = labels(&[("team", "x")]);
    b.issue = Some(7);
    let mut c = placed("c", "q", 0);
    c.labels = labels(&[("team", "y"), ("size", "1")]);
    bench.sagas(create([a, b, c, placed("d", "r", 0), placed("e", "q", 0)]));
    bench.saga(claim("a", "w1"));
    bench.saga(claim("b", "w2"));
    let c = bench.saga(claim("c", "w1"));
    bench.saga(complete(&c));
    bench.saga(dispatch("d", "w1", secs(600)));
}

fn each_filter_by_itself(bench: Bench) {
    populated(&bench);
    let all = Filter::default;
    assert_eq!(ids(&bench, all()), ["a", "b", "c", "d", "e"]);
    assert_eq!(ids(&bench, Filter { states: vec![State::Running, State::Completed], ..all() }), ["a", "b", "c"]);
    assert_eq!(ids(&bench, Filter { queues: vec![queue("q"), queue("r")], ..all() }), ["a", "c", "d", "e"]);
    assert_eq!(ids(&bench, Filter { owner: Some(owner("w1")), ..all() }), ["a", "c"]);
    assert_eq!(ids(&bench, Filter { labels: labels(&[("team", "x")]), ..all() }), ["a", "b"]);
    assert_eq!(ids(&bench, Filter { labels: labels(&[("team", "x"), ("size", "1")]), ..all() }), ["a"]);
    assert_eq!(ids(&bench, Filter { issue: Some(7), ..all() }), ["a", "b"]);
    assert_eq!(ids(&bench, Filter { in_flight_only: true, ..all() }), ["a", "b", "d", "e"]);
    assert_eq!(ids(&bench, Filter { stale_only: true, ..all() }), [""; 0]);
    assert_eq!(ids(&bench, Filter { queues: vec![queue("nowhere")], ..all() }), [""; 0]);
}

fn filters_together(bench: Bench) {
    populated(&bench);
    let all = Filter::default;
    let filter = Filter { queues: vec![queue("q")], owner: Some(owner("w1")), in_flight_only: true, ..all() };
    assert_eq!(ids(&bench, filter), ["a"]);
    let filter = Filter { states: vec![State::Completed], in_flight_only: true, ..all() };
    assert_eq!(ids(&bench, filter), [""; 0]);
    let filter = Filter { states: vec![State::Planned, State::Dispatched], issue: None, ..all() };
    assert_eq!(ids(&bench, filter), ["d", "e"]);
}

fn without_blobs(bench: Bench) {
    let mut large = undoable("a", &["x"]);
    large.payload = blob("payload");
    bench.sagas(create([large]));
    let claimed = bench.saga(claim("a", "w"));
    let operation =
        sagad::domain::command::HolderOperation::Heartbeat { ttl: Some(secs(40)), progress: Some(blob("half")) };
    bench.lease(held(&claimed, operation));
    bench.saga(complete(&claimed));
    let whole = bench.get("a").unwrap();
    assert_eq!((&whole.progress, &whole.result, &whole.spec.payload), (&blob("half"), &blob("done"), &blob("payload")));
    let listed = all_pages(&bench, query(&bench, Filter::default()), |_, _| {}).remove(0);
    let mut expected = whole;
    expected.progress = Blob::default();
    expected.result = Blob::default();
    let mut spec = sagad::domain::saga::Spec::clone(&expected.spec);
    spec.payload = Blob::default();
    expected.spec = spec.into();
    assert_eq!(listed, expected);
}

fn stale_by_the_clock(bench: Bench) {
    bench.sagas(create([creation("a"), creation("b"), creation("c")]));
    bench.saga(claim("a", "w"));
    bench.tick(us(1));
    bench.saga(claim("b", "w"));
    bench.tick(us(TTL.micros() - 1));
    // Judged at this moment, whether or not it has been reported.
    assert_eq!(ids(&bench, Filter { stale_only: true, ..Filter::default() }), ["a"]);
    bench.settle();
    assert_eq!(ids(&bench, Filter { stale_only: true, ..Filter::default() }), ["a"]);
    let later = sagad::store::ReadTime { now: bench.now().plus(us(1)), ..bench.store.read_time() };
    let query = ListQuery { read_time: later, ..query(&bench, Filter { stale_only: true, ..Filter::default() }) };
    assert_eq!(bench.list(query).sagas.len(), 2);
}

fn pages_have_everything_once(bench: Bench) {
    let names: Vec<_> = (0..57).map(|n| format!("t{n:02}")).collect();
    bench.sagas(create(names.iter().map(|name| creation(name))));
    for limit in [1, 7, 56, 57, 58] {
        for newest_first in [false, true] {
            let query = ListQuery { limit, newest_first, ..query(&bench, Filter::default()) };
            let mut seen: Vec<_> = all_pages(&bench, query, |_, _| {}).iter().map(task_of).collect();
            if newest_first {
                seen.reverse();
            }
            assert_eq!(seen, names, "{limit} {newest_first}");
        }
    }
    let beyond = ListQuery { after: Some(Cursor(1000)), ..query(&bench, Filter::default()) };
    assert_eq!(bench.list(beyond), sagad::store::SagaPage::default());
}

fn p_a_saga_that_matches_throughout_appears_once(bench: Bench) {
    let name = |n: usize| format!("t{n:02}");
    bench.sagas(create((0..40).map(|n| creation(&name(n)))));
    for n in (0..40).step_by(4) {
        bench.saga(claim(&name(n), "w"));
    }
    for newest_first in [false, true] {
        let filter = Filter { in_flight_only: true, ..Filter::default() };
        let query = ListQuery { limit: 3, newest_first, ..query(&bench, filter) };
        let seen = all_pages(&bench, query, |bench, page| {
            // New ones, changes of those that match throughout, and some that cease to match and are purged.
            bench.sagas(create([placed(&format!("new-{newest_first}-{page}"), "p", 9)]));
            let running = bench.get(&name(0)).unwrap();
            bench.tick(us(1));
            bench.lease(heartbeat(&running));
            bench.saga(annotate(&name(4 * (page % 10)), "still here"));
            let ends = name(if newest_first { 1 + 4 * (page % 10) } else { 2 + 4 * (page % 10) });
            if bench.get(&ends).is_some_and(|saga| !saga.state.is_terminal()) {
                bench.saga(park(&ends));
                bench.tick(us(1));
                bench.purged(purge(secs(0), 1));
            }
        });
        let seen: Vec<_> = seen.iter().map(task_of).collect();
        for n in (0..40).step_by(4) {
            assert_eq!(seen.iter().filter(|id| **id == name(n)).count(), 1, "{}", name(n));
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "none appears twice");
    }
}
