//! Damaged rows: an error of the calls that need them, and of no others.

use rusqlite::Connection;
use sagad::{domain::command::ClaimNext, store::StoreError};

use super::{
    builders::*,
    test_store::{StoreSetup, TestStore},
};

on_every_backend! {
    an_unwritable_saga_is_an_error_of_its_own_calls_only
    an_unwritable_saga_does_not_block_due_changes_of_others
}

fn is_corrupt(store: &TestStore, task: &str) -> bool {
    matches!(store.submit(annotate(task, "note")), Err(StoreError::Corrupt(_)))
}

fn an_unwritable_saga_is_an_error_of_its_own_calls_only(store: TestStore) {
    store.sagas(create(["bad", "good"].map(creation)));
    store.make_unwritable("bad");
    let before = store.history();
    // The first call fails at the commit, the next one before.
    for _ in 0..2 {
        assert!(is_corrupt(&store, "bad"));
    }
    assert!(matches!(store.submit(claim("bad", "w")), Err(StoreError::Corrupt(_))));
    assert_eq!(store.history(), before, "the failed calls changed nothing");
    assert_eq!(store.tasks(next(&["q"], "w")), ["good"], "the damaged saga is skipped");
    assert!(store.get("bad").unwrap().lease.is_none());
}

fn an_unwritable_saga_does_not_block_due_changes_of_others(store: TestStore) {
    store.sagas(create(["bad", "good"].map(creation)));
    ["bad", "good"].iter().for_each(|task| drop(store.saga(claim(task, "w"))));
    store.make_unwritable("bad");
    store.tick(TTL);
    // A call in the failed turn is told that it did not happen.
    if is_corrupt(&store, "good") {
        assert!(!is_corrupt(&store, "good"));
    }
    assert_eq!(["bad", "good"].map(|task| store.get(task).unwrap().expirations), [0, 1]);
    assert!(is_corrupt(&store, "bad"));
    store.close();
}

/// A saga without its row of state: it is not found by its id, but the id is taken.
#[test]
fn creating_a_saga_whose_rows_are_incomplete_is_an_error() {
    let store = TestStore::sqlite();
    store.sagas(create(["lost", "kept"].map(creation)));
    let held = store.keep();
    let now = store.now();
    store.close();
    let damage = Connection::open(held.path().join("sagad.db")).unwrap();
    damage.execute_batch("DELETE FROM work WHERE id = (SELECT id FROM saga WHERE task_id = 'lost')").unwrap();
    drop(damage);
    let store = TestStore::open_dir(held, StoreSetup::default(), now);
    for _ in 0..2 {
        assert!(matches!(store.submit(create([creation("lost")])), Err(StoreError::Corrupt(_))));
    }
    // A saga that gets the row id of the failed creation works.
    store.sagas(create([creation("new")]));
    store.saga(complete(&store.saga(claim("new", "w"))));
    store.saga(annotate("new", "read from its row, since it has ended"));
    assert_eq!(store.saga(claim("kept", "w")).attempt, 1);
}

/// A claim returns the sagas it got, although later rows are damaged.
#[test]
fn claimed_sagas_are_returned_although_later_rows_are_damaged() {
    let store = TestStore::sqlite();
    // As many as are loaded at once.
    let ready = 512;
    let all: Vec<_> = (0..=ready).map(|n| creation(&format!("t{n}"))).collect();
    for some in all.chunks(100) {
        store.sagas(create(some.to_vec()));
    }
    let held = store.keep();
    let now = store.now();
    store.close();
    let damage = Connection::open(held.path().join("sagad.db")).unwrap();
    // The first can be claimed, those after it can't be read, and the last has no position in the order.
    let spoil = "UPDATE work SET attempt = -1 WHERE id > (SELECT min(id) FROM work);
        UPDATE work SET priority = -(1 << 40) WHERE id = (SELECT max(id) FROM work)";
    damage.execute_batch(spoil).unwrap();
    drop(damage);
    let store = TestStore::open_dir(held, StoreSetup::default(), now);
    let claimed = store.sagas(ClaimNext { max_sagas: 2, ..next(&["q"], "w") });
    assert_eq!(claimed.iter().map(|saga| saga.task_id().as_str()).collect::<Vec<_>>(), ["t0"]);
    assert!(matches!(store.submit(next(&["q"], "w")), Err(StoreError::Corrupt(_))), "only damaged sagas are left");
}

/// A damaged row that belongs to no saga makes every turn fail, so the writer ends.
#[test]
fn an_unknown_event_row_ends_the_writer() {
    let store = TestStore::sqlite();
    store.sagas(create([creation("a")]));
    let damage = Connection::open(store.data().join("sagad.db")).unwrap();
    let columns = "saga, prev, time, kind, to_state";
    let insert = format!("INSERT INTO event (revision, {columns}) SELECT revision + 1, {columns} FROM event");
    damage.execute_batch(&insert).unwrap();
    assert!(matches!(store.submit(annotate("a", "note")), Err(StoreError::Unavailable(_))));
    let after = store.submit(annotate("a", "note"));
    assert!(matches!(after, Err(StoreError::ShuttingDown | StoreError::OutcomeUnknown)), "{after:?}");
}
