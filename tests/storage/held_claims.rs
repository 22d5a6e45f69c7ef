//! Held claims are answered in order of arrival with whatever becomes claimable.

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
    builders::*,
    test_store::{TestStore, sagas_of},
};

on_every_backend! {
    held_claims_are_answered_in_order_of_arrival
    a_new_saga_answers_exactly_one_held_claim
    a_held_claim_is_answered_when_its_wait_ends
    draining_answers_held_claims
    closing_answers_held_claims
    a_cancelled_held_claim_gets_nothing
    resuming_a_queue_answers_held_claims
    resuming_a_queue_answers_the_assignee_of_a_reserved_saga
    the_end_of_a_delay_answers_a_held_claim
    a_requeue_by_policy_answers_a_held_claim
    a_release_or_decision_answers_a_held_claim
    a_reservation_answers_the_held_claim_of_its_assignee
    the_end_of_a_reservation_answers_a_held_claim
    a_held_claim_gets_only_the_kinds_it_handles
    one_held_claim_takes_up_to_max_sagas
    one_held_claim_waits_for_several_queues
    a_batch_answers_several_held_claims
    the_number_of_held_claims_is_limited
    a_repeated_held_claim_gets_one_saga
    a_repeated_held_claim_returns_the_same_saga
}

fn held_claims_are_answered_in_order_of_arrival(store: TestStore) {
    let mut calls: Vec<_> = ["w1", "w2", "w3"].into_iter().map(|by| store.hold(waiting(by))).collect();
    assert!(calls.iter_mut().all(|call| call.is_held()));
    for id in ["a", "b", "c"] {
        store.sagas(create([creation(id)]));
        let first = calls.remove(0);
        let answer = sagas_of(first.answer());
        assert_eq!(answer[0].spec.task_id.as_str(), id);
        assert!(calls.iter_mut().all(|call| call.is_held()));
    }
    let owners = ["a", "b", "c"].map(|id| store.get(id).unwrap().lease.unwrap().owner.to_string());
    assert_eq!(owners, ["w1", "w2", "w3"]);
}

fn a_new_saga_answers_exactly_one_held_claim(store: TestStore) {
    let mut calls: Vec<_> = (0..20).map(|n| store.hold(waiting(&format!("w{n}")))).collect();
    store.sagas(create([creation("a")]));
    store.settle();
    let held = calls.iter_mut().filter_map(|call| call.is_held().then_some(())).count();
    assert_eq!(held, 19);
    assert_eq!(store.wait(store.handle.stats()).unwrap().waiting, 19);
    assert_eq!(store.history().len(), 2);
}

fn a_held_claim_is_answered_when_its_wait_ends(store: TestStore) {
    let mut short = store.hold(ClaimNext { wait: secs(1), ..waiting("w1") });
    let mut long = store.hold(ClaimNext { wait: secs(2), ..waiting("w2") });
    store.advance(us(999_999));
    assert!(short.is_held() && long.is_held());
    store.advance(us(1));
    assert_eq!(short.tasks(), [""; 0]);
    assert!(long.is_held());
    store.sagas(create([creation("a")]));
    assert_eq!(long.tasks(), ["a"]);
    store.settle();
    assert_eq!(store.wait(store.handle.stats()).unwrap().waiting, 0);
}

fn draining_answers_held_claims(store: TestStore) {
    let held = store.hold(waiting("w1"));
    store.handle.drain();
    assert_eq!(held.answer(), Err(StoreError::ShuttingDown));
    // From then on no claim is held; other calls work.
    assert_eq!(store.submit(waiting("w2")), Err(StoreError::ShuttingDown));
    store.sagas(create([creation("a")]));
    assert_eq!(store.tasks(waiting("w3")), ["a"]);
}

fn closing_answers_held_claims(store: TestStore) {
    let held = store.hold(waiting("w1"));
    store.handle.close();
    assert_eq!(held.answer(), Err(StoreError::ShuttingDown));
    store.close();
}

fn a_cancelled_held_claim_gets_nothing(store: TestStore) {
    let gone = store.hold(waiting("w1"));
    let stays = store.hold(waiting("w2"));
    drop(gone);
    store.sagas(create([creation("a")]));
    assert_eq!(stays.tasks(), ["a"]);
    drop(store.hold(waiting("w3")));
    store.sagas(create([creation("b")]));
    assert_eq!(store.get("b").unwrap().state, State::Planned);
    assert_eq!(store.tasks(next(&["q"], "w4")), ["b"]);
}

fn resuming_a_queue_answers_held_claims(store: TestStore) {
    store.submit(pause("q", true)).unwrap();
    let mut run = store.hold(waiting("w1"));
    let mut undo = store.hold(ClaimNext { wait: secs(60), ..next_undo("u", &[]) });
    store.sagas(create([creation("a"), undoable("b", &["x"])]));
    store.saga(claim("b", "w"));
    store.saga(cancel("b"));
    store.settle();
    assert!(run.is_held() && undo.is_held());
    store.submit(pause("q", false)).unwrap();
    assert_eq!((run.tasks(), undo.tasks()), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

fn resuming_a_queue_answers_the_assignee_of_a_reserved_saga(store: TestStore) {
    store.sagas(create([creation("a")]));
    store.saga(dispatch("a", "w2", secs(600)));
    store.submit(pause("q", true)).unwrap();
    let mut first = store.hold(waiting("w1"));
    let second = store.hold(waiting("w2"));
    store.submit(pause("q", false)).unwrap();
    assert_eq!(second.tasks(), ["a"]);
    assert!(first.is_held());
}

fn the_end_of_a_delay_answers_a_held_claim(store: TestStore) {
    let mut late = creation("a");
    late.delay = secs(1);
    store.sagas(create([late]));
    let mut call = store.hold(waiting("w"));
    store.advance(us(999_999));
    assert!(call.is_held());
    store.advance(us(1));
    assert_eq!(call.tasks(), ["a"]);
}

fn a_requeue_by_policy_answers_a_held_claim(store: TestStore) {
    let mut again = creation("a");
    again.policy = Policy { on_stale: StaleAction::Requeue, ..Policy::default() };
    store.sagas(create([again]));
    store.saga(claim_with("a", "dead", LeasePurpose::Execute, secs(1)));
    let mut call = store.hold(waiting("w"));
    store.advance(us(999_999));
    assert!(call.is_held());
    store.advance(us(1));
    assert_eq!(call.tasks(), ["a"]);
}

fn a_release_or_decision_answers_a_held_claim(store: TestStore) {
    store.sagas(create([creation("a"), creation("b")]));
    let a = store.saga(claim("a", "w"));
    store.saga(claim_with("b", "w", LeasePurpose::Execute, secs(1)));
    let call = store.hold(waiting("v"));
    store.saga(release(&a, secs(0)));
    assert_eq!(call.tasks(), ["a"]);
    let mut call = store.hold(waiting("v"));
    store.advance(secs(1));
    assert!(call.is_held(), "a stale saga is not returned");
    store.saga(recover("b", RecoveryDecision::Requeue));
    assert_eq!(call.tasks(), ["b"]);
}

fn a_reservation_answers_the_held_claim_of_its_assignee(store: TestStore) {
    store.submit(pause("q", true)).unwrap();
    store.sagas(create([creation("a")]));
    store.saga(dispatch("a", "w2", secs(600)));
    store.submit(pause("q", false)).unwrap();
    store.saga(claim("a", "w2"));
    let mut first = store.hold(waiting("w1"));
    let second = store.hold(waiting("w2"));
    let mut late = creation("b");
    late.delay = secs(1);
    store.sagas(create([late]));
    store.saga(dispatch("b", "w2", secs(600)));
    store.settle();
    let mut second = second;
    assert!(first.is_held() && second.is_held(), "the delay also applies to the assignee");
    store.advance(secs(1));
    assert_eq!(second.tasks(), ["b"]);
    assert!(first.is_held());
}

fn the_end_of_a_reservation_answers_a_held_claim(store: TestStore) {
    store.sagas(create([creation("a")]));
    store.saga(dispatch("a", "elsewhere", secs(1)));
    let mut call = store.hold(waiting("w"));
    assert!(call.is_held());
    store.advance(secs(1));
    assert_eq!(call.tasks(), ["a"]);
}

fn a_held_claim_gets_only_the_kinds_it_handles(store: TestStore) {
    let undo = |by: &str, kinds: &[&str]| ClaimNext { wait: secs(60), ..next_undo(by, kinds) };
    let mut only_x = store.hold(undo("u1", &["x"]));
    let mut only_y = store.hold(undo("u2", &["y"]));
    let mut run = store.hold(waiting("w"));
    store.submit(pause("q", true)).unwrap();
    store.sagas(create([undoable("a", &["y"]), undoable("b", &["x", "y"])]));
    for id in ["a", "b"] {
        store.saga(claim(id, "w"));
        store.saga(cancel(id));
    }
    store.submit(pause("q", false)).unwrap();
    store.settle();
    assert!(only_x.is_held() && run.is_held() && !only_y.is_held());
    assert_eq!(only_y.tasks(), ["a"]);
    let any = store.hold(undo("u3", &[]));
    assert_eq!(any.tasks(), ["b"]);
}

fn one_held_claim_takes_up_to_max_sagas(store: TestStore) {
    let first = store.hold(ClaimNext { max_sagas: 3, ..waiting("w1") });
    let second = store.hold(waiting("w2"));
    store.sagas(create(["a", "b", "c", "d", "e"].map(creation)));
    assert_eq!(first.tasks(), ["a", "b", "c"]);
    assert_eq!(second.tasks(), ["d"]);
    assert_eq!(store.tasks(next(&["q"], "w")), ["e"]);
}

fn one_held_claim_waits_for_several_queues(store: TestStore) {
    let mut both = store.hold(ClaimNext { wait: secs(60), ..next(&["p", "q"], "w1") });
    let mut other = store.hold(ClaimNext { wait: secs(60), ..next(&["r"], "w2") });
    store.sagas(create([placed("a", "s", 0)]));
    store.settle();
    assert!(both.is_held() && other.is_held());
    store.sagas(create([placed("b", "q", 0)]));
    assert_eq!(both.tasks(), ["b"]);
    assert!(other.is_held());
}

fn a_batch_answers_several_held_claims(store: TestStore) {
    let calls: Vec<_> = (0..4).map(|n| store.hold(waiting(&format!("w{n}")))).collect();
    store.sagas(create(["a", "b", "c", "d", "e"].map(creation)));
    let served: Vec<_> = calls.into_iter().flat_map(|call| call.tasks()).collect();
    assert_eq!(served, ["a", "b", "c", "d"]);
}

fn the_number_of_held_claims_is_limited(store: TestStore) {
    let calls: Vec<_> = (0..100).map(|n| store.hold(waiting(&format!("w{n}")))).collect();
    assert!(matches!(store.submit(waiting("one-too-many")), Err(StoreError::Overloaded { .. })));
    // Cancelled calls no longer count.
    drop(calls);
    let mut held = store.hold(waiting("w"));
    assert!(held.is_held());
}

fn a_repeated_held_claim_gets_one_saga(store: TestStore) {
    // The caller lost its connection and repeats the call before the first one is known to be cancelled.
    let first = store.hold_as(1, waiting("w"));
    let again = store.hold_as(1, waiting("w"));
    store.sagas(create([creation("a"), creation("b")]));
    assert_eq!(first.tasks(), ["a"]);
    assert_eq!(again.tasks(), ["a"]);
    assert_eq!(store.get("b").unwrap().state, State::Planned);
}

fn a_repeated_held_claim_returns_the_same_saga(store: TestStore) {
    store.sagas(create([creation("a"), creation("b")]));
    let got = sagas_of(store.submit_as(1, waiting("w")));
    assert_eq!(got[0].spec.task_id.as_str(), "a");
    store.saga(complete(&got[0]));
    // Its lease is over: the repeat is answered with nothing and is not held.
    assert_eq!(sagas_of(store.submit_as(1, waiting("w"))), []);
    assert_eq!(store.get("b").unwrap().state, State::Planned);
}
