//! `ClaimNext`: which sagas it returns, in which order, and how many.

use sagad::domain::{
    command::ClaimNext,
    compensation::CompensationOutcome,
    policy::{Policy, StaleAction},
    text::Blob,
};

use super::{builders::*, test_store::TestStore};

on_every_backend! {
    sagas_are_claimed_by_priority_then_creation
    reserved_sagas_are_claimed_first
    a_claim_may_name_several_queues
    sagas_that_are_not_ready_are_not_claimed
    stale_running_sagas_are_not_claimed
    a_claim_for_compensation_gets_only_sagas_whose_kinds_it_handles
    a_claim_of_many_sagas_stops_at_three_mebibytes
    a_single_large_saga_is_still_claimed
}

fn sagas_are_claimed_by_priority_then_creation(store: TestStore) {
    let sagas = [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", i32::MAX), ("f", i32::MIN)];
    store.sagas(create(sagas.map(|(id, priority)| placed(id, "q", priority))));
    let two = ClaimNext { max_sagas: 2, ..next(&["q"], "w") };
    assert_eq!(store.tasks(two), ["e", "b"]);
    assert_eq!(store.tasks(ClaimNext { max_sagas: 100, ..next(&["q"], "w") }), ["d", "a", "c", "f"]);
    assert_eq!(store.tasks(next(&["q"], "w")), [""; 0]);
    // A saga that is ready again keeps its place in the order of creation.
    let a = store.get("a").unwrap();
    store.saga(release(&a, secs(0)));
    store.sagas(create([creation("g")]));
    assert_eq!(store.tasks(ClaimNext { max_sagas: 2, ..next(&["q"], "w") }), ["a", "g"]);
}

fn reserved_sagas_are_claimed_first(store: TestStore) {
    store.sagas(create([placed("a", "q", 9), placed("b", "q", 0), placed("c", "q", 1), placed("d", "q", 2)]));
    store.saga(dispatch("b", "w", secs(60)));
    store.saga(dispatch("c", "w", secs(60)));
    store.saga(dispatch("d", "other", secs(60)));
    assert_eq!(store.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "third") }), ["a"]);
    assert_eq!(store.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "w") }), ["c", "b"]);
    // After the reservation has ended any owner can claim it.
    store.tick(secs(60));
    assert_eq!(store.tasks(next(&["q"], "w")), ["d"]);
}

fn a_claim_may_name_several_queues(store: TestStore) {
    let sagas = [("a", "p", 0), ("b", "q", 1), ("c", "r", 2), ("d", "p", 1), ("e", "q", 0)];
    store.sagas(create(sagas.map(|(id, queue, priority)| placed(id, queue, priority))));
    let all = |queues: &[&str]| ClaimNext { max_sagas: 10, ..next(queues, "w") };
    assert_eq!(store.tasks(all(&["nowhere"])), [""; 0]);
    assert_eq!(store.tasks(all(&["q", "p", "nowhere"])), ["b", "d", "a", "e"]);
    assert_eq!(store.tasks(all(&["q", "r"])), ["c"]);
}

fn sagas_that_are_not_ready_are_not_claimed(store: TestStore) {
    let mut late = creation("late");
    late.delay = secs(10);
    store.sagas(create([late, creation("held"), creation("now")]));
    store.saga(claim("held", "w"));
    assert_eq!(store.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "w") }), ["now"]);
    store.tick(us(9_999_999));
    assert_eq!(store.tasks(next(&["q"], "w")), [""; 0]);
    store.tick(us(1));
    assert_eq!(store.tasks(next(&["q"], "w")), ["late"], "at the end of its delay");
}

fn stale_running_sagas_are_not_claimed(store: TestStore) {
    let requeued = Policy { on_stale: StaleAction::Requeue, ..Policy::default() };
    let mut again = creation("again");
    again.policy = requeued;
    store.sagas(create([creation("stale"), again]));
    store.saga(claim("stale", "w"));
    store.saga(claim("again", "w"));
    store.tick(us(TTL.micros() - 1));
    assert_eq!(store.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "v") }), [""; 0]);
    store.tick(us(1));
    assert_eq!(store.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "v") }), ["again"]);
    assert!(store.get("stale").unwrap().reported_stale().is_some());
}

fn a_claim_for_compensation_gets_only_sagas_whose_kinds_it_handles(store: TestStore) {
    store.sagas(create([
        undoable("xy", &["x", "y"]),
        undoable("x", &["x"]),
        undoable("yx-x-done", &["y", "x"]),
        creation("none"),
    ]));
    for id in ["xy", "x", "yx-x-done", "none"] {
        let claimed = store.saga(claim_undo(id, "w"));
        if id == "yx-x-done" {
            store.saga(record(&claimed, 2, CompensationOutcome::Done));
        }
        store.saga(release(&claimed, secs(0)));
    }
    let all = |kinds: &[&str]| ClaimNext { max_sagas: 10, ..next_undo("w", kinds) };
    let give_back = |ids: &[&str]| {
        for id in ids {
            store.saga(release(&store.get(id).unwrap(), secs(0)));
        }
    };
    assert_eq!(store.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "w") }), [""; 0], "not for execution");
    assert_eq!(store.tasks(all(&["z"])), ["none"]);
    give_back(&["none"]);
    assert_eq!(store.tasks(all(&["x", "z"])), ["x", "none"]);
    give_back(&["x", "none"]);
    assert_eq!(store.tasks(all(&["y"])), ["yx-x-done", "none"]);
    give_back(&["yx-x-done", "none"]);
    assert_eq!(store.tasks(all(&["y", "x"])), ["xy", "x", "yx-x-done", "none"]);
    give_back(&["xy", "x", "yx-x-done", "none"]);
    assert_eq!(store.tasks(all(&[])), ["xy", "x", "yx-x-done", "none"]);
}

fn a_claim_of_many_sagas_stops_at_three_mebibytes(store: TestStore) {
    let full = Blob::parse(vec![7; 64 * 1024].into()).unwrap();
    store.sagas(create((0..60).map(|n| {
        let mut large = creation(&format!("t{n}"));
        large.payload = full.clone();
        large
    })));
    let all = ClaimNext { max_sagas: 100, ..next(&["q"], "w") };
    let first = store.sagas(all.clone());
    let bytes: usize = first.iter().map(|saga| saga.spec.payload.bytes().len()).sum();
    assert!(bytes <= 3 << 20, "{bytes}");
    assert!(bytes > 2 << 20, "{bytes}: it stopped too early");
    // Sagas that did not fit were not claimed.
    assert_eq!(first.len() + store.sagas(all.clone()).len(), 60);
    assert_eq!(store.sagas(all).len(), 0);
    assert_eq!(store.history().len(), 120);
}

fn a_single_large_saga_is_still_claimed(store: TestStore) {
    let long = "x".repeat(4096);
    let mut large = creation("large");
    large.compensations = (0..128)
        .map(|n| sagad::domain::compensation::CompensationSpec {
            kind: kind(&format!("k{n}")),
            target: text(&long),
            reason: text(&long),
        })
        .collect();
    large.payload = Blob::parse(vec![7; 64 * 1024].into()).unwrap();
    store.sagas(create([large]));
    assert_eq!(store.tasks(next(&["q"], "w")), ["large"]);
}
