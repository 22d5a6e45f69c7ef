//! Calls that are repeated under their `request_id`.

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
    bench::{Bench, refusal_of, saga_of, sagas_of, task_of},
    build::*,
};

on_every_backend! {
    every_change_can_be_repeated
    other_content_is_refused
    it_is_forgotten_after_an_hour
    refusals_are_not_kept
    empty_answers_are_not_kept
    a_claim_is_repeated_while_it_is_live
    claims_of_several_are_repeated_while_they_are_live
    a_repetition_shows_the_saga_as_it_is_now
    purged_sagas_are_left_out
    the_wait_is_not_content
    answers_survive_reopening
    an_earlier_lease_is_looked_for_among_the_newest_events
    what_does_not_fit_any_more_is_left_out_of_a_repeated_claim
    what_does_not_fit_any_more_is_left_out_of_a_repeated_batch
}

/// A change's name, and how its situation comes about.
type NamedChange = (&'static str, fn(&Bench) -> Command);

/// Every change but heartbeats: each makes a situation around the saga `a` and returns the command.
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
    ("quarantine", |_| park("a")),
    ("recover", |b| {
        b.saga(claim("a", "w"));
        b.advance(TTL);
        recover("a", RecoveryDecision::Requeue)
    }),
    ("cancel", |_| cancel("a")),
    ("annotate", |_| annotate("a", "hm")),
];

fn situation(bench: &Bench, make: fn(&Bench) -> Command) -> Command {
    bench.sagas(create([undoable("a", &["x"])]));
    make(bench)
}

fn every_change_can_be_repeated(bench: Bench) {
    for (name, make) in CHANGES {
        let bench = bench.fresh();
        let command = situation(&bench, *make);
        let first = bench.submit_as(1, command.clone());
        assert!(first.is_ok(), "{name}: {first:?}");
        let history = bench.history();
        bench.advance(secs(1));
        let again = bench.submit_as(1, command.clone());
        assert_eq!(again, first, "{name}");
        assert_eq!(bench.history(), history, "{name} happened twice");
    }
}

fn other_content_is_refused(bench: Bench) {
    for (name, make) in CHANGES {
        let bench = bench.fresh();
        let command = situation(&bench, *make);
        bench.submit_as(1, command).unwrap();
        let history = bench.history();
        let other = bench.submit_as(1, annotate("a", "something else"));
        assert_eq!(refusal_of(other), Rejection::RequestIdReused, "{name}");
        assert_eq!(bench.history(), history, "{name}");
        bench.submit_as(2, annotate("a", "something else")).unwrap();
    }
}

fn it_is_forgotten_after_an_hour(bench: Bench) {
    bench.sagas(create([creation("a")]));
    bench.submit_as(1, annotate("a", "first")).unwrap();
    bench.tick(us(3_599_999_999));
    assert_eq!(refusal_of(bench.submit_as(1, annotate("a", "second"))), Rejection::RequestIdReused);
    bench.tick(us(1));
    bench.submit_as(1, annotate("a", "second")).unwrap();
    assert_eq!(bench.history().len(), 3);
    // The new answer is kept from then on.
    assert_eq!(refusal_of(bench.submit_as(1, annotate("a", "third"))), Rejection::RequestIdReused);
    bench.advance(secs(3600));
    bench.submit_as(1, annotate("a", "third")).unwrap();
}

fn refusals_are_not_kept(bench: Bench) {
    assert_eq!(refusal_of(bench.submit_as(1, claim("a", "w"))), Rejection::SagaNotFound);
    bench.sagas(create([creation("a")]));
    saga_of(bench.submit_as(1, claim("a", "w")));
    assert!(matches!(refusal_of(bench.submit_as(2, claim("a", "v"))), Rejection::LeaseHeld { .. }));
    saga_of(bench.submit_as(2, annotate("a", "another content")));
}

fn empty_answers_are_not_kept(bench: Bench) {
    assert_eq!(sagas_of(bench.submit_as(1, next(&["q"], "w"))), []);
    bench.sagas(create([creation("a")]));
    assert_eq!(sagas_of(bench.submit_as(1, next(&["q"], "w"))).len(), 1);
}

fn a_claim_is_repeated_while_it_is_live(bench: Bench) {
    bench.sagas(create(["a", "b", "c"].map(creation)));
    let a = saga_of(bench.submit_as(1, claim("a", "w")));
    bench.tick(us(TTL.micros() - 1));
    assert_eq!(saga_of(bench.submit_as(1, claim("a", "w"))), a);
    bench.tick(us(1));
    assert!(matches!(refusal_of(bench.submit_as(1, claim("a", "w"))), Rejection::LeaseExpired { .. }));
    assert_eq!(bench.history().len(), 5, "what was due was done");
    bench.saga(claim("a", "v"));
    assert_eq!(refusal_of(bench.submit_as(1, claim("a", "w"))), Rejection::LeaseSuperseded);

    let b = saga_of(bench.submit_as(2, claim("b", "w")));
    bench.saga(complete(&b));
    assert_eq!(refusal_of(bench.submit_as(2, claim("b", "w"))), Rejection::SagaTerminal);
    let c = saga_of(bench.submit_as(3, claim("c", "w")));
    bench.saga(release(&c, secs(0)));
    assert_eq!(refusal_of(bench.submit_as(3, claim("c", "w"))), Rejection::NoLease);
}

fn claims_of_several_are_repeated_while_they_are_live(bench: Bench) {
    bench.sagas(create(["a", "b", "c", "d"].map(creation)));
    let all = sagad::domain::command::ClaimNext { max_sagas: 3, ..next(&["q"], "w") };
    let got = sagas_of(bench.submit_as(1, all.clone()));
    assert_eq!(got.len(), 3);
    bench.saga(release(&got[1], secs(0)));
    let again = sagas_of(bench.submit_as(1, all.clone()));
    assert_eq!(again.iter().map(task_of).collect::<Vec<_>>(), ["a", "c"]);
    bench.advance(TTL);
    assert_eq!(sagas_of(bench.submit_as(1, all)), []);
    assert_eq!(bench.get("d").unwrap().state, State::Planned);
}

fn a_repetition_shows_the_saga_as_it_is_now(bench: Bench) {
    let created = sagas_of(bench.submit_as(1, create([creation("a")])));
    bench.saga(claim_with("a", "w", LeasePurpose::Execute, secs(5)));
    let running = sagas_of(bench.submit_as(1, create([creation("a")])));
    assert_ne!(running, created);
    bench.tick(secs(5));
    let stale = sagas_of(bench.submit_as(1, create([creation("a")])));
    assert!(stale[0].reported_stale().is_some(), "what was due was done");
    assert_eq!(bench.get("a").as_ref(), Some(&stale[0]));
}

fn purged_sagas_are_left_out(bench: Bench) {
    sagas_of(bench.submit_as(1, create(["a", "b"].map(creation))));
    saga_of(bench.submit_as(2, claim("a", "w")));
    sagas_of(bench.submit_as(3, next(&["q"], "w")));
    saga_of(bench.submit_as(4, annotate("a", "note")));
    sagas_of(bench.submit_as(5, create([creation("c")])));
    bench.saga(park("a"));
    bench.saga(park("c"));
    bench.tick(us(1));
    assert_eq!(bench.purged(purge(secs(0), 10)).sagas, 2);
    // Another saga may have its id by now: it is not the one that was answered with.
    bench.sagas(create([creation("a")]));
    let left = sagas_of(bench.submit_as(1, create(["a", "b"].map(creation))));
    assert_eq!(left.iter().map(task_of).collect::<Vec<_>>(), ["b"]);
    assert_eq!(refusal_of(bench.submit_as(5, create([creation("c")]))), Rejection::SagaNotFound);
    assert_eq!(refusal_of(bench.submit_as(2, claim("a", "w"))), Rejection::SagaNotFound);
    assert_eq!(refusal_of(bench.submit_as(4, annotate("a", "note"))), Rejection::SagaNotFound);
    assert_eq!(bench.get("a").unwrap().attempt, 0);
}

fn the_wait_is_not_content(bench: Bench) {
    bench.sagas(create(["a", "b"].map(creation)));
    let first = sagas_of(bench.submit_as(1, next(&["q"], "w")));
    assert_eq!(sagas_of(bench.submit_as(1, waiting("w"))), first);
}

fn answers_survive_reopening(bench: Bench) {
    bench.sagas(create([undoable("a", &["x"])]));
    let claimed = saga_of(bench.submit_as(1, claim_undo("a", "w")));
    let failed = record(&claimed, 1, CompensationOutcome::Failed);
    let recorded = saga_of(bench.submit_as(2, failed.clone()));
    let bench = bench.reopened();
    assert_eq!(saga_of(bench.submit_as(1, claim_undo("a", "w"))), recorded);
    assert_eq!(saga_of(bench.submit_as(2, failed)), recorded);
    assert_eq!(recorded.compensations[0].attempts, 1);
    let other = free("a", UnleasedOperation::Quarantine { actor: actor("op"), reason: text("r"), revoke_lease: false });
    assert_eq!(refusal_of(bench.submit_as(2, other)), Rejection::RequestIdReused);
}

fn full_blob(byte: u8) -> Blob {
    Blob::parse(vec![byte; 64 * 1024].into()).unwrap()
}

fn with_payload(id: String) -> Creation {
    Creation { payload: full_blob(1), ..creation(&id) }
}

/// Of each saga: whether payload, and progress or result, are there, and whether it says that something was left out.
fn shown(sagas: &[Saga]) -> Vec<(bool, bool, bool)> {
    let there = |blob: &Blob| !blob.bytes().is_empty();
    let outcome = |saga: &Saga| there(&saga.progress) || there(&saga.result);
    sagas.iter().map(|saga| (there(&saga.spec.payload), outcome(saga), saga.contents_omitted)).collect()
}

fn what_does_not_fit_any_more_is_left_out_of_a_repeated_claim(bench: Bench) {
    bench.sagas(create((0..40).map(|n| with_payload(format!("t{n}")))));
    let all = sagad::domain::command::ClaimNext { max_sagas: 40, ..next(&["q"], "w") };
    let got = sagas_of(bench.submit_as(1, all.clone()));
    assert_eq!(shown(&got), vec![(true, false, false); 40]);
    let beat = |saga: &Saga| {
        bench.tick(us(1));
        bench.lease(held(saga, HolderOperation::Heartbeat { ttl: None, progress: Some(full_blob(2)) }));
    };
    // All of it fits: 46 of 64 KiB each.
    got[..6].iter().for_each(beat);
    let again = sagas_of(bench.submit_as(1, all.clone()));
    assert_eq!(shown(&again), [vec![(true, true, false); 6], vec![(true, false, false); 34]].concat());
    assert_eq!(bench.get("t0").as_ref(), Some(&again[0]));
    // With six more it does not: first the progress goes.
    got[6..12].iter().for_each(beat);
    let again = sagas_of(bench.submit_as(1, all.clone()));
    assert_eq!(shown(&again), [vec![(true, false, true); 12], vec![(true, false, false); 28]].concat());
    assert_eq!(again[0].spec, got[0].spec);
    // Nothing of that is stored.
    assert_eq!(shown(&[bench.get("t0").unwrap()]), [(true, true, false)]);
    bench.saga(complete(&again[0]));
    assert_eq!(shown(&[bench.get("t0").unwrap()]), [(true, true, false)]);
    assert_eq!(sagas_of(bench.submit_as(1, all)).len(), 39);
}

fn what_does_not_fit_any_more_is_left_out_of_a_repeated_batch(bench: Bench) {
    let batch = || create((0..60).map(|n| with_payload(format!("t{n}"))));
    let created = sagas_of(bench.submit_as(1, batch()));
    assert_eq!(shown(&created), vec![(true, false, false); 60]);
    // The payloads alone are more than an answer holds.
    let again = sagas_of(bench.submit_as(1, batch()));
    assert_eq!(shown(&again), vec![(false, false, true); 60]);
    assert_eq!(again[7].spec.task_id, created[7].spec.task_id);
    // What falls due is done, and stored whole.
    bench.saga(claim_with("t0", "w", LeasePurpose::Execute, secs(5)));
    bench.tick(secs(5));
    let again = sagas_of(bench.submit_as(1, batch()));
    assert!(again[0].reported_stale().is_some());
    assert_eq!(shown(&[bench.get("t0").unwrap()]), [(true, false, false)]);
    assert_eq!(bench.get("t0").unwrap().spec, created[0].spec);
}

fn an_earlier_lease_is_looked_for_among_the_newest_events(bench: Bench) {
    bench.sagas(create([creation("a")]));
    let first = bench.saga(claim("a", "w"));
    let released = release(&first, secs(0));
    bench.saga(released.clone());
    bench.saga(claim("a", "v"));
    for n in 0..EarlierLease::EVENTS_SEARCHED - 2 {
        bench.saga(annotate("a", &n.to_string()));
    }
    let events = bench.history().len();
    assert_eq!(bench.saga(released.clone()).lease.unwrap().owner, owner("v"), "it is repeated, and changes nothing");
    assert_eq!(bench.history().len(), events);
    bench.saga(annotate("a", "one more"));
    assert_eq!(bench.refusal(released), Rejection::LeaseSuperseded);
}
