//! Held claims: served in order of arrival, with what became claimable in whatever way.

use sagad::{
    domain::{
        command::{ClaimNext, RecoveryDecision},
        lease::LeasePurpose,
        policy::{Policy, StaleAction},
        saga::State,
    },
    store::StoreError,
};

use super::{
    bench::{Bench, sagas_of},
    build::*,
};

on_every_backend! {
    in_order_of_arrival
    a_new_saga_wakes_exactly_one
    the_wait_ends
    draining_lets_go
    closing_lets_go
    a_caller_that_is_gone_is_not_served
    resuming_a_queue_wakes
    resuming_a_queue_wakes_whom_a_saga_is_reserved_for
    the_end_of_a_delay_wakes
    what_a_policy_requeues_wakes
    what_is_released_or_decided_wakes
    a_reservation_wakes_its_assignee
    the_end_of_a_reservation_wakes
    kinds_are_looked_at
    one_call_takes_as_many_as_it_wants
    one_call_waits_for_several_queues
    a_batch_serves_several
    held_calls_are_bounded
    a_repeated_call_is_not_served_twice
    a_repeated_call_is_answered_by_what_it_got
}

fn in_order_of_arrival(bench: Bench) {
    let mut calls: Vec<_> = ["w1", "w2", "w3"].into_iter().map(|by| bench.hold(waiting(by))).collect();
    assert!(calls.iter_mut().all(|call| call.is_held()));
    for id in ["a", "b", "c"] {
        bench.sagas(create([creation(id)]));
        let first = calls.remove(0);
        let answer = sagas_of(first.answer());
        assert_eq!(answer[0].spec.task_id.as_str(), id);
        assert!(calls.iter_mut().all(|call| call.is_held()));
    }
    let owners = ["a", "b", "c"].map(|id| bench.get(id).unwrap().lease.unwrap().owner.to_string());
    assert_eq!(owners, ["w1", "w2", "w3"]);
}

fn a_new_saga_wakes_exactly_one(bench: Bench) {
    let mut calls: Vec<_> = (0..20).map(|n| bench.hold(waiting(&format!("w{n}")))).collect();
    bench.sagas(create([creation("a")]));
    bench.settle();
    let held = calls.iter_mut().filter_map(|call| call.is_held().then_some(())).count();
    assert_eq!(held, 19);
    assert_eq!(bench.wait(bench.store.stats()).unwrap().waiting, 19);
    assert_eq!(bench.history().len(), 2);
}

fn the_wait_ends(bench: Bench) {
    let mut short = bench.hold(ClaimNext { wait: secs(1), ..waiting("w1") });
    let mut long = bench.hold(ClaimNext { wait: secs(2), ..waiting("w2") });
    bench.advance(us(999_999));
    assert!(short.is_held() && long.is_held());
    bench.advance(us(1));
    assert_eq!(short.tasks(), [""; 0]);
    assert!(long.is_held());
    bench.sagas(create([creation("a")]));
    assert_eq!(long.tasks(), ["a"]);
    bench.settle();
    assert_eq!(bench.wait(bench.store.stats()).unwrap().waiting, 0);
}

fn draining_lets_go(bench: Bench) {
    let held = bench.hold(waiting("w1"));
    bench.store.drain();
    assert_eq!(held.answer(), Err(StoreError::ShuttingDown));
    // From then on none is held, while all else goes on.
    assert_eq!(bench.submit(waiting("w2")), Err(StoreError::ShuttingDown));
    bench.sagas(create([creation("a")]));
    assert_eq!(bench.tasks(waiting("w3")), ["a"]);
}

fn closing_lets_go(bench: Bench) {
    let held = bench.hold(waiting("w1"));
    bench.store.close();
    assert_eq!(held.answer(), Err(StoreError::ShuttingDown));
    bench.close();
}

fn a_caller_that_is_gone_is_not_served(bench: Bench) {
    let gone = bench.hold(waiting("w1"));
    let stays = bench.hold(waiting("w2"));
    drop(gone);
    bench.sagas(create([creation("a")]));
    assert_eq!(stays.tasks(), ["a"]);
    drop(bench.hold(waiting("w3")));
    bench.sagas(create([creation("b")]));
    assert_eq!(bench.get("b").unwrap().state, State::Planned);
    assert_eq!(bench.tasks(next(&["q"], "w4")), ["b"]);
}

fn resuming_a_queue_wakes(bench: Bench) {
    bench.submit(pause("q", true)).unwrap();
    let mut run = bench.hold(waiting("w1"));
    let mut undo = bench.hold(ClaimNext { wait: secs(60), ..next_undo("u", &[]) });
    bench.sagas(create([creation("a"), undoable("b", &["x"])]));
    bench.saga(claim("b", "w"));
    bench.saga(cancel("b"));
    bench.settle();
    assert!(run.is_held() && undo.is_held());
    bench.submit(pause("q", false)).unwrap();
    assert_eq!((run.tasks(), undo.tasks()), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

fn resuming_a_queue_wakes_whom_a_saga_is_reserved_for(bench: Bench) {
    bench.sagas(create([creation("a")]));
    bench.saga(dispatch("a", "w2", secs(600)));
    bench.submit(pause("q", true)).unwrap();
    let mut first = bench.hold(waiting("w1"));
    let second = bench.hold(waiting("w2"));
    bench.submit(pause("q", false)).unwrap();
    assert_eq!(second.tasks(), ["a"]);
    assert!(first.is_held());
}

fn the_end_of_a_delay_wakes(bench: Bench) {
    let mut late = creation("a");
    late.delay = secs(1);
    bench.sagas(create([late]));
    let mut call = bench.hold(waiting("w"));
    bench.advance(us(999_999));
    assert!(call.is_held());
    bench.advance(us(1));
    assert_eq!(call.tasks(), ["a"]);
}

fn what_a_policy_requeues_wakes(bench: Bench) {
    let mut again = creation("a");
    again.policy = Policy { on_stale: StaleAction::Requeue, ..Policy::default() };
    bench.sagas(create([again]));
    bench.saga(claim_with("a", "dead", LeasePurpose::Execute, secs(1)));
    let mut call = bench.hold(waiting("w"));
    bench.advance(us(999_999));
    assert!(call.is_held());
    bench.advance(us(1));
    assert_eq!(call.tasks(), ["a"]);
}

fn what_is_released_or_decided_wakes(bench: Bench) {
    bench.sagas(create([creation("a"), creation("b")]));
    let a = bench.saga(claim("a", "w"));
    bench.saga(claim_with("b", "w", LeasePurpose::Execute, secs(1)));
    let call = bench.hold(waiting("v"));
    bench.saga(release(&a, secs(0)));
    assert_eq!(call.tasks(), ["a"]);
    let mut call = bench.hold(waiting("v"));
    bench.advance(secs(1));
    assert!(call.is_held(), "stale ones are not handed out");
    bench.saga(recover("b", RecoveryDecision::Requeue));
    assert_eq!(call.tasks(), ["b"]);
}

fn a_reservation_wakes_its_assignee(bench: Bench) {
    bench.submit(pause("q", true)).unwrap();
    bench.sagas(create([creation("a")]));
    bench.saga(dispatch("a", "w2", secs(600)));
    bench.submit(pause("q", false)).unwrap();
    bench.saga(claim("a", "w2"));
    let mut first = bench.hold(waiting("w1"));
    let second = bench.hold(waiting("w2"));
    let mut late = creation("b");
    late.delay = secs(1);
    bench.sagas(create([late]));
    bench.saga(dispatch("b", "w2", secs(600)));
    bench.settle();
    let mut second = second;
    assert!(first.is_held() && second.is_held(), "its delay holds for its assignee, too");
    bench.advance(secs(1));
    assert_eq!(second.tasks(), ["b"]);
    assert!(first.is_held());
}

fn the_end_of_a_reservation_wakes(bench: Bench) {
    bench.sagas(create([creation("a")]));
    bench.saga(dispatch("a", "elsewhere", secs(1)));
    let mut call = bench.hold(waiting("w"));
    assert!(call.is_held());
    bench.advance(secs(1));
    assert_eq!(call.tasks(), ["a"]);
}

fn kinds_are_looked_at(bench: Bench) {
    let undo = |by: &str, kinds: &[&str]| ClaimNext { wait: secs(60), ..next_undo(by, kinds) };
    let mut only_x = bench.hold(undo("u1", &["x"]));
    let mut only_y = bench.hold(undo("u2", &["y"]));
    let mut run = bench.hold(waiting("w"));
    bench.submit(pause("q", true)).unwrap();
    bench.sagas(create([undoable("a", &["y"]), undoable("b", &["x", "y"])]));
    for id in ["a", "b"] {
        bench.saga(claim(id, "w"));
        bench.saga(cancel(id));
    }
    bench.submit(pause("q", false)).unwrap();
    bench.settle();
    assert!(only_x.is_held() && run.is_held() && !only_y.is_held());
    assert_eq!(only_y.tasks(), ["a"]);
    let any = bench.hold(undo("u3", &[]));
    assert_eq!(any.tasks(), ["b"]);
}

fn one_call_takes_as_many_as_it_wants(bench: Bench) {
    let greedy = bench.hold(ClaimNext { max_sagas: 3, ..waiting("w1") });
    let modest = bench.hold(waiting("w2"));
    bench.sagas(create(["a", "b", "c", "d", "e"].map(creation)));
    assert_eq!(greedy.tasks(), ["a", "b", "c"]);
    assert_eq!(modest.tasks(), ["d"]);
    assert_eq!(bench.tasks(next(&["q"], "w")), ["e"]);
}

fn one_call_waits_for_several_queues(bench: Bench) {
    let mut both = bench.hold(ClaimNext { wait: secs(60), ..next(&["p", "q"], "w1") });
    let mut other = bench.hold(ClaimNext { wait: secs(60), ..next(&["r"], "w2") });
    bench.sagas(create([placed("a", "s", 0)]));
    bench.settle();
    assert!(both.is_held() && other.is_held());
    bench.sagas(create([placed("b", "q", 0)]));
    assert_eq!(both.tasks(), ["b"]);
    assert!(other.is_held());
}

fn a_batch_serves_several(bench: Bench) {
    let calls: Vec<_> = (0..4).map(|n| bench.hold(waiting(&format!("w{n}")))).collect();
    bench.sagas(create(["a", "b", "c", "d", "e"].map(creation)));
    let served: Vec<_> = calls.into_iter().flat_map(|call| call.tasks()).collect();
    assert_eq!(served, ["a", "b", "c", "d"]);
}

fn held_calls_are_bounded(bench: Bench) {
    let calls: Vec<_> = (0..100).map(|n| bench.hold(waiting(&format!("w{n}")))).collect();
    assert!(matches!(bench.submit(waiting("one-too-many")), Err(StoreError::Overloaded { .. })));
    // Callers that are gone make room.
    drop(calls);
    let mut held = bench.hold(waiting("w"));
    assert!(held.is_held());
}

fn a_repeated_call_is_not_served_twice(bench: Bench) {
    // Its caller lost the connection and asks again, before anyone has noticed that the first call has no caller.
    let first = bench.hold_as(1, waiting("w"));
    let again = bench.hold_as(1, waiting("w"));
    bench.sagas(create([creation("a"), creation("b")]));
    assert_eq!(first.tasks(), ["a"]);
    assert_eq!(again.tasks(), ["a"]);
    assert_eq!(bench.get("b").unwrap().state, State::Planned);
}

fn a_repeated_call_is_answered_by_what_it_got(bench: Bench) {
    bench.sagas(create([creation("a"), creation("b")]));
    let got = sagas_of(bench.submit_as(1, waiting("w")));
    assert_eq!(got[0].spec.task_id.as_str(), "a");
    bench.saga(complete(&got[0]));
    // Its lease is over: the repetition is answered with nothing, not held for something new.
    assert_eq!(sagas_of(bench.submit_as(1, waiting("w"))), []);
    assert_eq!(bench.get("b").unwrap().state, State::Planned);
}
