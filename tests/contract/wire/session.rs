//! `Session`: a worker's calls over one stream. Each does what its unary call does, they are executed in order, and none delays
//! the others.

use std::{collections::BTreeMap, time::Duration};

use sagad::proto::{session_request::Call, session_response::Result as Outcome, *};
use tokio::time::timeout;
use tonic::{Request, Status};

use crate::support::{
    session::{Session, saga_of},
    *,
};

/// A `ClaimNext` that waits for this many seconds.
fn held_claim(queue: &str, seconds: u64) -> ClaimNextRequest {
    ClaimNextRequest {
        queues: vec![queue.into()],
        owner_id: "w".into(),
        ttl: secs(60),
        wait: secs(seconds),
        ..Default::default()
    }
}

/// The same call as a unary call, without the fields that always differ.
async fn unary(api: &Api, call: Call) -> Result<Outcome, Status> {
    macro_rules! calls {
        ($($kind:ident $rpc:ident,)*) => {
            match call {
                $(Call::$kind(message) => {
                    Ok(Outcome::$kind(api.sagas.clone().$rpc(message).await?.into_inner()))
                })*
            }
        };
    }
    calls! {
        Claim claim, ClaimNext claim_next, Heartbeat heartbeat, Release release,
        RegisterCompensation register_compensation, Complete complete, Fail fail,
        RecordCompensation record_compensation, Compensate compensate,
    }
}

/// A saga without ids, tokens and times.
fn shape(outcome: Outcome) -> Saga {
    let saga = saga_of(outcome);
    Saga {
        task_id: String::new(),
        saga_id: String::new(),
        revision: 0,
        lease: saga.lease.map(|lease| Lease { owner_id: lease.owner_id, ..Default::default() }),
        create_time: None,
        update_time: None,
        end_time: None,
        compensations: saga
            .compensations
            .into_iter()
            .map(|compensation| Compensation { settle_time: None, ..compensation })
            .collect(),
        ..saga
    }
}

#[tokio::test]
async fn each_kind_of_item_does_what_its_unary_call_does() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let mut session = Session::open(&api).await;
    for task_id in ["s", "u"] {
        api.create_saga(create(task_id)).await.unwrap();
    }
    // The life of a saga with all nine kinds of items, over the session and by unary calls.
    let mut lives: BTreeMap<&str, Vec<Saga>> = BTreeMap::new();
    for task_id in ["s", "u"] {
        macro_rules! call {
            ($call:expr) => {{
                let call: Call = $call;
                let outcome = if task_id == "s" { session.call(call).await } else { unary(&api, call).await }.unwrap();
                if let Outcome::Heartbeat(beat) = &outcome {
                    assert_eq!((beat.directive(), beat.lease.is_some()), (Directive::Continue, true));
                } else {
                    lives.entry(task_id).or_default().push(shape(outcome.clone()));
                }
                outcome
            }};
        }
        let lease = key(&saga_of(call!(Call::Claim(claim(task_id, "w", 60_000)))));
        call!(Call::Heartbeat(HeartbeatRequest { progress: Some("half".into()), ..lease.heartbeat() }));
        call!(Call::RegisterCompensation(lease.register(&["a", "b"])));
        call!(Call::Release(lease.release()));
        let next = ClaimNextRequest { queues: vec!["default".into()], owner_id: "w".into(), ..Default::default() };
        // The other saga waits in the same queue.
        let parked = if task_id == "s" { Some(key(&api.claim(claim("u", "x", 60_000)).await.unwrap())) } else { None };
        let lease = key(&saga_of(call!(Call::ClaimNext(next))));
        if let Some(parked) = parked {
            api.release(parked.release()).await.unwrap();
        }
        assert_eq!(lease.task_id, task_id);
        call!(Call::Fail(FailRequest { retryable: true, ..lease.fail("it broke") }));
        let failed = api.get(task_id).await;
        assert_eq!(failed.state(), SagaState::Failed);
        // Another saga is compensated.
        let undone = format!("{task_id}-undone");
        api.create_saga(held(&undone, &["a"])).await.unwrap();
        let undo = claim_undo(&undone, "w", 60_000);
        let lease = key(&saga_of(call!(Call::Claim(undo))));
        call!(Call::RecordCompensation(lease.record(1, CompensationOutcome::Done)));
        call!(Call::Compensate(lease.compensate()));
        let done = format!("{task_id}-done");
        api.create_saga(create(&done)).await.unwrap();
        let lease = key(&saga_of(call!(Call::Claim(claim(&done, "w", 60_000)))));
        call!(Call::Complete(CompleteRequest { result: "fine".into(), ..lease.complete() }));
    }
    assert_eq!(lives["s"].len(), 10);
    // The saga of the unary calls was claimed once more, by another owner.
    let attempts = |saga: &Saga| Saga { attempt: 0, ..saga.clone() };
    for (one, other) in lives["s"].iter().zip(&lives["u"]) {
        assert_eq!(attempts(one), attempts(other));
    }
    drop(session.items.take());
    assert!(session.next().await.is_none(), "the stream ends when the client closes its side");
}

#[tokio::test]
async fn p12_an_items_error_is_that_of_the_unary_call_and_the_session_continues() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let lease = key(&api.running("t", "w").await);
    let other_owner = Key { owner_id: "other".into(), ..lease.clone() };
    let mut session = Session::open(&api).await;
    let calls = [
        Call::Claim(ClaimRequest::default()),
        Call::Claim(claim("t", "other", 60_000)),
        Call::Claim(claim("nobody", "other", 60_000)),
        Call::ClaimNext(ClaimNextRequest { max_sagas: 101, request_id: "x".into(), ..Default::default() }),
        Call::Heartbeat(HeartbeatRequest { fencing_token: 1 << 53, ..Default::default() }),
        Call::Heartbeat(HeartbeatRequest { ttl: ms(100), ..lease.heartbeat() }),
        Call::Heartbeat(other_owner.heartbeat()),
        Call::RegisterCompensation(lease.register(&["k", ""])),
        Call::Fail(lease.fail("no record")),
        Call::RecordCompensation(lease.record(1, CompensationOutcome::Done)),
        Call::Compensate(lease.compensate()),
        Call::Release(ReleaseRequest { delay: secs(31 * 24 * 3600), ..lease.release() }),
        Call::Complete(CompleteRequest { result: vec![0; (64 << 10) + 1].into(), ..lease.complete() }),
    ];
    for call in calls {
        let wanted = Problem::of(&unary(&api, call.clone()).await.unwrap_err());
        let told = Problem::of(&session.call(call.clone()).await.unwrap_err());
        // The retry delays differ by the time between the calls.
        let without_retry = |problem: &Problem| Problem { retry: None, ..problem.clone() };
        assert_eq!(without_retry(&told), without_retry(&wanted), "{call:?}");
    }
    // Errors that only an item can have.
    let call_id = session.send_as(SessionRequest { call_id: -7, ..Default::default() }).await;
    let (answered, result) = session.next().await.unwrap();
    assert_eq!((answered, result.refused().fields), (call_id, vec!["call".to_owned()]));
    let timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let item = SessionRequest { call_id: 0, call: Some(Call::Heartbeat(lease.heartbeat())), timeout };
    session.send_as(item).await;
    let (answered, result) = session.next().await.unwrap();
    assert_eq!((answered, result.refused().fields), (0, vec!["timeout".to_owned()]));
    // Stream and lease are not affected.
    session.call(Call::Heartbeat(lease.heartbeat())).await.unwrap();
    session.call(Call::Complete(lease.complete())).await.unwrap();
}

#[tokio::test]
async fn a_held_claim_next_delays_no_other_item_and_is_answered_when_there_is_work() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let lease = key(&api.running("t", "w").await);
    let mut session = Session::open(&api).await;
    let waiting = session.send(Call::ClaimNext(held_claim("later", 60))).await;
    eventually("one claim is held", || async { (api.stats().await.waiting == 1).then_some(()) }).await;
    for _ in 0..100 {
        session.call(Call::Heartbeat(lease.heartbeat())).await.unwrap();
    }
    api.create_saga(CreateSagaRequest { queue: "later".into(), ..create("late") }).await.unwrap();
    let (call_id, claimed) = session.next().await.unwrap();
    let Ok(Outcome::ClaimNext(claimed)) = claimed else { panic!("{claimed:?}") };
    assert_eq!((call_id, claimed.sagas[0].task_id.as_str()), (waiting, "late"));
    let waited = claimed.waited.unwrap();
    assert!(waited.seconds > 0 || waited.nanos > 0, "the answer has how long it was held");
}

#[tokio::test]
async fn items_are_executed_in_the_order_in_which_they_were_sent() {
    const SAGAS: usize = 60;
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let mut session = Session::open(&api).await;
    let mut leases = Vec::new();
    for n in 0..SAGAS {
        leases.push(key(&api.running(&format!("t-{n}"), "w").await));
    }
    // All are sent at once; each is valid only after the one before it.
    let mut wanted = BTreeMap::new();
    for lease in &leases {
        let compensate = claim_undo(&lease.task_id, "x", 1000);
        let steps = [
            (Call::RegisterCompensation(lease.register(&["k"])), None),
            (Call::Heartbeat(HeartbeatRequest { progress: Some("1".into()), ..lease.heartbeat() }), None),
            (Call::Heartbeat(HeartbeatRequest { progress: Some("2".into()), ..lease.heartbeat() }), None),
            (Call::Claim(compensate), Some("LEASE_HELD")),
            (Call::Fail(lease.fail("as it is")), None),
            (Call::Fail(lease.fail("once more")), None),
            (Call::Heartbeat(lease.heartbeat()), Some("SAGA_TERMINAL")),
            (Call::Complete(lease.complete()), Some("SAGA_TERMINAL")),
        ];
        for (call, refused) in steps {
            wanted.insert(session.send(call).await, refused);
        }
    }
    while !wanted.is_empty() {
        let (call_id, result) = session.next().await.unwrap();
        let refused = wanted.remove(&call_id).expect("each is answered once");
        match refused {
            None => drop(result.unwrap()),
            Some(reason) => assert_eq!(result.reason(), reason, "call {call_id}"),
        }
    }
    for lease in leases {
        let saga = api.get(&lease.task_id).await;
        assert_eq!(
            (saga.state(), &*saga.progress, saga.terminal_reason.as_str()),
            (SagaState::Failed, &b"2"[..], "as it is")
        );
        let types: Vec<_> = api.history(&lease.task_id).await.iter().map(SagaEvent::r#type).collect();
        assert_eq!(types[2..], [EventType::CompensationRegistered, EventType::Failed]);
    }
}

#[tokio::test]
async fn a_request_id_counts_for_sessions_and_unary_calls_alike() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for task_id in ["a", "b", "c"] {
        api.create_saga(create(task_id)).await.unwrap();
    }
    let next = |name: &str| ClaimNextRequest { wait: None, request_id: named(name), ..held_claim("default", 0) };
    let mut session = Session::open(&api).await;
    let first = key(&saga_of(session.call(Call::ClaimNext(next("one"))).await.unwrap()));
    // The stream is dropped before the answer arrives.
    drop(session);
    let again = unary(&api, Call::ClaimNext(next("one"))).await.unwrap();
    assert_eq!(key(&saga_of(again)).fencing_token, first.fencing_token);
    let mut session = Session::open(&api).await;
    let again = session.call(Call::ClaimNext(next("one"))).await.unwrap();
    assert_eq!(key(&saga_of(again)).task_id, first.task_id);
    // A longer wait does not make it another request.
    let longer = ClaimNextRequest { wait: secs(30), ..next("one") };
    assert_eq!(key(&saga_of(session.call(Call::ClaimNext(longer)).await.unwrap())).task_id, first.task_id);
    let other = ClaimNextRequest { max_sagas: 2, ..next("one") };
    assert_eq!(session.call(Call::ClaimNext(other)).await.reason(), "REQUEST_ID_REUSED");
    // The same for a unary call that is repeated over the session.
    let done = CompleteRequest { request_id: named("two"), ..first.complete() };
    unary(&api, Call::Complete(done.clone())).await.unwrap();
    session.call(Call::Complete(done.clone())).await.unwrap();
    let other = CompleteRequest { result: "x".into(), ..done };
    assert_eq!(session.call(Call::Complete(other)).await.reason(), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn p10_a_session_reads_no_more_items_than_max_session_calls() {
    let daemon = Daemon::start_with(&["--max-session-calls", "4"]);
    let api = daemon.api().await;
    let lease = key(&api.running("t", "w").await);
    let mut session = Session::open(&api).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(session.send(Call::ClaimNext(held_claim("later", 60))).await);
    }
    let beat = session.send(Call::Heartbeat(lease.heartbeat())).await;
    eventually("four claims are held", || async { (api.stats().await.waiting == 4).then_some(()) }).await;
    assert!(timeout(Duration::from_millis(300), session.answers.message()).await.is_err(), "the fifth is not read");
    api.create_saga(CreateSagaRequest { queue: "later".into(), ..create("late") }).await.unwrap();
    let (claimed, _) = session.next().await.unwrap();
    assert!(waiting.contains(&claimed));
    assert_eq!(session.next().await.unwrap().0, beat, "it is read now");
    // Another session of the same worker has its own limit.
    Session::open(&api).await.call(Call::Heartbeat(lease.heartbeat())).await.unwrap();
}

#[tokio::test]
async fn a_wait_ends_before_the_deadlines_of_the_item_and_the_stream() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let mut session = Session::open(&api).await;
    let held = || Some(Call::ClaimNext(held_claim("empty", 60)));
    let begun = now();
    session.send_as(SessionRequest { call_id: 1, call: held(), timeout: ms(400) }).await;
    session.next().await.unwrap().1.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < WAIT_MAX / 2, "{took:?}");
    // The stream's own deadline applies to an item without one.
    let items = [SessionRequest { call_id: 1, call: held(), timeout: secs(30) }];
    let mut request = Request::new(futures::stream::iter(items));
    request.set_timeout(Duration::from_millis(900));
    let begun = now();
    let mut answers = api.sagas.clone().session(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(matches!(answer.result, Some(Outcome::ClaimNext(_))), "{answer:?}");
    assert!(begun.elapsed() >= Duration::from_millis(700));
}

#[tokio::test]
async fn m4_a_lease_does_not_depend_on_a_session() {
    let daemon = Daemon::start();
    let looker = daemon.api().await;
    let api = daemon.api().await;
    looker.create_saga(create("t")).await.unwrap();
    let mut session = Session::open(&api).await;
    let saga = saga_of(session.call(Call::Claim(claim("t", "w", 60_000))).await.unwrap());
    session.call(Call::Heartbeat(key(&saga).heartbeat())).await.unwrap();
    // A held claim ends with its stream; a lease does not.
    session.send(Call::ClaimNext(held_claim("later", 60))).await;
    eventually("one claim is held", || async { (looker.stats().await.waiting == 1).then_some(()) }).await;
    let lease = looker.get("t").await.lease;
    drop(session);
    drop(api);
    looker.create_saga(CreateSagaRequest { queue: "later".into(), ..create("late") }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(looker.get("late").await.state(), SagaState::Planned, "the cancelled claim did not get it");
    let after = looker.get("t").await;
    assert_eq!((&after.lease, after.stale, after.state()), (&lease, false, SagaState::Running));
    assert_eq!(looker.claim(claim("t", "other", 1000)).await.reason(), "LEASE_HELD");
    looker.complete(key(&saga).complete()).await.unwrap();
}

#[tokio::test]
async fn m4_leases_claimed_over_a_session_outlive_a_killed_process() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let server = format!("http://{}", daemon.address());
    let mut bench = binary::sagad()
        .args(["bench", "--mode", "session", "--connections", "2", "--clients", "64", "--duration", "60s"])
        .args(["--warmup", "0s", "--preload", "20000", "--server", &server])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let running = || async {
        let states = vec![SagaState::Running.into()];
        let mut request = ListSagasRequest { states, page_size: 1000, newest_first: true, ..Default::default() };
        let mut sagas = Vec::new();
        loop {
            let page = api.list_sagas(request.clone()).await.unwrap();
            sagas.extend(page.sagas);
            if page.next_page_token.is_empty() {
                return sagas;
            }
            request.page_token = page.next_page_token;
        }
    };
    eventually("it holds leases", || async { (running().await.len() > 8).then_some(()) }).await;
    bench.kill().unwrap();
    bench.wait().unwrap();
    // Calls that were on their way may still be executed.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left = running().await;
    assert!(!left.is_empty());
    for saga in &left {
        assert!(!saga.stale, "{saga:?}");
        assert_eq!(api.claim(claim(&saga.task_id, "other", 1000)).await.reason(), "LEASE_HELD");
    }
}

#[tokio::test]
async fn p10_session_items_count_towards_max_calls() {
    let daemon = Daemon::start_with(&["--max-calls", "8"]);
    let api = daemon.api().await;
    let mut session = Session::open(&api).await;
    // The session counts as a call, and each item as one more.
    for _ in 0..20 {
        session.send(Call::ClaimNext(held_claim("empty", 2))).await;
    }
    let mut held = 0;
    for _ in 0..20 {
        match session.next().await.unwrap().1 {
            Ok(_) => held += 1,
            refused => {
                let problem = refused.refused();
                assert_eq!(problem.reason, "OVERLOADED");
                assert!(problem.message.contains("max_calls"), "{}", problem.message);
            }
        }
    }
    assert_eq!(held, 7);
    // They no longer count.
    api.create_saga(create("t")).await.unwrap();
    session.call(Call::Claim(claim("t", "w", 60_000))).await.unwrap();
}

/// Every item that was executed is answered; an item without an answer was not executed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_session_items_are_answered_before_the_daemon_ends() {
    const SAGAS: usize = 400;
    let mut daemon = Daemon::start();
    let api = daemon.api().await;
    let mut leases = Vec::new();
    for n in 0..SAGAS {
        leases.push(key(&api.running(&format!("t-{n}"), "w").await));
    }
    let mut session = Session::open(&api).await;
    let waiting = session.send(Call::ClaimNext(held_claim("empty", 60))).await;
    eventually("one claim is held", || async { (api.stats().await.waiting == 1).then_some(()) }).await;
    let items = session.items.clone().unwrap();
    let sender = tokio::spawn({
        let leases = leases.clone();
        async move {
            for (n, lease) in leases.iter().enumerate() {
                let call = Some(Call::Complete(lease.complete()));
                if items.send(SessionRequest { call_id: 1000 + n as i64, call, timeout: None }).await.is_err() {
                    return;
                }
                // A moment, so that the daemon ends while items are executed.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let mut answered = BTreeMap::new();
    while answered.len() < 20 {
        let (call_id, result) = session.next().await.unwrap();
        answered.insert(call_id, result);
    }
    daemon.tell_to_end();
    let end = loop {
        match session.try_next().await {
            Ok(answer) => {
                let (call_id, result) = answer.expect("it ends with an error");
                assert!(answered.insert(call_id, result).is_none(), "{call_id} is answered once");
            }
            Err(status) => break status,
        }
    };
    assert_eq!(Problem::of(&end).reason, "SHUTTING_DOWN");
    assert_eq!(answered.remove(&waiting).expect("a held claim is answered, too").reason(), "SHUTTING_DOWN");
    sender.abort();
    let (status, log) = daemon.process().end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    daemon.start_again();
    let api = daemon.api().await;
    let mut unanswered = 0;
    for (n, lease) in leases.iter().enumerate() {
        let completed = api.get(&lease.task_id).await.state() == SagaState::Completed;
        match answered.get(&(1000 + n as i64)) {
            Some(result) => assert_eq!(result.is_ok(), completed, "{n}: {result:?}"),
            None => {
                unanswered += 1;
                assert!(!completed, "{n} was executed and not answered");
            }
        }
    }
    assert!(unanswered > 0 && unanswered < SAGAS, "{unanswered}");
}

/// Calls of the Rust client over restarts of the daemon.
#[tokio::test]
async fn the_rust_client_uses_one_session_and_reopens_it_after_it_ends() {
    let mut daemon = Daemon::start_with(&["--log", "sagad=debug", "--restart-grace", "0s"]);
    let api = daemon.api().await;
    let client = sagad::client::Client::new(&format!("http://{}", daemon.address()), WAIT_MAX).unwrap();
    for task_id in ["a", "b"] {
        api.create_saga(create(task_id)).await.unwrap();
    }
    let claimed = client.ask(claim("a", "w", 60_000), WAIT_MAX).await.unwrap().saga.unwrap();
    let lease = key(&claimed);
    let beats = (0..50).map(|_| client.ask(lease.heartbeat(), WAIT_MAX));
    for beat in futures::future::join_all(beats).await {
        assert_eq!(beat.unwrap().directive(), Directive::Continue);
    }
    let refused = client.ask(claim("a", "other", 60_000), WAIT_MAX).await;
    assert_eq!(refused.refused().fact("owner_id"), "w");
    // A session is logged when it ends.
    daemon.tell_to_end();
    let (_, log) = daemon.process().end().await;
    let sessions = log.lines().filter(|line| line.contains("SagaService/Session") && line.contains("call")).count();
    assert_eq!(sessions, 1, "{log}");
    // A call fails while the daemon is down, and another session is opened when it is back.
    let gone = client.ask(lease.heartbeat(), Duration::from_millis(300)).await.unwrap_err();
    assert_ne!(sagad::client::StatusDetails::from(&gone).happened, sagad::client::CallEffect::Refused, "{gone:?}");
    daemon.start_again();
    let done = eventually("it is back", || async { client.ask(lease.complete(), WAIT_MAX).await.ok() }).await;
    assert_eq!(done.saga.unwrap().state(), SagaState::Completed);
    drop(client);
    eventually("the session ends with its client", || async {
        daemon.log().lines().any(|line| line.contains("SagaService/Session") && line.contains("call")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn m13_the_lease_of_a_killed_worker_lasts_until_its_expiry() {
    let daemon = Daemon::start_with(&["--log", "sagad=debug"]);
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let mut worker = binary::sagad()
        .args(["work", "--queue", "default", "--owner", "w", "--ttl", "2s"])
        .args(["--server", &format!("http://{}", daemon.address()), "--", "sleep", "60"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let acquired = |saga: &Saga| {
        let lease = saga.lease.as_ref()?;
        Some((micros(lease.acquire_time.as_ref()), micros(lease.heartbeat_time.as_ref())))
    };
    let kept = |saga: &Saga| acquired(saga).is_some_and(|(acquired, beat)| beat > acquired);
    api.until("t", "is kept by heartbeats", kept).await;
    assert!(daemon.log().contains("opened rpc=\"Session\""), "{}", daemon.log());
    worker.kill().unwrap();
    worker.wait().unwrap();
    // A heartbeat that was on its way may still be executed.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let expiry = micros(api.get("t").await.lease.unwrap().expire_time.as_ref());
    assert_eq!(api.claim(claim("t", "other", 1000)).await.reason(), "LEASE_HELD");
    let stale = api.until_stale("t").await;
    assert_eq!(micros(stale.lease.unwrap().expire_time.as_ref()), expiry, "the lease was not extended");
    let told = api.history("t").await.pop().unwrap();
    let late = micros(told.time.as_ref()) - expiry;
    assert!((0..1_000_000).contains(&late), "{late} us after the lease's end");
}
