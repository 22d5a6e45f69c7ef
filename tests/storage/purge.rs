//! Purging: what is removed, what is left, and what the history then says.

use sagad::{
    domain::{
        command::{Purge, PurgeResult},
        ids::Revision,
        saga::State,
    },
    store::{Cursor, EventQuery, Filter, ListQuery, StoreError},
};

use super::{bench::Bench, build::*};

on_every_backend! {
    only_terminal_ones_and_old_ones
    the_longest_unchanged_first_and_no_more_than_asked_for
    looking_removes_nothing
    what_is_chosen_goes_if_it_is_as_it_was
    many_rows_are_removed_in_steps
    the_ended_are_found_oldest_first
    p7_the_history_below_is_compacted
    ids_are_free_again_and_places_are_not
}

fn ended(bench: &Bench, id: &str) {
    bench.sagas(create([undoable(id, &["x"])]));
    bench.saga(park(id));
}

fn only_terminal_ones_and_old_ones(bench: Bench) {
    ended(&bench, "old");
    bench.sagas(create([creation("running"), creation("completed"), creation("planned")]));
    bench.saga(claim("running", "w"));
    let completed = bench.saga(claim("completed", "w"));
    bench.saga(complete(&completed));
    bench.advance(secs(10));
    assert_eq!(bench.purged(purge(secs(10), 100)).sagas, 0, "as old as that is not older");
    bench.tick(us(1));
    ended(&bench, "new");
    let only = Purge { states: vec![State::Quarantined, State::Failed], ..purge(secs(10), 100) };
    let events = bench.history().iter().filter(|event| event.task_id == task("old")).count();
    let through = bench.get("old").unwrap().revision;
    assert_eq!(bench.purged(only.clone()), PurgeResult { sagas: 1, events, more: false, through });
    assert_eq!(bench.get("old"), None);
    assert_eq!(bench.purged(only).sagas, 0);
    assert!(["running", "completed", "planned", "new"].iter().all(|id| bench.get(id).is_some()));
    // An annotation is a change.
    bench.saga(annotate("completed", "look"));
    assert_eq!(bench.purged(purge(secs(10), 100)).sagas, 0);
}

fn the_longest_unchanged_first_and_no_more_than_asked_for(bench: Bench) {
    bench.sagas(create(["a", "b", "c", "d"].map(creation)));
    for id in ["c", "a", "d", "b"] {
        bench.saga(park(id));
        bench.advance(us(1));
    }
    let first = bench.purged(purge(secs(0), 2));
    assert_eq!((first.sagas, first.more), (2, true));
    assert!(bench.get("c").is_none() && bench.get("a").is_none());
    let second = bench.purged(purge(secs(0), 2));
    assert_eq!((second.sagas, second.more), (2, false));
    assert_eq!(bench.purged(purge(secs(0), 2)), PurgeResult::default());
}

fn looking_removes_nothing(bench: Bench) {
    ended(&bench, "a");
    ended(&bench, "b");
    bench.advance(us(1));
    let look = Purge { validate_only: true, ..purge(secs(0), 1) };
    let history = bench.history();
    assert_eq!(bench.purged(look), PurgeResult { sagas: 1, events: 2, more: true, through: Revision::ZERO });
    assert_eq!(bench.history(), history);
    assert!(bench.events(EventQuery { through: Revision(i64::MAX), limit: 9, ..EventQuery::default() }).is_ok());
}

fn what_is_chosen_goes_if_it_is_as_it_was(bench: Bench) {
    for id in ["a", "b", "other"] {
        ended(&bench, id);
    }
    bench.sagas(create([creation("planned")]));
    let chosen = |id: &str| (task(id), bench.get(id).unwrap().revision);
    let only = vec![chosen("a"), chosen("b"), (task("never"), Revision(1)), chosen("planned")];
    bench.saga(annotate("b", "not yet"));
    bench.tick(us(1));
    let purged = bench.purged(Purge { only: only.clone(), ..purge(secs(0), 10) });
    assert_eq!((purged.sagas, purged.more), (1, false));
    assert!(bench.get("a").is_none());
    assert!(["b", "other", "planned"].iter().all(|id| bench.get(id).is_some()));
    let others = Purge { states: vec![State::Completed], only: vec![chosen("b")], ..purge(secs(0), 10) };
    assert_eq!(bench.purged(others).sagas, 0, "it is in another state");
    let young = Purge { only: vec![chosen("b")], ..purge(secs(10), 10) };
    assert_eq!(bench.purged(young).sagas, 0, "it was changed too lately");
}

fn many_rows_are_removed_in_steps(bench: Bench) {
    let kinds: Vec<_> = (0..128).map(|n| format!("k{n}")).collect();
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    for n in 0..10 {
        let id = format!("saga-{n}");
        bench.sagas(create([undoable(&id, &kinds)]));
        bench.saga(park(&id));
    }
    bench.tick(us(1));
    // Each has 128 compensations, two events and itself; the eighth passes a thousand.
    let first = bench.purged(purge(secs(0), 100));
    assert_eq!((first.sagas, first.events, first.more), (8, 16, true));
    assert!(bench.get("saga-7").is_none() && bench.get("saga-8").is_some());
    let second = bench.purged(purge(secs(0), 100));
    assert_eq!((second.sagas, second.more), (2, false));
    assert!(bench.wait(bench.store.stats()).unwrap().queues.iter().all(|queue| queue.states.is_empty()));
}

fn the_ended_are_found_oldest_first(bench: Bench) {
    bench.sagas(create(["a", "b", "c", "d"].map(creation)));
    for id in ["c", "a", "d"] {
        bench.saga(park(id));
        bench.advance(us(1));
    }
    let find = |state, limit| {
        let found = bench.wait(bench.store.ended(state, bench.now(), limit)).unwrap();
        found.iter().map(|saga| saga.task_id().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(find(State::Quarantined, 2), ["c", "a"]);
    assert_eq!(find(State::Completed, 2), [""; 0]);
    bench.saga(annotate("c", "look"));
    bench.advance(us(1));
    assert_eq!(find(State::Quarantined, 9), ["a", "d", "c"]);
}

fn p7_the_history_below_is_compacted(bench: Bench) {
    let max = Revision(i64::MAX);
    bench.sagas(create([creation("stays")]));
    ended(&bench, "a");
    bench.saga(annotate("stays", "between"));
    ended(&bench, "b");
    let through = bench.get("b").unwrap().revision;
    bench.saga(annotate("stays", "after"));
    bench.advance(us(1));
    let whole = bench.history();
    bench.purged(purge(secs(0), 10));
    let all = EventQuery { through: max, limit: 100, ..EventQuery::default() };
    let compacted = Err(StoreError::Compacted { oldest: through });
    assert_eq!(bench.events(all.clone()), compacted);
    assert_eq!(bench.events(EventQuery { after: Revision(through.0 - 1), ..all.clone() }), compacted);
    assert_eq!(bench.events(EventQuery { after: through, ..all.clone() }).unwrap(), whole[whole.len() - 1..]);
    // A watch of one saga may have missed what became of it, so it is told; its own history is still whole.
    let of_one = EventQuery { task_id: Some(task("stays")), ..all.clone() };
    assert_eq!(bench.events(of_one.clone()), compacted);
    let kept: Vec<_> = whole.iter().filter(|event| event.task_id == task("stays")).cloned().collect();
    assert_eq!(bench.events(EventQuery { whole: true, ..of_one }).unwrap(), kept);
    assert_eq!(bench.history(), kept);

    // When the newest event is gone, what was given stays given, over a restart, too.
    bench.saga(park("stays"));
    let newest = bench.get("stays").unwrap().revision;
    bench.tick(us(1));
    bench.purged(purge(secs(0), 10));
    assert_eq!(bench.events(EventQuery { after: newest, ..all.clone() }), Ok(vec![]));
    let bench = bench.reopened();
    assert_eq!(bench.store.event_feed().head(), newest);
    assert_eq!(bench.events(EventQuery { after: newest, ..all.clone() }), Ok(vec![]));
    assert_eq!(bench.events(all), Err(StoreError::Compacted { oldest: newest }));
    assert!(bench.sagas(create([creation("next")]))[0].revision > newest);
}

fn ids_are_free_again_and_places_are_not(bench: Bench) {
    let place = |bench: &Bench| -> Vec<Cursor> {
        let (filter, read_time) = (Filter::default(), bench.store.read_time());
        let query = ListQuery { filter, newest_first: false, after: None, limit: 100, read_time };
        bench.list(query).sagas.into_iter().map(|(cursor, _)| cursor).collect()
    };
    ended(&bench, "a");
    let before = place(&bench);
    bench.tick(us(1));
    bench.purged(purge(secs(0), 10));
    ended(&bench, "a");
    let after = place(&bench);
    assert!(after[0] > before[0]);
    assert_eq!(bench.get("a").unwrap().compensations.len(), 1);
    assert_eq!(bench.history().len(), 2);
    bench.tick(us(1));
    bench.purged(purge(secs(0), 10));
    let bench = bench.reopened();
    ended(&bench, "a");
    assert!(place(&bench)[0] > after[0], "over a restart, too");
}
