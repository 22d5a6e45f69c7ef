//! Purging: which sagas are removed, and how the history is compacted.

use sagad::{
    domain::{
        command::{Purge, PurgeResult},
        ids::Revision,
        saga::State,
    },
    store::{Cursor, EventQuery, Filter, ListQuery, StoreError},
};

use super::{builders::*, test_store::TestStore};

on_every_backend! {
    only_old_terminal_sagas_are_purged
    the_longest_unchanged_sagas_are_purged_first_up_to_the_limit
    a_dry_run_purges_nothing
    a_chosen_saga_is_purged_only_if_it_is_unchanged
    many_rows_are_removed_in_steps
    ended_sagas_are_found_oldest_first
    p7_purging_compacts_the_history
    purged_ids_are_reused_and_row_ids_are_not
}

fn ended(store: &TestStore, id: &str) {
    store.sagas(create([undoable(id, &["x"])]));
    store.saga(quarantine(id));
}

fn only_old_terminal_sagas_are_purged(store: TestStore) {
    ended(&store, "old");
    store.sagas(create([creation("running"), creation("completed"), creation("planned")]));
    store.saga(claim("running", "w"));
    let completed = store.saga(claim("completed", "w"));
    store.saga(complete(&completed));
    store.advance(secs(10));
    assert_eq!(store.purged(purge(secs(10), 100)).sagas, 0, "exactly as old is not older");
    store.tick(us(1));
    ended(&store, "new");
    let only = Purge { states: vec![State::Quarantined, State::Failed], ..purge(secs(10), 100) };
    let events = store.history().iter().filter(|event| event.task_id == task("old")).count();
    let through = store.get("old").unwrap().revision;
    assert_eq!(store.purged(only.clone()), PurgeResult { sagas: 1, events, more: false, through });
    assert_eq!(store.get("old"), None);
    assert_eq!(store.purged(only).sagas, 0);
    assert!(["running", "completed", "planned", "new"].iter().all(|id| store.get(id).is_some()));
    // An annotation counts as a change.
    store.saga(annotate("completed", "look"));
    assert_eq!(store.purged(purge(secs(10), 100)).sagas, 0);
}

fn the_longest_unchanged_sagas_are_purged_first_up_to_the_limit(store: TestStore) {
    store.sagas(create(["a", "b", "c", "d"].map(creation)));
    for id in ["c", "a", "d", "b"] {
        store.saga(quarantine(id));
        store.advance(us(1));
    }
    let first = store.purged(purge(secs(0), 2));
    assert_eq!((first.sagas, first.more), (2, true));
    assert!(store.get("c").is_none() && store.get("a").is_none());
    let second = store.purged(purge(secs(0), 2));
    assert_eq!((second.sagas, second.more), (2, false));
    assert_eq!(store.purged(purge(secs(0), 2)), PurgeResult::default());
}

fn a_dry_run_purges_nothing(store: TestStore) {
    ended(&store, "a");
    ended(&store, "b");
    store.advance(us(1));
    let look = Purge { validate_only: true, ..purge(secs(0), 1) };
    let history = store.history();
    assert_eq!(store.purged(look), PurgeResult { sagas: 1, events: 2, more: true, through: Revision::ZERO });
    assert_eq!(store.history(), history);
    assert!(store.events(EventQuery { through: Revision(i64::MAX), limit: 9, ..EventQuery::default() }).is_ok());
}

fn a_chosen_saga_is_purged_only_if_it_is_unchanged(store: TestStore) {
    for id in ["a", "b", "other"] {
        ended(&store, id);
    }
    store.sagas(create([creation("planned")]));
    let chosen = |id: &str| (task(id), store.get(id).unwrap().revision);
    let only = vec![chosen("a"), chosen("b"), (task("never"), Revision(1)), chosen("planned")];
    store.saga(annotate("b", "not yet"));
    store.tick(us(1));
    let purged = store.purged(Purge { only: only.clone(), ..purge(secs(0), 10) });
    assert_eq!((purged.sagas, purged.more), (1, false));
    assert!(store.get("a").is_none());
    assert!(["b", "other", "planned"].iter().all(|id| store.get(id).is_some()));
    let others = Purge { states: vec![State::Completed], only: vec![chosen("b")], ..purge(secs(0), 10) };
    assert_eq!(store.purged(others).sagas, 0, "it is in another state");
    let young = Purge { only: vec![chosen("b")], ..purge(secs(10), 10) };
    assert_eq!(store.purged(young).sagas, 0, "it was changed too lately");
}

fn many_rows_are_removed_in_steps(store: TestStore) {
    let kinds: Vec<_> = (0..128).map(|n| format!("k{n}")).collect();
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    for n in 0..10 {
        let id = format!("saga-{n}");
        store.sagas(create([undoable(&id, &kinds)]));
        store.saga(quarantine(&id));
    }
    store.tick(us(1));
    // Each saga has 131 rows: 128 compensations, two events and itself. The eighth exceeds a thousand.
    let first = store.purged(purge(secs(0), 100));
    assert_eq!((first.sagas, first.events, first.more), (8, 16, true));
    assert!(store.get("saga-7").is_none() && store.get("saga-8").is_some());
    let second = store.purged(purge(secs(0), 100));
    assert_eq!((second.sagas, second.more), (2, false));
    assert!(store.wait(store.handle.stats()).unwrap().queues.iter().all(|queue| queue.states.is_empty()));
}

fn ended_sagas_are_found_oldest_first(store: TestStore) {
    store.sagas(create(["a", "b", "c", "d"].map(creation)));
    for id in ["c", "a", "d"] {
        store.saga(quarantine(id));
        store.advance(us(1));
    }
    let find = |state, limit| {
        let found = store.wait(store.handle.ended(state, store.now(), limit)).unwrap();
        found.iter().map(|saga| saga.task_id().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(find(State::Quarantined, 2), ["c", "a"]);
    assert_eq!(find(State::Completed, 2), [""; 0]);
    store.saga(annotate("c", "look"));
    store.advance(us(1));
    assert_eq!(find(State::Quarantined, 9), ["a", "d", "c"]);
}

fn p7_purging_compacts_the_history(store: TestStore) {
    let max = Revision(i64::MAX);
    store.sagas(create([creation("stays")]));
    ended(&store, "a");
    store.saga(annotate("stays", "between"));
    ended(&store, "b");
    let through = store.get("b").unwrap().revision;
    store.saga(annotate("stays", "after"));
    store.advance(us(1));
    let whole = store.history();
    store.purged(purge(secs(0), 10));
    let all = EventQuery { through: max, limit: 100, ..EventQuery::default() };
    let compacted = Err(StoreError::Compacted { oldest: through });
    assert_eq!(store.events(all.clone()), compacted);
    assert_eq!(store.events(EventQuery { after: Revision(through.0 - 1), ..all.clone() }), compacted);
    assert_eq!(store.events(EventQuery { after: through, ..all.clone() }).unwrap(), whole[whole.len() - 1..]);
    // A watch of one saga may have missed its events, so it gets an error, although that saga's history is complete.
    let of_one = EventQuery { task_id: Some(task("stays")), ..all.clone() };
    assert_eq!(store.events(of_one.clone()), compacted);
    let kept: Vec<_> = whole.iter().filter(|event| event.task_id == task("stays")).cloned().collect();
    assert_eq!(store.events(EventQuery { whole: true, ..of_one }).unwrap(), kept);
    assert_eq!(store.history(), kept);

    // After the newest event is purged its revision stays assigned, even over a restart.
    store.saga(quarantine("stays"));
    let newest = store.get("stays").unwrap().revision;
    store.tick(us(1));
    store.purged(purge(secs(0), 10));
    assert_eq!(store.events(EventQuery { after: newest, ..all.clone() }), Ok(vec![]));
    let store = store.reopened();
    assert_eq!(store.handle.event_feed().head(), newest);
    assert_eq!(store.events(EventQuery { after: newest, ..all.clone() }), Ok(vec![]));
    assert_eq!(store.events(all), Err(StoreError::Compacted { oldest: newest }));
    assert!(store.sagas(create([creation("next")]))[0].revision > newest);
}

fn purged_ids_are_reused_and_row_ids_are_not(store: TestStore) {
    let place = |store: &TestStore| -> Vec<Cursor> {
        let (filter, read_time) = (Filter::default(), store.handle.read_time());
        let query = ListQuery { filter, newest_first: false, after: None, limit: 100, read_time };
        store.list(query).sagas.into_iter().map(|(cursor, _)| cursor).collect()
    };
    ended(&store, "a");
    let before = place(&store);
    store.tick(us(1));
    store.purged(purge(secs(0), 10));
    ended(&store, "a");
    let after = place(&store);
    assert!(after[0] > before[0]);
    assert_eq!(store.get("a").unwrap().compensations.len(), 1);
    assert_eq!(store.history().len(), 2);
    store.tick(us(1));
    store.purged(purge(secs(0), 10));
    let store = store.reopened();
    ended(&store, "a");
    assert!(place(&store)[0] > after[0], "also after a restart");
}
