//! Calls repeated with their `request_id`.

use sagad::domain::{
    command::{Command, Creation, HolderOperation, RecoveryDecision, UnleasedOperation},
    compensation::CompensationOutcome,
    lease::LeasePurpose,
    rejection::Rejection,
    saga::{Saga, State},
    text::Blob,
    transition::EarlierLease,
};

use super::{
    builders::*,
    test_store::{TestStore, refusal_of, saga_of, sagas_of, task_of},
};

on_every_backend! {
    every_change_can_be_repeated
    a_request_id_with_other_content_is_refused
    a_request_id_is_forgotten_after_an_hour
    refusals_are_not_stored
    empty_answers_are_not_stored
    a_claim_can_be_repeated_while_its_lease_is_live
    a_claim_of_several_can_be_repeated_while_their_leases_are_live
    a_repeat_shows_the_saga_in_its_present_state
    a_repeat_omits_purged_sagas
    a_request_id_does_not_cover_the_wait
    stored_answers_survive_reopening
    an_earlier_lease_is_searched_in_the_newest_events
    a_repeated_claim_omits_contents_that_no_longer_fit
    a_repeated_batch_omits_contents_that_no_longer_fit
}

/// The name of a change, and a function that prepares it.
type NamedChange = (&'static str, fn(&TestStore) -> Command);

/// Every change except heartbeats: each prepares the saga `a` and returns the command.
const CHANGES: &[NamedChange] = &[
    ("create", |_| create([creation("n")])),
    ("batch", |_| create([creation("n"), creation("m")])),
    ("dispatch", |_| dispatch("a", "w", TTL)),
    ("claim", |_| claim("a", "w")),
    ("claim to undo", |_| claim_undo("a", "w")),
    ("claim next", |_| next(&["q"], "w").command()),
    ("release", |b| release(&b.saga(claim("a", "w")), secs(1))),
    ("register", |b| register(&b.saga(claim("a", "w")), &["y", "z"])),
    ("complete", |b| complete(&b.saga(claim("a", "w")))),
    ("fail", |b| fail(&b.saga(claim("a", "w")), false)),
    ("record done", |b| record(&b.saga(claim_undo("a", "w")), 1, CompensationOutcome::Done)),
    ("record failed", |b| record(&b.saga(claim_undo("a", "w")), 1, CompensationOutcome::Failed)),
    ("waive", |b| {
        b.saga(claim_undo("a", "w"));
        waive("a", 1)
    }),
    ("compensate", |b| {
        let claimed = b.saga(claim_undo("a", "w"));
        b.saga(waive("a", 1));
        compensate(&claimed)
    }),
    ("quarantine", |_| quarantine("a")),
    ("recover", |b| {
        b.saga(claim("a", "w"));
        b.advance(TTL);
        recover("a", RecoveryDecision::Requeue)
    }),
    ("cancel", |_| cancel("a")),
    ("annotate", |_| annotate("a", "hm")),
];

fn situation(store: &TestStore, make: fn(&TestStore) -> Command) -> Command {
    store.sagas(create([undoable("a", &["x"])]));
    make(store)
}

fn every_change_can_be_repeated(store: TestStore) {
    for (name, make) in CHANGES {
        let store = store.fresh();
        let command = situation(&store, *make);
        let first = store.submit_as(1, command.clone());
        assert!(first.is_ok(), "{name}: {first:?}");
        let history = store.history();
        store.advance(secs(1));
        let again = store.submit_as(1, command.clone());
        assert_eq!(again, first, "{name}");
        assert_eq!(store.history(), history, "{name} was executed twice");
    }
}

fn a_request_id_with_other_content_is_refused(store: TestStore) {
    for (name, make) in CHANGES {
        let store = store.fresh();
        let command = situation(&store, *make);
        store.submit_as(1, command).unwrap();
        let history = store.history();
        let other = store.submit_as(1, annotate("a", "something else"));
        assert_eq!(refusal_of(other), Rejection::RequestIdReused, "{name}");
        assert_eq!(store.history(), history, "{name}");
        store.submit_as(2, annotate("a", "something else")).unwrap();
    }
}

fn a_request_id_is_forgotten_after_an_hour(store: TestStore) {
    store.sagas(create([creation("a")]));
    store.submit_as(1, annotate("a", "first")).unwrap();
    store.tick(us(3_599_999_999));
    assert_eq!(refusal_of(store.submit_as(1, annotate("a", "second"))), Rejection::RequestIdReused);
    store.tick(us(1));
    store.submit_as(1, annotate("a", "second")).unwrap();
    assert_eq!(store.history().len(), 3);
    // The new answer is stored from now on.
    assert_eq!(refusal_of(store.submit_as(1, annotate("a", "third"))), Rejection::RequestIdReused);
    store.advance(secs(3600));
    store.submit_as(1, annotate("a", "third")).unwrap();
}

fn refusals_are_not_stored(store: TestStore) {
    assert_eq!(refusal_of(store.submit_as(1, claim("a", "w"))), Rejection::SagaNotFound);
    store.sagas(create([creation("a")]));
    saga_of(store.submit_as(1, claim("a", "w")));
    assert!(matches!(refusal_of(store.submit_as(2, claim("a", "v"))), Rejection::LeaseHeld { .. }));
    saga_of(store.submit_as(2, annotate("a", "another content")));
}

fn empty_answers_are_not_stored(store: TestStore) {
    assert_eq!(sagas_of(store.submit_as(1, next(&["q"], "w"))), []);
    store.sagas(create([creation("a")]));
    assert_eq!(sagas_of(store.submit_as(1, next(&["q"], "w"))).len(), 1);
}

fn a_claim_can_be_repeated_while_its_lease_is_live(store: TestStore) {
    store.sagas(create(["a", "b", "c"].map(creation)));
    let a = saga_of(store.submit_as(1, claim("a", "w")));
    store.tick(us(TTL.micros() - 1));
    assert_eq!(saga_of(store.submit_as(1, claim("a", "w"))), a);
    store.tick(us(1));
    assert!(matches!(refusal_of(store.submit_as(1, claim("a", "w"))), Rejection::LeaseExpired { .. }));
    assert_eq!(store.history().len(), 5, "due changes were applied");
    store.saga(claim("a", "v"));
    assert_eq!(refusal_of(store.submit_as(1, claim("a", "w"))), Rejection::LeaseSuperseded);

    let b = saga_of(store.submit_as(2, claim("b", "w")));
    store.saga(complete(&b));
    assert_eq!(refusal_of(store.submit_as(2, claim("b", "w"))), Rejection::SagaTerminal);
    let c = saga_of(store.submit_as(3, claim("c", "w")));
    store.saga(release(&c, secs(0)));
    assert_eq!(refusal_of(store.submit_as(3, claim("c", "w"))), Rejection::NoLease);
}

fn a_claim_of_several_can_be_repeated_while_their_leases_are_live(store: TestStore) {
    store.sagas(create(["a", "b", "c", "d"].map(creation)));
    let all = sagad::domain::command::ClaimNext { max_sagas: 3, ..next(&["q"], "w") };
    let got = sagas_of(store.submit_as(1, all.clone()));
    assert_eq!(got.len(), 3);
    store.saga(release(&got[1], secs(0)));
    let again = sagas_of(store.submit_as(1, all.clone()));
    assert_eq!(again.iter().map(task_of).collect::<Vec<_>>(), ["a", "c"]);
    store.advance(TTL);
    assert_eq!(sagas_of(store.submit_as(1, all)), []);
    assert_eq!(store.get("d").unwrap().state, State::Planned);
}

fn a_repeat_shows_the_saga_in_its_present_state(store: TestStore) {
    let created = sagas_of(store.submit_as(1, create([creation("a")])));
    store.saga(claim_with("a", "w", LeasePurpose::Execute, secs(5)));
    let running = sagas_of(store.submit_as(1, create([creation("a")])));
    assert_ne!(running, created);
    store.tick(secs(5));
    let stale = sagas_of(store.submit_as(1, create([creation("a")])));
    assert!(stale[0].reported_stale().is_some(), "due changes were applied");
    assert_eq!(store.get("a").as_ref(), Some(&stale[0]));
}

fn a_repeat_omits_purged_sagas(store: TestStore) {
    sagas_of(store.submit_as(1, create(["a", "b"].map(creation))));
    saga_of(store.submit_as(2, claim("a", "w")));
    sagas_of(store.submit_as(3, next(&["q"], "w")));
    saga_of(store.submit_as(4, annotate("a", "note")));
    sagas_of(store.submit_as(5, create([creation("c")])));
    store.saga(quarantine("a"));
    store.saga(quarantine("c"));
    store.tick(us(1));
    assert_eq!(store.purged(purge(secs(0), 10)).sagas, 2);
    // A new saga with the same id is not the one in the stored answer.
    store.sagas(create([creation("a")]));
    let left = sagas_of(store.submit_as(1, create(["a", "b"].map(creation))));
    assert_eq!(left.iter().map(task_of).collect::<Vec<_>>(), ["b"]);
    assert_eq!(refusal_of(store.submit_as(5, create([creation("c")]))), Rejection::SagaNotFound);
    assert_eq!(refusal_of(store.submit_as(2, claim("a", "w"))), Rejection::SagaNotFound);
    assert_eq!(refusal_of(store.submit_as(4, annotate("a", "note"))), Rejection::SagaNotFound);
    assert_eq!(store.get("a").unwrap().attempt, 0);
}

fn a_request_id_does_not_cover_the_wait(store: TestStore) {
    store.sagas(create(["a", "b"].map(creation)));
    let first = sagas_of(store.submit_as(1, next(&["q"], "w")));
    assert_eq!(sagas_of(store.submit_as(1, waiting("w"))), first);
}

fn stored_answers_survive_reopening(store: TestStore) {
    store.sagas(create([undoable("a", &["x"])]));
    let claimed = saga_of(store.submit_as(1, claim_undo("a", "w")));
    let failed = record(&claimed, 1, CompensationOutcome::Failed);
    let recorded = saga_of(store.submit_as(2, failed.clone()));
    let store = store.reopened();
    assert_eq!(saga_of(store.submit_as(1, claim_undo("a", "w"))), recorded);
    assert_eq!(saga_of(store.submit_as(2, failed)), recorded);
    assert_eq!(recorded.compensations[0].attempts, 1);
    let other = free("a", UnleasedOperation::Quarantine { actor: actor("op"), reason: text("r"), revoke_lease: false });
    assert_eq!(refusal_of(store.submit_as(2, other)), Rejection::RequestIdReused);
}

fn full_blob(byte: u8) -> Blob {
    Blob::parse(vec![byte; 64 * 1024].into()).unwrap()
}

fn with_payload(id: String) -> Creation {
    Creation { payload: full_blob(1), ..creation(&id) }
}

/// For each saga: whether it has a payload, whether it has progress or a result, and whether contents were omitted.
fn shown(sagas: &[Saga]) -> Vec<(bool, bool, bool)> {
    let there = |blob: &Blob| !blob.bytes().is_empty();
    let outcome = |saga: &Saga| there(&saga.progress) || there(&saga.result);
    sagas.iter().map(|saga| (there(&saga.spec.payload), outcome(saga), saga.contents_omitted)).collect()
}

fn a_repeated_claim_omits_contents_that_no_longer_fit(store: TestStore) {
    store.sagas(create((0..40).map(|n| with_payload(format!("t{n}")))));
    let all = sagad::domain::command::ClaimNext { max_sagas: 40, ..next(&["q"], "w") };
    let got = sagas_of(store.submit_as(1, all.clone()));
    assert_eq!(shown(&got), vec![(true, false, false); 40]);
    let beat = |saga: &Saga| {
        store.tick(us(1));
        store.lease(held(saga, HolderOperation::Heartbeat { ttl: None, progress: Some(full_blob(2)) }));
    };
    // Everything fits: 46 of 64 KiB each.
    got[..6].iter().for_each(beat);
    let again = sagas_of(store.submit_as(1, all.clone()));
    assert_eq!(shown(&again), [vec![(true, true, false); 6], vec![(true, false, false); 34]].concat());
    assert_eq!(store.get("t0").as_ref(), Some(&again[0]));
    // With six more it does not: progress is omitted first.
    got[6..12].iter().for_each(beat);
    let again = sagas_of(store.submit_as(1, all.clone()));
    assert_eq!(shown(&again), [vec![(true, false, true); 12], vec![(true, false, false); 28]].concat());
    assert_eq!(again[0].spec, got[0].spec);
    // The stored sagas are unchanged.
    assert_eq!(shown(&[store.get("t0").unwrap()]), [(true, true, false)]);
    store.saga(complete(&again[0]));
    assert_eq!(shown(&[store.get("t0").unwrap()]), [(true, true, false)]);
    assert_eq!(sagas_of(store.submit_as(1, all)).len(), 39);
}

fn a_repeated_batch_omits_contents_that_no_longer_fit(store: TestStore) {
    let batch = || create((0..60).map(|n| with_payload(format!("t{n}"))));
    let created = sagas_of(store.submit_as(1, batch()));
    assert_eq!(shown(&created), vec![(true, false, false); 60]);
    // The payloads alone exceed an answer.
    let again = sagas_of(store.submit_as(1, batch()));
    assert_eq!(shown(&again), vec![(false, false, true); 60]);
    assert_eq!(again[7].spec.task_id, created[7].spec.task_id);
    // Due changes are applied and stored with all contents.
    store.saga(claim_with("t0", "w", LeasePurpose::Execute, secs(5)));
    store.tick(secs(5));
    let again = sagas_of(store.submit_as(1, batch()));
    assert!(again[0].reported_stale().is_some());
    assert_eq!(shown(&[store.get("t0").unwrap()]), [(true, false, false)]);
    assert_eq!(store.get("t0").unwrap().spec, created[0].spec);
}

fn an_earlier_lease_is_searched_in_the_newest_events(store: TestStore) {
    store.sagas(create([creation("a")]));
    let first = store.saga(claim("a", "w"));
    let released = release(&first, secs(0));
    store.saga(released.clone());
    store.saga(claim("a", "v"));
    for n in 0..EarlierLease::EVENTS_SEARCHED - 2 {
        store.saga(annotate("a", &n.to_string()));
    }
    let events = store.history().len();
    assert_eq!(store.saga(released.clone()).lease.unwrap().owner, owner("v"), "it is a repeat and changes nothing");
    assert_eq!(store.history().len(), events);
    store.saga(annotate("a", "one more"));
    assert_eq!(store.refusal(released), Rejection::LeaseSuperseded);
}
