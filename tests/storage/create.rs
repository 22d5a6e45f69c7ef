//! Creations: a batch is all or none, and ids are unique.

use sagad::{
    domain::{
        ids::{FencingToken, SagaId},
        rejection::{CommandRefusal, Rejection},
        saga::State,
        text::{Blob, Text},
    },
    store::{SagaKey, StoreError},
};

use super::{builders::*, test_store::TestStore};

on_every_backend! {
    m1_every_field_of_a_creation_is_stored
    m1_ids_are_unique
    m1_a_batch_is_all_or_none
    m3_one_of_many_claims_succeeds
    m6_terminal_sagas_do_not_change
    revisions_and_tokens_only_grow
}

fn m1_every_field_of_a_creation_is_stored(store: TestStore) {
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
    let created = store.sagas(create([whole.clone()])).remove(0);
    assert_eq!(created.state, State::Planned);
    assert_eq!(
        created.compensations.iter().map(|c| &c.spec).collect::<Vec<_>>(),
        whole.compensations.iter().collect::<Vec<_>>()
    );
    assert_eq!(store.get("t-1"), Some(created.clone()));
    let by_saga = store.wait(store.handle.get(SagaKey::Saga(whole.saga_id.clone()))).unwrap();
    assert_eq!(by_saga, Some(created.clone()));
    assert_eq!(store.get("s-1"), None, "a saga id is no task id");
    let spec = &created.spec;
    assert_eq!((&spec.labels, &spec.payload, &spec.policy), (&whole.labels, &whole.payload, &whole.policy));
    assert_eq!((spec.issue, spec.priority, &spec.retry_of), (whole.issue, whole.priority, &whole.retry_of));
    assert_eq!((&spec.branch, &spec.worktree, spec.create_time), (&whole.branch, &whole.worktree, store.now()));
}

fn m1_ids_are_unique(store: TestStore) {
    let mut first = creation("a");
    first.saga_id = SagaId::parse("sa").unwrap();
    store.sagas(create([first.clone()]));
    let before = store.get("a");
    assert_eq!(store.refusal(create([creation("a")])), Rejection::SagaExists { field: "task_id" });
    let mut second = creation("b");
    second.saga_id = first.saga_id.clone();
    assert_eq!(store.refusal(create([second])), Rejection::SagaExists { field: "saga_id" });
    assert_eq!(store.get("a"), before);
    assert_eq!(store.get("b"), None);
    // A task id may equal another saga's saga id.
    store.sagas(create([creation("sa2")]));
    assert_eq!(store.refusal(create([first])), Rejection::SagaExists { field: "task_id" });
}

fn m1_a_batch_is_all_or_none(store: TestStore) {
    store.sagas(create([creation("b")]));
    let batch = [creation("a"), creation("b"), creation("c")];
    match store.submit(create(batch)) {
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
    assert_eq!((store.get("a"), store.get("c")), (None, None));
    assert_eq!(store.history().len(), 1);

    let many = store.sagas(create((0..1000).map(|n| creation(&format!("m{n}")))));
    assert_eq!(many.len(), 1000);
    assert!(many.windows(2).all(|pair| pair[0].revision < pair[1].revision), "in the order of the request");
}

fn m3_one_of_many_claims_succeeds(store: TestStore) {
    store.sagas(create([creation("a")]));
    let calls: Vec<_> = (0..50)
        .map(|n| {
            let handle = store.handle.clone();
            let request =
                sagad::domain::command::Request { command: claim("a", &format!("w{n}")), key: None, by: None };
            store.runtime.spawn(async move { handle.submit(request).await })
        })
        .collect();
    let outcomes: Vec<_> = calls.into_iter().map(|call| store.wait(call).unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in outcomes.into_iter().filter(Result::is_err) {
        assert!(matches!(super::test_store::refusal_of(outcome), Rejection::LeaseHeld { .. }));
    }
    assert_eq!(store.history().len(), 2);
    assert_eq!(store.get("a").unwrap().attempt, 1);
}

fn m6_terminal_sagas_do_not_change(store: TestStore) {
    store.sagas(create([undoable("a", &["x"])]));
    let claimed = store.saga(claim("a", "w"));
    let ended = store.saga(complete(&claimed));
    assert_eq!((ended.state, ended.terminal_reason.clone()), (State::Completed, Some(text("COMPLETED"))));
    store.advance(secs(3600));
    for command in [
        claim("a", "w"),
        claim_undo("a", "w"),
        dispatch("a", "w", TTL),
        cancel("a"),
        quarantine("a"),
        waive("a", 1),
        heartbeat(&claimed),
        release(&claimed, secs(0)),
        fail(&claimed, true),
        register(&claimed, &["y"]),
        recover("a", sagad::domain::command::RecoveryDecision::Requeue),
    ] {
        assert_eq!(store.refusal(command), Rejection::SagaTerminal);
    }
    assert_eq!(store.get("a"), Some(ended.clone()));
    // The exception is audit metadata; the history keeps the old reason.
    let amended = store.saga(amend("a", "checked by hand"));
    assert_eq!(amended.terminal_reason, Some(text("checked by hand")));
    assert_eq!((amended.state, amended.end_time, &amended.result), (ended.state, ended.end_time, &ended.result));
    let note = store.history().pop().unwrap();
    assert_eq!(note.details.get("previous_terminal_reason").map(String::as_str), Some("COMPLETED"));
    assert_eq!(note.details.get("ticket").map(String::as_str), Some("7"));
    assert_eq!(note.revision, amended.revision);
}

fn revisions_and_tokens_only_grow(store: TestStore) {
    store.sagas(create([creation("a"), creation("b")]));
    let mut last = FencingToken(0);
    for round in 0..5 {
        for id in ["a", "b"] {
            let claimed = store.saga(claim(id, "w"));
            let token = claimed.lease.as_ref().unwrap().token;
            assert!(token > last, "round {round}");
            assert_eq!(token.0, claimed.revision.0, "the token is the revision of its claimed event");
            last = token;
            store.advance(us(10));
            let beat = store.lease(heartbeat(&claimed));
            assert_eq!(beat.lease.expire_time, store.now().plus(TTL));
            let after = store.get(id).unwrap();
            assert_eq!((after.revision, after.update_time), (claimed.revision, claimed.update_time));
            store.saga(held(
                &claimed,
                sagad::domain::command::HolderOperation::Release {
                    delay: secs(0),
                    reason: Text::default(),
                    progress: None,
                },
            ));
        }
    }
    let revisions: Vec<_> = store.history().iter().map(|event| event.revision).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(revisions.len(), 22);
    store.settle();
    assert_eq!(store.handle.event_feed().head(), *revisions.last().unwrap());
}
