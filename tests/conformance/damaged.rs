//! Stored rows that can't be changed any more: an error of the calls that need them, and of no others.

use sagad::store::StoreError;

use super::{bench::Bench, build::*};

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
