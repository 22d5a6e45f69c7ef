//! Stored rows that can't be changed any more: an error of the calls that need them, and of no others.

use rusqlite::Connection;
use sagad::{domain::command::ClaimNext, store::StoreError};

use super::{
    bench::{Bench, Setup},
    build::*,
};

on_every_backend! {
    a_saga_that_cannot_be_written_is_an_error_of_its_own_calls
    a_saga_that_cannot_be_written_does_not_keep_others_from_what_is_due
}

fn is_corrupt(bench: &Bench, task: &str) -> bool {
    matches!(bench.submit(annotate(task, "note")), Err(StoreError::Corrupt(_)))
}

fn a_saga_that_cannot_be_written_is_an_error_of_its_own_calls(bench: Bench) {
    bench.sagas(create(["bad", "good"].map(creation)));
    bench.make_unwritable("bad");
    let before = bench.history();
    // This one is noticed at the commit, the next one before.
    for _ in 0..2 {
        assert!(is_corrupt(&bench, "bad"));
    }
    assert!(matches!(bench.submit(claim("bad", "w")), Err(StoreError::Corrupt(_))));
    assert_eq!(bench.history(), before, "nothing of it happened");
    assert_eq!(bench.tasks(next(&["q"], "w")), ["good"], "it is passed over");
    assert!(bench.get("bad").unwrap().lease.is_none());
}

fn a_saga_that_cannot_be_written_does_not_keep_others_from_what_is_due(bench: Bench) {
    bench.sagas(create(["bad", "good"].map(creation)));
    ["bad", "good"].iter().for_each(|task| drop(bench.saga(claim(task, "w"))));
    bench.make_unwritable("bad");
    bench.tick(TTL);
    // Whose call is in the turn that fails is told that it did not happen.
    if is_corrupt(&bench, "good") {
        assert!(!is_corrupt(&bench, "good"));
    }
    assert_eq!(["bad", "good"].map(|task| bench.get(task).unwrap().expirations), [0, 1]);
    assert!(is_corrupt(&bench, "bad"));
    bench.close();
}

/// What is left of a saga whose state was lost: nothing is found by its id, which is taken nevertheless.
#[test]
fn a_saga_that_is_half_there_is_an_error_of_those_who_create_it_again() {
    let bench = Bench::sqlite();
    bench.sagas(create(["lost", "kept"].map(creation)));
    let held = bench.keep();
    let now = bench.now();
    bench.close();
    let damage = Connection::open(held.path().join("sagad.db")).unwrap();
    damage.execute_batch("DELETE FROM work WHERE id = (SELECT id FROM saga WHERE task_id = 'lost')").unwrap();
    drop(damage);
    let bench = Bench::open_dir(held, Setup::default(), now);
    for _ in 0..2 {
        assert!(matches!(bench.submit(create([creation("lost")])), Err(StoreError::Corrupt(_))));
    }
    // Whatever gets the place that it did not get is a saga like any other.
    bench.sagas(create([creation("new")]));
    bench.saga(complete(&bench.saga(claim("new", "w"))));
    bench.saga(annotate("new", "read from its row, since it has ended"));
    assert_eq!(bench.saga(claim("kept", "w")).attempt, 1);
}

/// A claim that has got something answers with it, though what lies behind makes no sense.
#[test]
fn what_was_claimed_is_answered_whatever_lies_behind_it() {
    let bench = Bench::sqlite();
    // As many as are looked for at once.
    let ready = 512;
    let all: Vec<_> = (0..=ready).map(|n| creation(&format!("t{n}"))).collect();
    for some in all.chunks(100) {
        bench.sagas(create(some.to_vec()));
    }
    let held = bench.keep();
    let now = bench.now();
    bench.close();
    let damage = Connection::open(held.path().join("sagad.db")).unwrap();
    // The first can be claimed; then come those that can't be read; the last has no place in the order.
    let spoil = "UPDATE work SET attempt = -1 WHERE id > (SELECT min(id) FROM work);
        UPDATE work SET priority = -(1 << 40) WHERE id = (SELECT max(id) FROM work)";
    damage.execute_batch(spoil).unwrap();
    drop(damage);
    let bench = Bench::open_dir(held, Setup::default(), now);
    let claimed = bench.sagas(ClaimNext { max_sagas: 2, ..next(&["q"], "w") });
    assert_eq!(claimed.iter().map(|saga| saga.task_id().as_str()).collect::<Vec<_>>(), ["t0"]);
    assert!(
        matches!(bench.submit(next(&["q"], "w")), Err(StoreError::Corrupt(_))),
        "nothing is left but what can't be read"
    );
}

/// What belongs to no saga is in every turn's way: then it ends, as with a disk that fails.
#[test]
fn an_event_that_nobody_gave_ends_the_writer() {
    let bench = Bench::sqlite();
    bench.sagas(create([creation("a")]));
    let damage = Connection::open(bench.data().join("sagad.db")).unwrap();
    let columns = "saga, prev, time, kind, to_state";
    let insert = format!("INSERT INTO event (revision, {columns}) SELECT revision + 1, {columns} FROM event");
    damage.execute_batch(&insert).unwrap();
    assert!(matches!(bench.submit(annotate("a", "note")), Err(StoreError::Unavailable(_))));
    let after = bench.submit(annotate("a", "note"));
    assert!(matches!(after, Err(StoreError::ShuttingDown | StoreError::OutcomeUnknown)), "{after:?}");
}
