//! Errors about requests, and about sagas in another state than the call needs.

use sagad::proto::*;

use crate::support::*;

pub async fn invalid_argument() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let request = CreateSagaRequest {
        task_id: "../up".into(),
        queue: "a b".into(),
        worktree: "w".repeat(4097),
        payload: vec![0; (64 << 10) + 1].into(),
        compensations: vec![compensation("a"), compensation("b"), CompensationSpec::default()],
        policy: Some(Policy { max_attempts: -1, progress_timeout: secs(31 * 24 * 3600), ..Default::default() }),
        delay: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        labels: [("k".repeat(64), String::new())].into(),
        request_id: "no uuid".into(),
        ..create("t")
    };
    let problem = api.create_saga(request).await.refused();
    let long_label = format!("labels[{}]", "k".repeat(64));
    let mut expected = vec![
        "request_id",
        "task_id",
        "queue",
        "worktree",
        "payload",
        "compensations[2].kind",
        "policy.max_attempts",
        "policy.progress_timeout",
        "delay",
    ];
    expected.push(&long_label);
    expected.sort_unstable();
    let mut fields = problem.fields.clone();
    fields.sort_unstable();
    assert_eq!(fields, expected, "all violations at once");
    assert_eq!(api.find("t").await.unwrap(), None);
    problem
}

pub async fn saga_not_found() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let nobody = Key { task_id: "nobody".into(), owner_id: "w".into(), fencing_token: 1 };
    assert_eq!(api.heartbeat(nobody.heartbeat()).await.reason(), "SAGA_NOT_FOUND");
    let events = ListEventsRequest { task_id: "nobody".into(), ..Default::default() };
    assert_eq!(api.list_events(events).await.reason(), "SAGA_NOT_FOUND");
    let get = GetSagaRequest { saga_id: "nobody".into(), ..Default::default() };
    assert_eq!(api.sagas.clone().get_saga(get).await.reason(), "SAGA_NOT_FOUND");
    let problem = api.claim(claim("nobody", "w", 1000)).await.refused();
    assert_eq!(problem.fact("task_id"), "nobody");
    problem
}

/// A saga under a lease for compensation.
async fn undoing(api: &Api, kinds: &[&str]) -> Key {
    api.create_saga(held("t", kinds)).await.unwrap();
    let purpose = LeasePurpose::Compensate.into();
    key(&api.claim(ClaimRequest { purpose, ..claim("t", "u", 60_000) }).await.unwrap())
}

pub async fn compensation_not_found() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let key = undoing(&api, &["a"]).await;
    let problem = api.record_compensation(key.record(2, CompensationOutcome::Done)).await.refused();
    assert_eq!((problem.fact("position"), problem.fact("task_id")), ("2", "t"));
    let waive = WaiveCompensationRequest {
        task_id: "t".into(),
        position: 128,
        actor: "ada".into(),
        reason: "why".into(),
        ..Default::default()
    };
    assert_eq!(api.waive_compensation(waive).await.reason(), "COMPENSATION_NOT_FOUND");
    problem
}

pub async fn queue_not_found() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let mut admin = api.admin.clone();
    let pause = |queue: &str| PauseQueueRequest {
        queue: queue.into(),
        actor: "ada".into(),
        must_exist: true,
        ..Default::default()
    };
    let problem = admin.pause_queue(pause("biulds")).await.refused();
    assert_eq!(problem.fact("queue"), "biulds");
    let resume =
        ResumeQueueRequest { queue: "biulds".into(), actor: "ada".into(), must_exist: true, ..Default::default() };
    assert_eq!(admin.resume_queue(resume).await.reason(), "QUEUE_NOT_FOUND");
    let listed = admin.list_queues(ListQueuesRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.queues, [], "a refused call creates no queue");

    // A queue exists once it has had a saga, and once it was paused.
    api.create_saga(CreateSagaRequest { queue: "builds".into(), ..create("t") }).await.unwrap();
    assert!(admin.pause_queue(pause("builds")).await.unwrap().into_inner().queue.unwrap().paused);
    admin.pause_queue(PauseQueueRequest { must_exist: false, ..pause("later") }).await.unwrap();
    admin.pause_queue(pause("later")).await.unwrap();
    problem
}

pub async fn saga_exists() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let problem = api.create_saga(CreateSagaRequest { saga_id: "t".into(), ..create("u") }).await.refused();
    assert_eq!((problem.fact("field"), problem.fact("task_id")), ("saga_id", "u"));
    assert!(!problem.metadata.contains_key("index"), "only a batch has an index");
    problem
}

pub async fn request_id_reused() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let with_id = |task_id: &str| CreateSagaRequest { request_id: named("create"), ..create(task_id) };
    api.create_saga(with_id("t")).await.unwrap();
    let problem = api.create_saga(with_id("u")).await.refused();
    assert_eq!(api.find("u").await.unwrap(), None);
    // Another rpc counts as other content.
    let claim = ClaimRequest { request_id: named("create"), ..claim("t", "w", 1000) };
    assert_eq!(api.claim(claim).await.reason(), "REQUEST_ID_REUSED");
    assert_eq!(problem.fact("field"), "request_id");
    problem
}

pub async fn saga_terminal() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    api.complete(key(&saga).complete()).await.unwrap();
    let problem = api.heartbeat(key(&saga).heartbeat()).await.refused();
    assert_eq!((problem.fact("state"), problem.fact("task_id")), ("COMPLETED", "t"));
    problem
}

pub async fn dispatched_elsewhere() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let dispatch = DispatchRequest {
        task_id: "t".into(),
        assignee: "chosen".into(),
        ttl: secs(60),
        actor: "ada".into(),
        ..Default::default()
    };
    let reserved = api.dispatch(dispatch).await.unwrap();
    let problem = api.claim(claim("t", "other", 1000)).await.refused();
    assert_eq!((problem.fact("assignee"), problem.fact("state")), ("chosen", "DISPATCHED"));
    let until = chrono::DateTime::parse_from_rfc3339(problem.fact("expire_time")).unwrap();
    assert_eq!(until.timestamp_micros(), micros(reserved.dispatch_expire_time.as_ref()));
    assert!(problem.retry.unwrap() <= std::time::Duration::from_secs(60));
    api.claim(claim("t", "chosen", 1000)).await.unwrap();
    problem
}

pub async fn not_ready() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.create_saga(CreateSagaRequest { delay: secs(60), ..create("t") }).await.unwrap();
    let problem = api.claim(claim("t", "w", 1000)).await.refused();
    let ready = chrono::DateTime::parse_from_rfc3339(problem.fact("not_before")).unwrap();
    assert_eq!(ready.timestamp_micros(), micros(saga.not_before.as_ref()));
    let retry = problem.retry.unwrap();
    assert!(retry <= std::time::Duration::from_secs(60) && !retry.is_zero(), "{retry:?}");
    problem
}

pub async fn settling() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let policy = Some(Policy { settle: secs(3600), ..Default::default() });
    api.stale(CreateSagaRequest { policy, ..held("t", &["a"]) }, "w").await;
    let purpose = LeasePurpose::Compensate.into();
    let problem = api.claim(ClaimRequest { purpose, ..claim("t", "u", 1000) }).await.refused();
    assert!(problem.retry.unwrap() > std::time::Duration::from_secs(3000), "{problem:?}");
    chrono::DateTime::parse_from_rfc3339(problem.fact("settle_until")).unwrap();
    // Only a claim for compensation has to wait.
    api.claim(claim("t", "w", 1000)).await.unwrap();
    problem
}

pub async fn wrong_state() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let running = api.running("r", "w").await;
    assert_eq!(api.compensate(key(&running).compensate()).await.reason(), "WRONG_STATE");
    let record = key(&running).record(1, CompensationOutcome::Done);
    assert_eq!(api.record_compensation(record).await.reason(), "WRONG_STATE");
    let key = undoing(&api, &["a"]).await;
    for reason in [
        api.complete(key.complete()).await.reason(),
        api.fail(key.fail("why")).await.reason(),
        api.register_compensation(key.register(&["b"])).await.reason(),
        api.claim(claim("t", "w", 1000)).await.reason(),
    ] {
        assert_eq!(reason, "WRONG_STATE");
    }
    let dispatch =
        DispatchRequest { task_id: "t".into(), assignee: "w".into(), actor: "ada".into(), ..Default::default() };
    let problem = api.dispatch(dispatch).await.refused();
    assert_eq!((problem.fact("state"), problem.fact("task_id")), ("COMPENSATING", "t"));
    problem
}

pub async fn not_stale() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let decide = |task_id: &str, fencing_token| RecoverRequest {
        task_id: task_id.into(),
        decision: RecoveryDecision::Requeue.into(),
        actor: "ada".into(),
        reason: "why".into(),
        fencing_token,
        ..Default::default()
    };
    let stale = api.stale(create("s"), "w").await;
    let other = api.recover(decide("s", key(&stale).fencing_token - 1)).await.refused();
    assert_eq!(other.reason, "NOT_STALE", "stale under another token");
    assert_eq!(other.fact("fencing_token"), key(&stale).fencing_token.to_string());
    let live = api.running("t", "w").await;
    let problem = api.recover(decide("t", 0)).await.refused();
    assert_eq!(api.get("t").await, live);
    problem
}

pub async fn compensation_required() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let problem = api.fail(key(&saga).fail("broke")).await.refused();
    assert_eq!((problem.fact("task_id"), problem.fact("state")), ("t", "RUNNING"));
    problem
}

pub async fn compensation_pending() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let key = undoing(&api, &["a", "b"]).await;
    api.record_compensation(key.record(2, CompensationOutcome::Done)).await.unwrap();
    let problem = api.compensate(key.compensate()).await.refused();
    assert_eq!(problem.fact("kinds"), "a");
    problem
}

pub async fn compensation_order() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let key = undoing(&api, &["a", "b", "c"]).await;
    api.record_compensation(key.record(3, CompensationOutcome::Failed)).await.unwrap();
    let problem = api.record_compensation(key.record(1, CompensationOutcome::Done)).await.refused();
    assert_eq!(problem.fact("position"), "3");
    problem
}

pub async fn compensation_limit() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let kinds: Vec<_> = (0..128).map(|kind| format!("k{kind}")).collect();
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    api.create_saga(held("t", &kinds)).await.unwrap();
    let saga = api.claim(claim("t", "w", 60_000)).await.unwrap();
    let unchanged = api.register_compensation(key(&saga).register(&["k7"])).await.unwrap();
    assert_eq!(unchanged.compensations.len(), 128);
    let problem = api.register_compensation(key(&saga).register(&["one more"])).await.refused();
    let given = FailRequest { compensations: vec![compensation("one more")], ..key(&saga).fail("broke") };
    assert_eq!(api.fail(given).await.reason(), "COMPENSATION_LIMIT");
    assert_eq!(api.get("t").await, saga);
    problem
}
