//! Due is done: no outcome depends on whether a sweep has been there.

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
    bench::{Bench, Setup},
    build::*,
};

on_every_backend! {
    a_sweep_at_the_same_instant_changes_nothing
    an_earlier_sweep_changes_no_outcome
    what_was_queued_before_the_end_counts_before_it
    p6_an_absence_gives_grace
}

/// Its name, and how it comes about.
type Situation = (&'static str, fn(&Bench) -> Saga);

/// Situations in which something falls due after 30 s; each leaves the saga `a`, as it was last.
const SITUATIONS: &[Situation] = &[
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

fn running(bench: &Bench, policy: Policy) -> Saga {
    let mut saga = undoable("a", &["x"]);
    saga.policy = policy;
    bench.sagas(create([saga]));
    bench.saga(claim("a", "w"))
}

/// Everything that can be asked about it; what is asked under a lease, under the last one that it had.
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

/// At least as many commands as there are.
const COMMANDS: usize = 32;

/// What an outcome amounts to, whatever the times in it.
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

fn a_sweep_at_the_same_instant_changes_nothing(bench: Bench) {
    let mut turn = 0;
    for (name, situate) in SITUATIONS {
        for after in [TTL, secs(31), secs(7200)] {
            for n in 0..COMMANDS {
                turn += 1;
                if turn % bench.thinned_by() != 0 {
                    continue;
                }
                let (swept, unswept) = (bench.fresh(), bench.fresh());
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

fn an_earlier_sweep_changes_no_outcome(bench: Bench) {
    let mut turn = 0;
    for (name, situate) in SITUATIONS {
        for n in 0..COMMANDS {
            turn += 1;
            if turn % bench.thinned_by() != 0 {
                continue;
            }
            let (swept, unswept) = (bench.fresh(), bench.fresh());
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

fn what_was_queued_before_the_end_counts_before_it(bench: Bench) {
    bench.sagas(create([creation("a"), creation("b")]));
    let a = bench.saga(claim("a", "w"));
    let b = bench.saga(claim("b", "w"));
    bench.tick(us(TTL.micros() - 1));
    // Neither has been taken up when the clock passes the leases' end; both arrived before it.
    let beat = bench.hold_unsettled(heartbeat(&a));
    let release = bench.hold_unsettled(release(&b, Span::ZERO));
    bench.advance(us(1));
    assert!(beat.answer().is_ok());
    assert!(release.answer().is_ok());
    assert_eq!(bench.get("a").unwrap().expirations, 0);
    assert_eq!(bench.get("b").unwrap().state, State::Planned);
}

fn p6_an_absence_gives_grace(bench: Bench) {
    let bench = bench.reopened_with(Setup { restart_grace: secs(10), ..Setup::default() });
    bench.sagas(create([creation("a"), creation("b")]));
    bench.sagas(create([undoable("c", &["x"])]));
    let a = bench.saga(claim("a", "w"));
    bench.saga(claim("b", "w"));
    bench.saga(claim_with("c", "w", LeasePurpose::Compensate, secs(1)));
    bench.advance(TTL);
    // Nobody could heartbeat: every lease gets its grace, and is refused to others meanwhile.
    for (id, expirations) in [("a", 0), ("b", 0)] {
        assert!(matches!(bench.refusal(claim(id, "v")), sagad::domain::rejection::Rejection::LeaseHeld { .. }));
        assert_eq!(bench.get(id).unwrap().expirations, expirations);
    }
    assert_eq!(bench.get("a").unwrap().lease.unwrap().expire_time, a.lease.as_ref().unwrap().expire_time);
    bench.lease(heartbeat(&a));
    // In steps that are no absence.
    for _ in 0..10 {
        bench.advance(us(999_999));
    }
    assert!(bench.get("b").unwrap().reported_stale().is_none());
    bench.advance(us(10));
    assert!(bench.get("a").unwrap().reported_stale().is_none());
    assert!(bench.get("b").unwrap().reported_stale().is_some());
    assert!(bench.get("c").unwrap().reported_stale().is_some());
}
