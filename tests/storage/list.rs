//! Lists of sagas, and their pages while sagas change.

use sagad::{
    domain::{
        saga::{Saga, State},
        text::Blob,
    },
    store::{Cursor, Filter, ListQuery},
};

use super::{
    builders::*,
    test_store::{TestStore, task_of},
};

on_every_backend! {
    each_filter_selects_its_sagas
    list_filters_combine
    lists_omit_contents_unless_asked_for
    lists_show_stale_sagas_by_the_clock
    pages_list_every_saga_once
    a_saga_that_matches_throughout_is_listed_once
}

fn query(store: &TestStore, filter: Filter) -> ListQuery {
    ListQuery { filter, newest_first: false, after: None, limit: 1000, read_time: store.handle.read_time() }
}

/// Reads all pages; `between` is called between two pages.
fn all_pages(store: &TestStore, mut query: ListQuery, mut between: impl FnMut(&TestStore, usize)) -> Vec<Saga> {
    let mut all = Vec::new();
    for page_number in 0.. {
        assert!(page_number < 10_000, "the list does not end");
        let page = store.list(query.clone());
        assert!(page.sagas.len() <= query.limit);
        all.extend(page.sagas.into_iter().map(|(_, saga)| saga));
        let Some(next) = page.next else { break };
        query.after = Some(next);
        between(store, page_number);
    }
    all
}

fn ids(store: &TestStore, filter: Filter) -> Vec<String> {
    let query = query(store, filter);
    let oldest: Vec<_> = all_pages(store, query.clone(), |_, _| {}).iter().map(task_of).collect();
    let mut newest: Vec<_> =
        all_pages(store, ListQuery { newest_first: true, limit: 1, ..query }, |_, _| {}).iter().map(task_of).collect();
    newest.reverse();
    assert_eq!(oldest, newest, "the same sagas in reverse order");
    oldest
}

fn populated(store: &TestStore) {
    let mut a = placed("a", "q", 0);
    a.labels = labels(&[("team", "x"), ("size", "1")]);
    a.issue = Some(7);
    let mut b = placed("b", "p", 0);
    b.labels = labels(&[("team", "x")]);
    b.issue = Some(7);
    let mut c = placed("c", "q", 0);
    c.labels = labels(&[("team", "y"), ("size", "1")]);
    store.sagas(create([a, b, c, placed("d", "r", 0), placed("e", "q", 0)]));
    store.saga(claim("a", "w1"));
    store.saga(claim("b", "w2"));
    let c = store.saga(claim("c", "w1"));
    store.saga(complete(&c));
    store.saga(dispatch("d", "w1", secs(600)));
}

fn each_filter_selects_its_sagas(store: TestStore) {
    populated(&store);
    let all = Filter::default;
    assert_eq!(ids(&store, all()), ["a", "b", "c", "d", "e"]);
    assert_eq!(ids(&store, Filter { states: vec![State::Running, State::Completed], ..all() }), ["a", "b", "c"]);
    assert_eq!(ids(&store, Filter { queues: vec![queue("q"), queue("r")], ..all() }), ["a", "c", "d", "e"]);
    assert_eq!(ids(&store, Filter { owner: Some(owner("w1")), ..all() }), ["a", "c"]);
    assert_eq!(ids(&store, Filter { labels: labels(&[("team", "x")]), ..all() }), ["a", "b"]);
    assert_eq!(ids(&store, Filter { labels: labels(&[("team", "x"), ("size", "1")]), ..all() }), ["a"]);
    assert_eq!(ids(&store, Filter { issue: Some(7), ..all() }), ["a", "b"]);
    assert_eq!(ids(&store, Filter { in_flight_only: true, ..all() }), ["a", "b", "d", "e"]);
    assert_eq!(ids(&store, Filter { stale_only: true, ..all() }), [""; 0]);
    assert_eq!(ids(&store, Filter { queues: vec![queue("nowhere")], ..all() }), [""; 0]);
}

fn list_filters_combine(store: TestStore) {
    populated(&store);
    let all = Filter::default;
    let filter = Filter { queues: vec![queue("q")], owner: Some(owner("w1")), in_flight_only: true, ..all() };
    assert_eq!(ids(&store, filter), ["a"]);
    let filter = Filter { states: vec![State::Completed], in_flight_only: true, ..all() };
    assert_eq!(ids(&store, filter), [""; 0]);
    let filter = Filter { states: vec![State::Planned, State::Dispatched], issue: None, ..all() };
    assert_eq!(ids(&store, filter), ["d", "e"]);
}

fn lists_omit_contents_unless_asked_for(store: TestStore) {
    let mut large = undoable("a", &["x"]);
    large.payload = blob("payload");
    store.sagas(create([large]));
    let claimed = store.saga(claim("a", "w"));
    let operation =
        sagad::domain::command::HolderOperation::Heartbeat { ttl: Some(secs(40)), progress: Some(blob("half")) };
    store.lease(held(&claimed, operation));
    store.saga(complete(&claimed));
    let whole = store.get("a").unwrap();
    assert_eq!((&whole.progress, &whole.result, &whole.spec.payload), (&blob("half"), &blob("done"), &blob("payload")));
    let listed = all_pages(&store, query(&store, Filter::default()), |_, _| {}).remove(0);
    let mut expected = whole;
    expected.progress = Blob::default();
    expected.result = Blob::default();
    let mut spec = sagad::domain::saga::Spec::clone(&expected.spec);
    spec.payload = Blob::default();
    expected.spec = spec.into();
    assert_eq!(listed, expected);
}

fn lists_show_stale_sagas_by_the_clock(store: TestStore) {
    store.sagas(create([creation("a"), creation("b"), creation("c")]));
    store.saga(claim("a", "w"));
    store.tick(us(1));
    store.saga(claim("b", "w"));
    store.tick(us(TTL.micros() - 1));
    // The list goes by the clock, whether or not the expiry was applied.
    assert_eq!(ids(&store, Filter { stale_only: true, ..Filter::default() }), ["a"]);
    store.settle();
    assert_eq!(ids(&store, Filter { stale_only: true, ..Filter::default() }), ["a"]);
    let later = sagad::store::ReadTime { now: store.now().plus(us(1)), ..store.handle.read_time() };
    let query = ListQuery { read_time: later, ..query(&store, Filter { stale_only: true, ..Filter::default() }) };
    assert_eq!(store.list(query).sagas.len(), 2);
}

fn pages_list_every_saga_once(store: TestStore) {
    let names: Vec<_> = (0..57).map(|n| format!("t{n:02}")).collect();
    store.sagas(create(names.iter().map(|name| creation(name))));
    for limit in [1, 7, 56, 57, 58] {
        for newest_first in [false, true] {
            let query = ListQuery { limit, newest_first, ..query(&store, Filter::default()) };
            let mut seen: Vec<_> = all_pages(&store, query, |_, _| {}).iter().map(task_of).collect();
            if newest_first {
                seen.reverse();
            }
            assert_eq!(seen, names, "{limit} {newest_first}");
        }
    }
    let beyond = ListQuery { after: Some(Cursor(1000)), ..query(&store, Filter::default()) };
    assert_eq!(store.list(beyond), sagad::store::SagaPage::default());
}

fn a_saga_that_matches_throughout_is_listed_once(store: TestStore) {
    let name = |n: usize| format!("t{n:02}");
    store.sagas(create((0..40).map(|n| creation(&name(n)))));
    for n in (0..40).step_by(4) {
        store.saga(claim(&name(n), "w"));
    }
    for newest_first in [false, true] {
        let filter = Filter { in_flight_only: true, ..Filter::default() };
        let query = ListQuery { limit: 3, newest_first, ..query(&store, filter) };
        let seen = all_pages(&store, query, |store, page| {
            // New sagas, changes of sagas that match throughout, and sagas that stop matching and are purged.
            store.sagas(create([placed(&format!("new-{newest_first}-{page}"), "p", 9)]));
            let running = store.get(&name(0)).unwrap();
            store.tick(us(1));
            store.lease(heartbeat(&running));
            store.saga(annotate(&name(4 * (page % 10)), "still here"));
            let ends = name(if newest_first { 1 + 4 * (page % 10) } else { 2 + 4 * (page % 10) });
            if store.get(&ends).is_some_and(|saga| !saga.state.is_terminal()) {
                store.saga(quarantine(&ends));
                store.tick(us(1));
                store.purged(purge(secs(0), 1));
            }
        });
        let seen: Vec<_> = seen.iter().map(task_of).collect();
        for n in (0..40).step_by(4) {
            assert_eq!(seen.iter().filter(|id| **id == name(n)).count(), 1, "{}", name(n));
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "no saga is listed twice");
    }
}
