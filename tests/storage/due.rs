//! Due changes: no outcome depends on whether a sweep ran before.

use sagad::{
    domain::{
        command::{Answer, Command, RecoveryDecision},
        compensation::CompensationOutcome,
        lease::LeasePurpose,
        policy::{FailureAction, Policy, StaleAction},
        saga::{Saga, State},
        time::Span,
    },
    store::StoreError,
};

use super::{
    builders::*,
    test_store::{StoreSetup, TestStore},
};

on_every_backend! {
    a_sweep_at_the_time_of_a_command_changes_no_outcome
    an_earlier_sweep_changes_no_outcome
    a_command_queued_before_the_expiry_counts_as_before_it
    p6_an_absence_gives_grace
}

/// A name, and a function that makes the situation.
type NamedSituation = (&'static str, fn(&TestStore) -> Saga);

/// Situations of the saga `a` in which something is due after 30 s.
const SITUATIONS: &[NamedSituation] = &[
    ("delayed", |b| {
        let mut late = undoable("a", &["x"]);
        late.delay = TTL;
        b.sagas(create([late])).remove(0)
    }),
    ("reserved", |b| {
        b.sagas(create([undoable("a", &["x"])]));
        b.saga(dispatch("a", "w", TTL))
    }),
    ("hold", |b| running(b, Policy::default())),
    ("requeue", |b| running(b, Policy { on_stale: StaleAction::Requeue, ..Policy::default() })),
    ("requeue once", |b| {
        running(b, Policy { on_stale: StaleAction::Requeue, max_expirations: 1, settle: secs(60), ..Policy::default() })
    }),
    ("compensate", |b| running(b, Policy { on_stale: StaleAction::Compensate, ..Policy::default() })),
    ("quarantine", |b| running(b, Policy { on_stale: StaleAction::Quarantine, ..Policy::default() })),
    ("cancelled", |b| {
        let saga = running(b, Policy::default());
        let operation = sagad::domain::command::UnleasedOperation::RequestCancel {
            actor: actor("op"),
            reason: text("no"),
            revoke_lease: false,
        };
        b.saga(free("a", operation));
        saga
    }),
    ("retried", |b| {
        let policy =
            Policy { max_attempts: 3, retry_backoff: TTL, on_failure: FailureAction::Fail, ..Policy::default() };
        let saga = running(b, policy);
        b.saga(fail(&saga, true));
        saga
    }),
    ("undoing", |b| {
        b.sagas(create([undoable("a", &["x", "y"])]));
        b.saga(claim_undo("a", "w"))
    }),
    ("undoing, given back", |b| {
        b.sagas(create([undoable("a", &["x", "y"])]));
        let saga = b.saga(claim_undo("a", "w"));
        b.saga(release(&saga, TTL));
        saga
    }),
    ("given up", |b| {
        let mut saga = undoable("a", &["x", "y"]);
        saga.policy.compensation_timeout = TTL;
        b.sagas(create([saga]));
        let saga = b.saga(claim_undo("a", "w"));
        b.saga(release(&saga, secs(0)));
        saga
    }),
];

fn running(store: &TestStore, policy: Policy) -> Saga {
    let mut saga = undoable("a", &["x"]);
    saga.policy = policy;
    store.sagas(create([saga]));
    store.saga(claim("a", "w"))
}

/// All commands for a saga, those under a lease by its last holder.
fn commands(saga: &Saga) -> Vec<Command> {
    let mut all = vec![
        claim("a", "w"),
        claim("a", "v"),
        claim_undo("a", "v"),
        dispatch("a", "v", TTL),
        cancel("a"),
        free(
            "a",
            sagad::domain::command::UnleasedOperation::Quarantine {
                actor: actor("op"),
                reason: text("odd"),
                revoke_lease: false,
            },
        ),
        waive("a", 1),
        annotate("a", "note"),
        recover("a", RecoveryDecision::Requeue),
        recover("a", RecoveryDecision::Compensate),
        next(&["q"], "w").command(),
        next(&["q"], "v").command(),
        next_undo("v", &[]).command(),
        next_undo("v", &["x"]).command(),
    ];
    if saga.lease.is_some() {
        all.extend([
            heartbeat(saga),
            release(saga, secs(1)),
            register(saga, &["z"]),
            complete(saga),
            fail(saga, false),
            fail(saga, true),
            record(saga, 1, CompensationOutcome::Done),
            record(saga, 2, CompensationOutcome::Failed),
            compensate(saga),
        ]);
    }
    all
}

/// An upper bound of the number of commands.
const COMMANDS: usize = 32;

/// An outcome without its times.
fn gist(outcome: &Result<Answer, StoreError>) -> String {
    match outcome {
        Ok(Answer::Sagas(sagas)) => format!("{} sagas", sagas.len()),
        Ok(_) => "accepted".to_owned(),
        Err(StoreError::Refused(refusal)) => format!("{:?}", refusal.why).split([' ', '(']).next().unwrap().to_owned(),
        Err(other) => format!("{other:?}"),
    }
}

fn shape(saga: &Saga) -> (State, u32, u32, u32, Option<bool>, Vec<bool>) {
    let live = saga.lease.as_ref().map(|lease| lease.standing == sagad::domain::lease::Standing::Held);
    let settled = saga.compensations.iter().map(|compensation| compensation.is_settled()).collect();
    (saga.state, saga.attempt, saga.expirations, saga.failures, live, settled)
}

fn a_sweep_at_the_time_of_a_command_changes_no_outcome(store: TestStore) {
    let mut turn = 0;
    for (name, situate) in SITUATIONS {
        for after in [TTL, secs(31), secs(7200)] {
            for n in 0..COMMANDS {
                turn += 1;
                if turn % store.thinned_by() != 0 {
                    continue;
                }
                let (swept, unswept) = (store.fresh(), store.fresh());
                let saga = situate(&unswept);
                assert_eq!(situate(&swept), saga);
                let Some(command) = commands(&saga).into_iter().nth(n) else { break };
                unswept.tick(after);
                swept.advance(after);
                let context = format!("{name}, {after} later: {command:?}");
                assert_eq!(unswept.submit(command.clone()), swept.submit(command), "{context}");
                unswept.settle();
                assert_eq!(unswept.get("a"), swept.get("a"), "{context}");
                assert_eq!(unswept.history(), swept.history(), "{context}");
            }
        }
    }
}

fn an_earlier_sweep_changes_no_outcome(store: TestStore) {
    let mut turn = 0;
    for (name, situate) in SITUATIONS {
        for n in 0..COMMANDS {
            turn += 1;
            if turn % store.thinned_by() != 0 {
                continue;
            }
            let (swept, unswept) = (store.fresh(), store.fresh());
            let saga = situate(&unswept);
            situate(&swept);
            let Some(command) = commands(&saga).into_iter().nth(n) else { break };
            swept.advance(TTL);
            for each in [&swept, &unswept] {
                each.tick(secs(1));
            }
            unswept.tick(TTL);
            let context = format!("{name}: {command:?}");
            assert_eq!(gist(&unswept.submit(command.clone())), gist(&swept.submit(command)), "{context}");
            assert_eq!(shape(&unswept.get("a").unwrap()), shape(&swept.get("a").unwrap()), "{context}");
        }
    }
}

fn a_command_queued_before_the_expiry_counts_as_before_it(store: TestStore) {
    store.sagas(create([creation("a"), creation("b")]));
    let a = store.saga(claim("a", "w"));
    let b = store.saga(claim("b", "w"));
    store.tick(us(TTL.micros() - 1));
    // The clock passes the expiry before the writer takes either command; both arrived before the expiry.
    let beat = store.hold_unsettled(heartbeat(&a));
    let release = store.hold_unsettled(release(&b, Span::ZERO));
    store.advance(us(1));
    assert!(beat.answer().is_ok());
    assert!(release.answer().is_ok());
    assert_eq!(store.get("a").unwrap().expirations, 0);
    assert_eq!(store.get("b").unwrap().state, State::Planned);
}

fn p6_an_absence_gives_grace(store: TestStore) {
    let store = store.reopened_with(StoreSetup { restart_grace: secs(10), ..StoreSetup::default() });
    store.sagas(create([creation("a"), creation("b")]));
    store.sagas(create([undoable("c", &["x"])]));
    let a = store.saga(claim("a", "w"));
    store.saga(claim("b", "w"));
    store.saga(claim_with("c", "w", LeasePurpose::Compensate, secs(1)));
    store.advance(TTL);
    // No heartbeat was possible, so every lease gets the grace, and claims by others are refused.
    for (id, expirations) in [("a", 0), ("b", 0)] {
        assert!(matches!(store.refusal(claim(id, "v")), sagad::domain::rejection::Rejection::LeaseHeld { .. }));
        assert_eq!(store.get(id).unwrap().expirations, expirations);
    }
    assert_eq!(store.get("a").unwrap().lease.unwrap().expire_time, a.lease.as_ref().unwrap().expire_time);
    store.lease(heartbeat(&a));
    // In steps too short to count as an absence.
    for _ in 0..10 {
        store.advance(us(999_999));
    }
    assert!(store.get("b").unwrap().reported_stale().is_none());
    store.advance(us(10));
    assert!(store.get("a").unwrap().reported_stale().is_none());
    assert!(store.get("b").unwrap().reported_stale().is_some());
    assert!(store.get("c").unwrap().reported_stale().is_some());
}
