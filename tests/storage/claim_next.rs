//! `ClaimNext`: which sagas, in which order, and how many.

use sagad::domain::{
    command::ClaimNext,
    compensation::CompensationOutcome,
    policy::{Policy, StaleAction},
    text::Blob,
};

use super::{bench::Bench, build::*};

on_every_backend! {
    by_priority_then_creation
    reserved_ones_first
    from_several_queues
    what_is_not_ready_is_not_handed_out
    stale_running_ones_are_not_handed_out
    to_undo_only_what_the_kinds_cover
    many_stop_at_three_mebibytes
    a_large_one_is_still_handed_out
}

fn by_priority_then_creation(bench: Bench) {
    let sagas = [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", i32::MAX), ("f", i32::MIN)];
    bench.sagas(create(sagas.map(|(id, priority)| placed(id, "q", priority))));
    let two = ClaimNext { max_sagas: 2, ..next(&["q"], "w") };
    assert_eq!(bench.tasks(two), ["e", "b"]);
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 100, ..next(&["q"], "w") }), ["d", "a", "c", "f"]);
    assert_eq!(bench.tasks(next(&["q"], "w")), [""; 0]);
    // One that waits again keeps its place in the order of creation.
    let a = bench.get("a").unwrap();
    bench.saga(release(&a, secs(0)));
    bench.sagas(create([creation("g")]));
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 2, ..next(&["q"], "w") }), ["a", "g"]);
}

fn reserved_ones_first(bench: Bench) {
    bench.sagas(create([placed("a", "q", 9), placed("b", "q", 0), placed("c", "q", 1), placed("d", "q", 2)]));
    bench.saga(dispatch("b", "w", secs(60)));
    bench.saga(dispatch("c", "w", secs(60)));
    bench.saga(dispatch("d", "other", secs(60)));
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "third") }), ["a"]);
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "w") }), ["c", "b"]);
    // Once the reservation has ended it is anyone's.
    bench.tick(secs(60));
    assert_eq!(bench.tasks(next(&["q"], "w")), ["d"]);
}

fn from_several_queues(bench: Bench) {
    let sagas = [("a", "p", 0), ("b", "q", 1), ("c", "r", 2), ("d", "p", 1), ("e", "q", 0)];
    bench.sagas(create(sagas.map(|(id, queue, priority)| placed(id, queue, priority))));
    let all = |queues: &[&str]| ClaimNext { max_sagas: 10, ..next(queues, "w") };
    assert_eq!(bench.tasks(all(&["nowhere"])), [""; 0]);
    assert_eq!(bench.tasks(all(&["q", "p", "nowhere"])), ["b", "d", "a", "e"]);
    assert_eq!(bench.tasks(all(&["q", "r"])), ["c"]);
}

fn what_is_not_ready_is_not_handed_out(bench: Bench) {
    let mut late = creation("late");
    late.delay = secs(10);
    bench.sagas(create([late, creation("held"), creation("now")]));
    bench.saga(claim("held", "w"));
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "w") }), ["now"]);
    bench.tick(us(9_999_999));
    assert_eq!(bench.tasks(next(&["q"], "w")), [""; 0]);
    bench.tick(us(1));
    assert_eq!(bench.tasks(next(&["q"], "w")), ["late"], "at the instant at which its delay ends");
}

fn stale_running_ones_are_not_handed_out(bench: Bench) {
    let requeued = Policy { on_stale: StaleAction::Requeue, ..Policy::default() };
    let mut again = creation("again");
    again.policy = requeued;
    bench.sagas(create([creation("stale"), again]));
    bench.saga(claim("stale", "w"));
    bench.saga(claim("again", "w"));
    bench.tick(us(TTL.micros() - 1));
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "v") }), [""; 0]);
    bench.tick(us(1));
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "v") }), ["again"]);
    assert!(bench.get("stale").unwrap().reported_stale().is_some());
}

fn to_undo_only_what_the_kinds_cover(bench: Bench) {
    bench.sagas(create([
        undoable("xy", &["x", "y"]),
        undoable("x", &["x"]),
        undoable("yx-x-done", &["y", "x"]),
        creation("none"),
    ]));
    for id in ["xy", "x", "yx-x-done", "none"] {
        let claimed = bench.saga(claim_undo(id, "w"));
        if id == "yx-x-done" {
            bench.saga(record(&claimed, 2, CompensationOutcome::Done));
        }
        bench.saga(release(&claimed, secs(0)));
    }
    let all = |kinds: &[&str]| ClaimNext { max_sagas: 10, ..next_undo("w", kinds) };
    let give_back = |ids: &[&str]| {
        for id in ids {
            bench.saga(release(&bench.get(id).unwrap(), secs(0)));
        }
    };
    assert_eq!(bench.tasks(ClaimNext { max_sagas: 10, ..next(&["q"], "w") }), [""; 0], "not for execution");
    assert_eq!(bench.tasks(all(&["z"])), ["none"]);
    give_back(&["none"]);
    assert_eq!(bench.tasks(all(&["x", "z"])), ["x", "none"]);
    give_back(&["x", "none"]);
    assert_eq!(bench.tasks(all(&["y"])), ["yx-x-done", "none"]);
    give_back(&["yx-x-done", "none"]);
    assert_eq!(bench.tasks(all(&["y", "x"])), ["xy", "x", "yx-x-done", "none"]);
    give_back(&["xy", "x", "yx-x-done", "none"]);
    assert_eq!(bench.tasks(all(&[])), ["xy", "x", "yx-x-done", "none"]);
}

fn many_stop_at_three_mebibytes(bench: Bench) {
    let full = Blob::parse(vec![7; 64 * 1024].into()).unwrap();
    bench.sagas(create((0..60).map(|n| {
        let mut large = creation(&format!("t{n}"));
        large.payload = full.clone();
        large
    })));
    let all = ClaimNext { max_sagas: 100, ..next(&["q"], "w") };
    let first = bench.sagas(all.clone());
    let bytes: usize = first.iter().map(|saga| saga.spec.payload.bytes().len()).sum();
    assert!(bytes <= 3 << 20, "{bytes}");
    assert!(bytes > 2 << 20, "{bytes}: it stopped earlier than it had to");
    // What did not fit was not claimed.
    assert_eq!(first.len() + bench.sagas(all.clone()).len(), 60);
    assert_eq!(bench.sagas(all).len(), 0);
    assert_eq!(bench.history().len(), 120);
}

fn a_large_one_is_still_handed_out(bench: Bench) {
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
    bench.sagas(create([large]));
    assert_eq!(bench.tasks(next(&["q"], "w")), ["large"]);
}
