//! The life of a saga, as a worker sees it.

use std::time::Duration;

use sagad::proto::*;

use crate::support::*;

#[tokio::test]
async fn m1_a_saga_is_created_planned_and_its_ids_are_unique() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let request = CreateSagaRequest {
        task_id: "task".into(),
        saga_id: "saga".into(),
        queue: "builds".into(),
        priority: -7,
        issue: Some(0),
        branch: "feature/ä".into(),
        worktree: "/tmp/trees/1".into(),
        labels: [("team".to_owned(), "core".to_owned())].into(),
        payload: vec![0, 255, 1].into(),
        compensations: vec![compensation("worktree"), compensation("branch")],
        ..Default::default()
    };
    let saga = api.create_saga(request.clone()).await.unwrap();
    assert_eq!(saga.state(), SagaState::Planned);
    assert_eq!((saga.task_id.as_str(), saga.saga_id.as_str(), saga.queue.as_str()), ("task", "saga", "builds"));
    assert_eq!((saga.priority, saga.issue), (-7, Some(0)));
    assert_eq!((saga.branch.as_str(), saga.worktree.as_str()), ("feature/ä", "/tmp/trees/1"));
    assert_eq!((&saga.labels, &saga.payload), (&request.labels, &request.payload));
    assert!(saga.lease.is_none() && !saga.stale && saga.end_time.is_none());
    let registered: Vec<_> = saga
        .compensations
        .iter()
        .map(|c| (c.position, c.kind.as_str(), c.target.as_str(), c.reason.as_str()))
        .collect();
    assert_eq!(
        registered,
        [(1, "worktree", "the worktree", "it was made"), (2, "branch", "the branch", "it was made")]
    );

    for (task_id, saga_id, field) in [("task", "other", "task_id"), ("other", "saga", "saga_id")] {
        let again = CreateSagaRequest { saga_id: saga_id.into(), priority: 9, ..create(task_id) };
        let problem = api.create_saga(again).await.refused();
        assert_eq!((problem.reason.as_str(), problem.fact("field")), ("SAGA_EXISTS", field));
    }
    assert_eq!(api.get("task").await, saga, "the first saga is unchanged");
    assert_eq!(api.find("other").await.unwrap(), None);

    let made = api.create_saga(CreateSagaRequest::default()).await.unwrap();
    assert_eq!(uuid::Uuid::parse_str(&made.task_id).unwrap().get_version_num(), 7);
    assert_eq!((made.saga_id, made.queue), (made.task_id, "default".to_owned()));
}

#[tokio::test]
async fn m1_a_batch_is_created_whole_or_not_at_all() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("taken")).await.unwrap();
    let batch = |ids: &[&str]| BatchCreateSagasRequest {
        requests: ids.iter().map(|id| create(id)).collect(),
        ..Default::default()
    };
    let problem = api.batch_create_sagas(batch(&["a", "b", "taken"])).await.refused();
    assert_eq!((problem.reason.as_str(), problem.fact("index")), ("SAGA_EXISTS", "2"));
    assert_eq!(problem.fact("field"), "requests[2].task_id");
    assert_eq!(api.find("a").await.unwrap(), None);

    let sagas = api.batch_create_sagas(batch(&["a", "b", "c"])).await.unwrap();
    let ids: Vec<_> = sagas.iter().map(|saga| saga.task_id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
}

#[tokio::test]
async fn m2_a_claim_takes_a_lease_and_the_saga_runs() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    for ttl in [Some(prost_types::Duration::default()), Some(prost_types::Duration { seconds: -1, nanos: 0 }), ms(99)] {
        let problem = api.claim(ClaimRequest { ttl, ..claim("t", "w", 1) }).await.refused();
        assert_eq!(problem.fields, ["ttl"], "an expiry that is not after the start is refused");
    }
    let saga = api.claim(claim("t", "w", 30_000)).await.unwrap();
    assert_eq!((saga.state(), saga.attempt), (SagaState::Running, 1));
    let lease = saga.lease.as_ref().unwrap();
    assert_eq!((lease.owner_id.as_str(), lease.purpose()), ("w", LeasePurpose::Execute));
    assert_eq!(lease.fencing_token, saga.revision, "a token is the revision of its claimed event");
    assert_eq!(lease.acquire_time, lease.heartbeat_time);
    assert_eq!(micros(lease.expire_time.as_ref()) - micros(lease.acquire_time.as_ref()), 30_000_000);
    assert_eq!((lease.ttl, lease.heartbeat_interval), (secs(30), secs(10)));
    assert_eq!(api.get("t").await, saga);

    let claimed = api.history("t").await.pop().unwrap();
    assert_eq!((claimed.r#type(), claimed.fencing_token), (EventType::Claimed, lease.fencing_token));
    assert_eq!((claimed.from_state(), claimed.to_state()), (SagaState::Planned, SagaState::Running));
    assert_eq!(claimed.actor, "w");
}

#[tokio::test]
async fn m4_a_heartbeat_extends_for_its_owner_alone() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let first = api.running("t", "w").await;
    let held = key(&first);
    tokio::time::sleep(Duration::from_millis(2)).await;
    let answer = api.heartbeat(held.heartbeat()).await.unwrap();
    let (old, new) = (first.lease.unwrap(), answer.lease.clone().unwrap());
    assert!(micros(new.expire_time.as_ref()) > micros(old.expire_time.as_ref()));
    assert!(micros(new.heartbeat_time.as_ref()) > micros(old.heartbeat_time.as_ref()));
    assert_eq!((answer.directive(), new.fencing_token), (Directive::Continue, old.fencing_token));
    let after = api.get("t").await;
    assert_eq!(after.lease, answer.lease);
    assert_eq!((after.revision, after.update_time), (first.revision, first.update_time));

    api.create_saga(create("planned")).await.unwrap();
    let no_lease = Key { task_id: "planned".into(), ..held.clone() };
    let refusals = [
        (Key { owner_id: "other".into(), ..held.clone() }.heartbeat(), "NOT_OWNER"),
        (Key { fencing_token: held.fencing_token - 1, ..held.clone() }.heartbeat(), "LEASE_SUPERSEDED"),
        (Key { fencing_token: held.fencing_token + 1, ..held.clone() }.heartbeat(), "NO_LEASE"),
        (no_lease.heartbeat(), "NO_LEASE"),
        (HeartbeatRequest { ttl: ms(100), ..held.heartbeat() }, "LEASE_NOT_EXTENDED"),
    ];
    for (heartbeat, reason) in refusals {
        let heartbeat = HeartbeatRequest { progress: Some("changed".into()), ..heartbeat };
        assert_eq!(api.heartbeat(heartbeat).await.reason(), reason);
    }
    assert_eq!(api.get("t").await, after, "no refused heartbeat changes anything");
    assert_eq!(api.get("planned").await.state(), SagaState::Planned);
}

#[tokio::test]
async fn m4_an_expired_or_superseded_lease_is_not_extended() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let stale = api.stale(create("t"), "first").await;
    assert_eq!(api.heartbeat(key(&stale).heartbeat()).await.reason(), "LEASE_EXPIRED");
    assert_eq!(api.get("t").await, stale);

    let second = api.claim(claim("t", "second", 60_000)).await.unwrap();
    assert_eq!(api.heartbeat(key(&stale).heartbeat()).await.reason(), "LEASE_SUPERSEDED");
    assert_eq!(api.complete(key(&stale).complete()).await.reason(), "LEASE_SUPERSEDED");
    assert_eq!(api.get("t").await, second);
}

#[tokio::test]
async fn m5_a_saga_with_an_expired_lease_is_listed_streamed_and_claimable_as_stale() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.running("live", "w").await;
    let saga = api.stale(create("t"), "first").await;
    assert_eq!((saga.state(), saga.expirations), (SagaState::Running, 1));
    assert_eq!(api.stale_ids().await, ["t"]);

    let request = WatchStaleRequest { snapshot_only: true, ..Default::default() };
    let mut stream = api.watch_stale(request).await.unwrap();
    let first = stream.message().await.unwrap().unwrap();
    let Some(watch_stale_response::Item::Stale(item)) = first.item else { panic!("{first:?}") };
    assert_eq!((item.task_id.as_str(), item.owner_id.as_str()), ("t", "first"));
    assert_eq!((item.fencing_token, item.cause()), (key(&saga).fencing_token, StaleCause::Ttl));

    let second = api.claim(claim("t", "second", 60_000)).await.unwrap();
    assert!(!second.stale && key(&second).fencing_token > key(&saga).fencing_token);
    assert!(api.stale_ids().await.is_empty());

    // A terminal saga is never stale, whatever its lease's expiry is.
    let done = api.create_saga(create("done")).await.unwrap();
    let held = api.claim(claim(&done.task_id, "w", 100)).await.unwrap();
    let done = api.complete(key(&held).complete()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!api.get("done").await.stale && done.state() == SagaState::Completed);
    assert!(api.stale_ids().await.is_empty());
}

#[tokio::test]
async fn m5_late_results_are_accepted_until_something_ends_the_lease() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let stale = api.stale(create("t"), "w").await;
    assert_eq!(api.release(key(&stale).release()).await.reason(), "LEASE_EXPIRED");
    assert_eq!(api.register_compensation(key(&stale).register(&["x"])).await.reason(), "LEASE_EXPIRED");
    let done = api.complete(CompleteRequest { result: "late".into(), ..key(&stale).complete() }).await.unwrap();
    assert_eq!((done.state(), &done.result[..]), (SagaState::Completed, b"late".as_slice()));
}

#[tokio::test]
async fn m7_a_terminal_saga_can_be_annotated_and_the_history_keeps_the_old_reason() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let done = CompleteRequest { reason: "as planned".into(), ..key(&saga).complete() };
    let before = api.complete(done).await.unwrap();

    let note = AnnotateRequest {
        task_id: "t".into(),
        actor: "ada@example.org".into(),
        note: "looked at it".into(),
        details: [("ticket".to_owned(), "7".to_owned())].into(),
        terminal_reason: "not quite as planned".into(),
        ..Default::default()
    };
    let after = api.annotate(note).await.unwrap();
    let expected = Saga {
        terminal_reason: "not quite as planned".into(),
        revision: after.revision,
        update_time: after.update_time,
        ..before.clone()
    };
    assert_eq!(after, expected, "nothing else changes");
    let event = api.history("t").await.pop().unwrap();
    assert_eq!((event.r#type(), event.actor.as_str()), (EventType::Annotated, "ada@example.org"));
    assert_eq!(event.reason, "looked at it");
    let told = |name: &str| event.details.get(name).map(String::as_str);
    assert_eq!(told("previous_terminal_reason"), Some("as planned"));
    assert_eq!((told("terminal_reason"), told("ticket")), (Some("not quite as planned"), Some("7")));
}

#[tokio::test]
async fn m8_a_failed_saga_has_a_compensation_record() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let bare = api.running("bare", "w").await;
    assert_eq!(api.fail(key(&bare).fail("broke")).await.reason(), "COMPENSATION_REQUIRED");
    assert_eq!(api.get("bare").await, bare);

    let given = FailRequest { compensations: vec![compensation("given")], ..key(&bare).fail("broke") };
    let failed = api.fail(given).await.unwrap();
    assert_eq!((failed.state(), failed.terminal_reason.as_str()), (SagaState::Failed, "broke"));
    assert_eq!(failed.compensations.len(), 1);

    api.create_saga(held("kept", &["a"])).await.unwrap();
    let saga = api.claim(claim("kept", "w", 60_000)).await.unwrap();
    api.register_compensation(key(&saga).register(&["b", "a"])).await.unwrap();
    let failed = api.fail(key(&saga).fail("broke")).await.unwrap();
    let kinds: Vec<_> = failed.compensations.iter().map(|c| (c.kind.as_str(), c.state())).collect();
    assert_eq!(kinds, [("a", CompensationState::Pending), ("b", CompensationState::Pending)]);
}

#[tokio::test]
async fn a_failure_without_compensations_needs_no_undoing() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let policy = Policy { on_failure: FailureAction::Compensate.into(), ..Default::default() };
    api.create_saga(CreateSagaRequest { policy: Some(policy), ..create("t") }).await.unwrap();
    let saga = api.claim(claim("t", "w", 60_000)).await.unwrap();
    let ended = api.fail(key(&saga).fail("it broke")).await.unwrap();
    assert_eq!((ended.state(), ended.terminal_reason.as_str()), (SagaState::Compensated, "nothing to undo"));
    assert!(ended.end_time.is_some());
    let history = api.history("t").await;
    let told: Vec<_> = history[2..].iter().map(|e| (e.r#type(), e.actor.as_str(), e.reason.as_str())).collect();
    let expected = [(EventType::Compensating, "w", "it broke"), (EventType::Compensated, "sagad", "nothing to undo")];
    assert_eq!(told, expected);
    assert_eq!(api.fail(key(&saga).fail("said again")).await.unwrap(), ended, "the repeat changes nothing");

    // A compensation of any earlier lease has to be undone.
    api.create_saga(CreateSagaRequest { policy: Some(policy), ..create("u") }).await.unwrap();
    let first = api.claim(claim("u", "w", 60_000)).await.unwrap();
    api.register_compensation(key(&first).register(&["a"])).await.unwrap();
    api.release(key(&first).release()).await.unwrap();
    let second = api.claim(claim("u", "w", 60_000)).await.unwrap();
    assert_eq!(api.fail(key(&second).fail("it broke")).await.unwrap().state(), SagaState::Compensating);
}

#[tokio::test]
async fn the_next_lease_gets_the_last_progress() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let policy = Policy { max_attempts: 2, retry_backoff: ms(0), ..Default::default() };
    api.create_saga(CreateSagaRequest { policy: Some(policy), ..held("t", &["a"]) }).await.unwrap();
    let next = || async {
        let request = ClaimNextRequest {
            queues: vec!["default".into()],
            owner_id: "w".into(),
            wait: secs(20),
            ..Default::default()
        };
        api.claim_next(request).await.unwrap().remove(0)
    };
    let progress = |text: &'static str| Some(bytes::Bytes::from(text));

    let first = next().await;
    api.heartbeat(HeartbeatRequest { progress: progress("one"), ..key(&first).heartbeat() }).await.unwrap();
    let failed = FailRequest { progress: progress("two"), retryable: true, ..key(&first).fail("broke") };
    let retried = api.fail(failed.clone()).await.unwrap();
    assert_eq!((retried.state(), &retried.progress[..]), (SagaState::Planned, &b"two"[..]));
    let repeated = FailRequest { progress: progress("another"), ..failed };
    assert_eq!(api.fail(repeated).await.unwrap(), retried, "the repeat changes nothing");

    let second = next().await;
    assert_eq!(&second.progress[..], b"two", "the next attempt gets it");
    let released = api.release(ReleaseRequest { progress: progress("three"), ..key(&second).release() }).await.unwrap();
    assert_eq!(&released.progress[..], b"three");

    let third = next().await;
    assert_eq!(&third.progress[..], b"three");
    api.release(key(&third).release()).await.unwrap();
    let fourth = next().await;
    assert_eq!(&fourth.progress[..], b"three", "absent: no change");
    let emptied = api.release(ReleaseRequest { progress: progress(""), ..key(&fourth).release() }).await.unwrap();
    assert_eq!(&emptied.progress[..], b"", "empty progress clears it");

    let last = next().await;
    let refused = CompleteRequest { progress: progress("lost"), ..key(&fourth).complete() };
    assert_eq!(api.complete(refused).await.reason(), "LEASE_SUPERSEDED");
    assert_eq!(&api.get("t").await.progress[..], b"", "a refused call does not change it");
    let done = CompleteRequest { progress: progress("all"), ..key(&last).complete() };
    assert_eq!(&api.complete(done).await.unwrap().progress[..], b"all");
    assert_eq!(&api.get("t").await.progress[..], b"all");

    // A failure that is refused for lack of a compensation does not change it either.
    let bare = api.running("bare", "w").await;
    let refused = FailRequest { progress: progress("lost"), ..key(&bare).fail("broke") };
    assert_eq!(api.fail(refused).await.reason(), "COMPENSATION_REQUIRED");
    assert_eq!(&api.get("bare").await.progress[..], b"");
    // A release during compensation stores progress, too.
    api.create_saga(held("undo", &["a"])).await.unwrap();
    let undo = claim_undo("undo", "u", 60_000);
    let lease = key(&api.claim(undo).await.unwrap());
    let released = api.release(ReleaseRequest { progress: progress("half"), ..lease.release() }).await.unwrap();
    assert_eq!((released.state(), &released.progress[..]), (SagaState::Compensating, &b"half"[..]));
}

#[tokio::test]
async fn claim_next_returns_how_long_it_was_held() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let request = ClaimNextRequest {
        queues: vec!["default".into()],
        owner_id: "w".into(),
        ttl: secs(1),
        wait: secs(30),
        request_id: named("claim"),
        ..Default::default()
    };
    let ask = |request: ClaimNextRequest| {
        let mut sagas = api.sagas.clone();
        async move {
            let sent = now();
            let answer = sagas.claim_next(request).await.unwrap().into_inner();
            (answer.waited.expect("never absent"), sent.elapsed(), answer.sagas)
        }
    };
    let span = |waited: prost_types::Duration| Duration::try_from(waited).unwrap();
    let held = tokio::spawn(ask(request.clone()));
    eventually("it waits", || async { (api.stats().await.waiting == 1).then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let created = api.create_saga(create("t")).await.unwrap();
    let (waited, took, sagas) = held.await.unwrap();
    let waited = span(waited);
    assert!(waited >= Duration::from_millis(1500) && waited <= took, "{waited:?} of {took:?}");
    let lease = sagas[0].lease.as_ref().unwrap();
    assert!(micros(lease.acquire_time.as_ref()) >= micros(created.create_time.as_ref()));

    // A repeated claim returns the lease that the first one got, without waiting.
    api.heartbeat(HeartbeatRequest { ttl: secs(60), ..key(&sagas[0]).heartbeat() }).await.unwrap();
    let (waited, _, again) = ask(request.clone()).await;
    assert_eq!((again.len(), span(waited)), (1, Duration::ZERO));

    // Without a saga it returns how long it was held.
    let none = ClaimNextRequest { wait: ms(400), request_id: String::new(), ..request.clone() };
    let (waited, took, sagas) = ask(none.clone()).await;
    let waited = span(waited);
    assert!(sagas.is_empty());
    assert!(waited >= Duration::from_millis(400) && waited <= took, "{waited:?} of {took:?}");
    // A claim that is not held returns nearly zero.
    let (waited, took, _) = ask(ClaimNextRequest { wait: None, ..none }).await;
    assert!(span(waited) <= took);
}

#[tokio::test]
async fn a_lease_shows_its_standing() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let stands = |saga: &Saga| {
        let lease = saga.lease.clone().unwrap();
        (lease.standing(), lease.effective_expire_time)
    };
    let expires = |saga: &Saga| saga.lease.clone().unwrap().expire_time;

    let running = api.running("t", "w").await;
    assert_eq!(stands(&running), (LeaseStanding::Held, expires(&running)));
    let beat = api.heartbeat(key(&running).heartbeat()).await.unwrap().lease.unwrap();
    assert_eq!((beat.standing(), beat.effective_expire_time), (LeaseStanding::Held, beat.expire_time));
    let released = api.release(key(&running).release()).await.unwrap();
    assert_eq!(stands(&released), (LeaseStanding::EndedByHolder, None));

    let stale = api.stale(create("stale"), "w").await;
    assert_eq!(stands(&stale), (LeaseStanding::Expired, expires(&stale)));
    let listed = api.list_sagas(ListSagasRequest { stale_only: true, ..Default::default() }).await.unwrap();
    assert_eq!(stands(&listed.sagas[0]), stands(&stale));
    let decided = RecoverRequest {
        task_id: "stale".into(),
        decision: RecoveryDecision::Requeue.into(),
        actor: "ada".into(),
        reason: "its machine is gone".into(),
        ..Default::default()
    };
    assert_eq!(stands(&api.recover(decided).await.unwrap()), (LeaseStanding::EndedByOther, None));

    let late = api.stale(create("late"), "w").await;
    let done = api.complete(key(&late).complete()).await.unwrap();
    assert_eq!(stands(&done), (LeaseStanding::EndedByHolder, None));
}

#[tokio::test]
async fn m9_only_calls_of_its_holder_change_a_live_lease() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let [task_id, actor, reason] = ["t", "ada", "why"].map(str::to_owned);
    let refusals = [
        api.create_saga(create("t")).await.reason(),
        api.claim(claim("t", "w", 60_000)).await.reason(),
        api.claim(claim("t", "other", 60_000)).await.reason(),
        api.claim(claim_undo("t", "o", 1000)).await.reason(),
        api.dispatch(DispatchRequest {
            task_id: task_id.clone(),
            assignee: "o".into(),
            actor: actor.clone(),
            ..Default::default()
        })
        .await
        .reason(),
        api.recover(RecoverRequest {
            task_id: task_id.clone(),
            decision: RecoveryDecision::Requeue.into(),
            actor: actor.clone(),
            reason: reason.clone(),
            ..Default::default()
        })
        .await
        .reason(),
        api.quarantine(QuarantineRequest {
            task_id: task_id.clone(),
            actor: actor.clone(),
            reason: reason.clone(),
            ..Default::default()
        })
        .await
        .reason(),
    ];
    let expected = ["SAGA_EXISTS", "LEASE_HELD", "LEASE_HELD", "LEASE_HELD", "WRONG_STATE", "NOT_STALE", "LEASE_HELD"];
    assert_eq!(refusals, expected);
    assert_eq!(api.get("t").await, saga);

    // Other calls are allowed during a lease and don't change it.
    let note =
        AnnotateRequest { task_id: task_id.clone(), actor: actor.clone(), note: "n".into(), ..Default::default() };
    assert_eq!(api.annotate(note).await.unwrap().lease, saga.lease);
    let cancel = RequestCancelRequest { task_id, actor, reason, ..Default::default() };
    let asked = api.request_cancel(cancel).await.unwrap();
    assert_eq!((&asked.lease, asked.state()), (&saga.lease, SagaState::Running));
    let answer = api.heartbeat(key(&saga).heartbeat()).await.unwrap();
    assert_eq!((answer.directive(), answer.cancel_reason.as_str()), (Directive::Cancel, "why"));
}
