//! New sagas: all or none, each id once; found by both of them.

use sagad::{
    domain::{
        ids::{FencingToken, SagaId},
        rejection::{CommandRefusal, Rejection},
        saga::State,
        text::{Blob, Text},
    },
    store::{SagaKey, StoreError},
};

use super::{bench::Bench, build::*};

on_every_backend! {
    m1_everything_said_is_kept
    m1_ids_are_unique
    m1_a_batch_is_all_or_none
    m3_one_of_many_gets_it
    m6_terminal_sagas_do_not_change
    revisions_and_tokens_only_grow
}

fn m1_everything_said_is_kept(bench: Bench) {
    let mut whole = undoable("t-1", &["branch", "worktree"]);
    whole.saga_id = SagaId::parse("s-1").unwrap();
    whole.issue = Some(-7);
    whole.priority = i32::MIN;
    whole.branch = text("fix/ä\u{1F980}");
    whole.worktree = text("/w/1");
    whole.labels = labels(&[("team", "a \"b\""), ("empty", "")]);
    whole.payload = Blob::parse((0..=255).collect::<Vec<u8>>().into()).unwrap();
    whole.retry_of = Some(task("t-0"));
    whole.policy.execution_timeout = Some(secs(9));
    whole.policy.progress_timeout = Some(us(1));
    whole.policy.settle = us(3);
    let created = bench.sagas(create([whole.clone()])).remove(0);
    assert_eq!(created.state, State::Planned);
    assert_eq!(
        created.compensations.iter().map(|c| &c.spec).collect::<Vec<_>>(),
        whole.compensations.iter().collect::<Vec<_>>()
    );
    assert_eq!(bench.get("t-1"), Some(created.clone()));
    let by_saga = bench.wait(bench.store.get(SagaKey::Saga(whole.saga_id.clone()))).unwrap();
    assert_eq!(by_saga, Some(created.clone()));
    assert_eq!(bench.get("s-1"), None, "a saga id is no task id");
    let spec = &created.spec;
    assert_eq!((&spec.labels, &spec.payload, &spec.policy), (&whole.labels, &whole.payload, &whole.policy));
    assert_eq!((spec.issue, spec.priority, &spec.retry_of), (whole.issue, whole.priority, &whole.retry_of));
    assert_eq!((&spec.branch, &spec.worktree, spec.create_time), (&whole.branch, &whole.worktree, bench.now()));
}

fn m1_ids_are_unique(bench: Bench) {
    let mut first = creation("a");
    first.saga_id = SagaId::parse("sa").unwrap();
    bench.sagas(create([first.clone()]));
    let before = bench.get("a");
    assert_eq!(bench.refusal(create([creation("a")])), Rejection::SagaExists { field: "task_id" });
    let mut second = creation("b");
    second.saga_id = first.saga_id.clone();
    assert_eq!(bench.refusal(create([second])), Rejection::SagaExists { field: "saga_id" });
    assert_eq!(bench.get("a"), before);
    assert_eq!(bench.get("b"), None);
    // A task id may be another saga's saga id: they are looked up apart.
    bench.sagas(create([creation("sa2")]));
    assert_eq!(bench.refusal(create([first])), Rejection::SagaExists { field: "task_id" });
}

fn m1_a_batch_is_all_or_none(bench: Bench) {
    bench.sagas(create([creation("b")]));
    let batch = [creation("a"), creation("b"), creation("c")];
    match bench.submit(create(batch)) {
        Err(StoreError::Refused(refusal)) => assert_eq!(
            *refusal,
            CommandRefusal {
                task_id: Some(task("b")),
                state: None,
                index: Some(1),
                why: Rejection::SagaExists { field: "task_id" }
            }
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!((bench.get("a"), bench.get("c")), (None, None));
    assert_eq!(bench.history().len(), 1);

    let many = bench.sagas(create((0..1000).map(|n| creation(&format!("m{n}")))));
    assert_eq!(many.len(), 1000);
    assert!(many.windows(2).all(|pair| pair[0].revision < pair[1].revision), "in the order asked for");
}

fn m3_one_of_many_gets_it(bench: Bench) {
    bench.sagas(create([creation("a")]));
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let store = bench.store.clone();
            let request =
                sagad::domain::command::Request { command: claim("a", &format!("w{n}")), key: None, by: None };
            bench.runtime.spawn(async move { store.submit(request).await })
        })
        .collect();
    let outcomes: Vec<_> = calls.into_iter().map(|call| bench.wait(call).unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in outcomes.into_iter().filter(Result::is_err) {
        assert!(matches!(super::bench::refusal_of(outcome), Rejection::LeaseHeld { .. }));
    }
    assert_eq!(bench.history().len(), 2);
    assert_eq!(bench.get("a").unwrap().attempt, 1);
}

fn m6_terminal_sagas_do_not_change(bench: Bench) {
    bench.sagas(create([undoable("a", &["x"])]));
    let claimed = bench.saga(claim("a", "w"));
    let ended = bench.saga(complete(&claimed));
    assert_eq!((ended.state, ended.terminal_reason.clone()), (State::Completed, Some(text("COMPLETED"))));
    bench.advance(secs(3600));
    for command in [
        claim("a", "w"),
        claim_undo("a", "w"),
        dispatch("a", "w", TTL),
        cancel("a"),
        park("a"),
        waive("a", 1),
        heartbeat(&claimed),
        release(&claimed, secs(0)),
        fail(&claimed, true),
        register(&claimed, &["y"]),
        recover("a", sagad::domain::command::RecoveryDecision::Requeue),
    ] {
        assert_eq!(bench.refusal(command), Rejection::SagaTerminal);
    }
    assert_eq!(bench.get("a"), Some(ended.clone()));
    // The one exception is audit metadata, and the history keeps what it amends.
    let amended = bench.saga(amend("a", "checked by hand"));
    assert_eq!(amended.terminal_reason, Some(text("checked by hand")));
    assert_eq!((amended.state, amended.end_time, &amended.result), (ended.state, ended.end_time, &ended.result));
    let note = bench.history().pop().unwrap();
    assert_eq!(note.details.get("previous_terminal_reason").map(String::as_str), Some("COMPLETED"));
    assert_eq!(note.details.get("ticket").map(String::as_str), Some("7"));
    assert_eq!(note.revision, amended.revision);
}

fn revisions_and_tokens_only_grow(bench: Bench) {
    bench.sagas(create([creation("a"), creation("b")]));
    let mut last = FencingToken(0);
    for round in 0..5 {
        for id in ["a", "b"] {
            let claimed = bench.saga(claim(id, "w"));
            let token = claimed.lease.as_ref().unwrap().token;
            assert!(token > last, "round {round}");
            assert_eq!(token.0, claimed.revision.0, "the token is the revision of its claimed event");
            last = token;
            bench.advance(us(10));
            let beat = bench.lease(heartbeat(&claimed));
            assert_eq!(beat.lease.expire_time, bench.now().plus(TTL));
            let after = bench.get(id).unwrap();
            assert_eq!((after.revision, after.update_time), (claimed.revision, claimed.update_time));
            bench.saga(held(
                &claimed,
                sagad::domain::command::HolderOperation::Release {
                    delay: secs(0),
                    reason: Text::default(),
                    progress: None,
                },
            ));
        }
    }
    let revisions: Vec<_> = bench.history().iter().map(|event| event.revision).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(revisions.len(), 22);
    bench.settle();
    assert_eq!(bench.store.event_feed().head(), *revisions.last().unwrap());
}
