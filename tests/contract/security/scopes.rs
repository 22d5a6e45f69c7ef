//! A worker may use every rpc, reads and repeats included, only for its own queues and under owners of its own name. Sagas of
//! other queues are answered like missing ones.

use std::collections::BTreeSet;

use sagad::proto::{session_request::Call, *};
use tonic::{Request, Status};

use super::{
    raw_rpc::{self, contract},
    roles::request,
};
use crate::support::{
    ExpectRefusal, Key, Problem, compensation, ms, named,
    principals::{AuthSetup, TokenClient, entry, everyone, token},
    session::Session,
};

async fn setup_with_clients() -> (AuthSetup, TokenClient, TokenClient) {
    let setup = AuthSetup::start(&everyone());
    let (a, b) = (setup.client("a").await, setup.client("b").await);
    (setup, a, b)
}

fn in_queue(task_id: &str, queue: &str) -> CreateSagaRequest {
    CreateSagaRequest { task_id: task_id.into(), queue: queue.into(), ..Default::default() }
}

fn claim(task_id: &str, owner_id: &str) -> ClaimRequest {
    ClaimRequest { task_id: task_id.into(), owner_id: owner_id.into(), ttl: ms(60_000), ..Default::default() }
}

fn denied<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) -> Problem {
    let problem = answer.refused();
    assert_eq!(problem.reason, "PERMISSION_DENIED", "{what}: {problem:?}");
    problem
}

/// Asserts that `a` was denied because of queue `qb`.
fn foreign<T: std::fmt::Debug>(rpc: &str, answer: Result<T, Status>) {
    let problem = denied(rpc, answer);
    assert_eq!((problem.fact("queue"), problem.fact("principal"), problem.fact("rpc")), ("qb", "a", rpc));
}

/// Asserts that `a` was told that there is no such saga.
fn hidden<T: std::fmt::Debug>(rpc: &str, answer: Result<T, Status>) {
    let problem = answer.refused();
    assert_eq!(problem.reason, "SAGA_NOT_FOUND", "{rpc}: {problem:?}");
    assert!(problem.metadata.keys().all(|key| key == "task_id"), "{rpc}: {problem:?}");
}

#[tokio::test]
async fn every_rpc_is_limited_to_the_callers_queues() {
    let (_house, mut a, mut b) = setup_with_clients().await;
    b.sagas.create_saga(in_queue("t", "qb")).await.unwrap();
    let saga = b.sagas.claim(claim("t", "b")).await.unwrap().into_inner().saga.unwrap();
    let lease = saga.lease.unwrap();
    // With the other principal's token and an owner of its own name, only the queue can be the reason of the refusal.
    let (task_id, owner_id, fencing_token) = ("t".to_owned(), "a".to_owned(), lease.fencing_token);
    macro_rules! hidden {
        ($($rpc:ident $name:literal $message:ident { $($field:ident $(: $value:expr)?),* };)*) => {
            $(
                #[allow(clippy::needless_update, reason = "some have no further fields")]
                let message = $message { task_id: task_id.clone(), $($field $(: $value)?,)* ..Default::default() };
                hidden($name, a.sagas.$rpc(message).await);
            )*
        };
    }
    macro_rules! held {
        ($($rpc:ident $name:literal $message:ident { $($field:ident: $value:expr),* };)*) => {
            hidden! { $($rpc $name $message { owner_id: owner_id.clone(), fencing_token $(, $field: $value)* };)* }
        };
    }
    hidden! {
        claim "Claim" ClaimRequest { owner_id: owner_id.clone() };
    }
    held! {
        heartbeat "Heartbeat" HeartbeatRequest {};
        release "Release" ReleaseRequest {};
        register_compensation "RegisterCompensation" RegisterCompensationRequest { compensations: vec![compensation("k")] };
        complete "Complete" CompleteRequest {};
        fail "Fail" FailRequest { reason: "why".into() };
        record_compensation "RecordCompensation" RecordCompensationRequest { position: 1, outcome: 1 };
        compensate "Compensate" CompensateRequest {};
        quarantine "Quarantine" QuarantineRequest { reason: "why".into() };
    }
    foreign("CreateSaga", a.sagas.create_saga(in_queue("u", "qb")).await);
    denied("the default queue is a queue", a.sagas.create_saga(in_queue("u", "")).await);
    let requests = vec![in_queue("u", "qa"), in_queue("v", "qb")];
    let batch = BatchCreateSagasRequest { requests, ..Default::default() };
    let problem = denied("BatchCreateSagas", a.sagas.batch_create_sagas(batch).await);
    assert_eq!((problem.fact("index"), problem.fact("queue")), ("1", "qb"));
    let queues = vec!["qa".to_owned(), "qb".to_owned()];
    let next = ClaimNextRequest { queues: queues.clone(), owner_id: owner_id.clone(), ..Default::default() };
    let next_in_both = next.clone();
    foreign("ClaimNext", a.sagas.claim_next(next).await);
    let item = KeepAliveRequest { task_id: task_id.clone(), owner_id, fencing_token, ..Default::default() };
    let mut answers = a.sagas.keep_alive(futures::stream::iter([item])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().reason, "SAGA_NOT_FOUND");
    // The same calls as items of a session.
    let mut session = Session::over(async |items| a.sagas.session(items).await).await.unwrap();
    let lease = Key { task_id: task_id.clone(), owner_id: "a".into(), fencing_token };
    for (rpc, call) in [
        ("Claim", Call::Claim(claim("t", "a"))),
        ("Heartbeat", Call::Heartbeat(lease.heartbeat())),
        ("Release", Call::Release(lease.release())),
        ("RegisterCompensation", Call::RegisterCompensation(lease.register(&["k"]))),
        ("Complete", Call::Complete(lease.complete())),
        ("Fail", Call::Fail(lease.fail("why"))),
        ("RecordCompensation", Call::RecordCompensation(lease.record(1, CompensationOutcome::Done))),
        ("Compensate", Call::Compensate(lease.compensate())),
    ] {
        hidden(rpc, session.call(call).await);
    }
    foreign("ClaimNext", session.call(Call::ClaimNext(next_in_both)).await);
    let theirs = Key { owner_id: "b".into(), ..lease };
    let problem = denied("another's lease", session.call(Call::Complete(theirs.complete())).await);
    assert_eq!((problem.fact("rpc"), problem.fact("field")), ("Complete", "owner_id"));
    // Reads.
    hidden("GetSaga", a.sagas.get_saga(GetSagaRequest { task_id: task_id.clone(), ..Default::default() }).await);
    hidden("GetSaga", a.sagas.get_saga(GetSagaRequest { saga_id: task_id.clone(), ..Default::default() }).await);
    hidden(
        "ListEvents",
        a.sagas.list_events(ListEventsRequest { task_id: task_id.clone(), ..Default::default() }).await,
    );
    foreign("ListSagas", a.sagas.list_sagas(ListSagasRequest { queues: queues.clone(), ..Default::default() }).await);
    foreign(
        "WatchStale",
        a.sagas.watch_stale(WatchStaleRequest { queues: queues.clone(), ..Default::default() }).await,
    );
    foreign("WatchEvents", a.sagas.watch_events(WatchEventsRequest { queues, ..Default::default() }).await);
    // None of the calls changed anything.
    let saga =
        b.sagas.get_saga(GetSagaRequest { task_id, ..Default::default() }).await.unwrap().into_inner().saga.unwrap();
    assert_eq!((saga.state(), saga.lease.unwrap().fencing_token), (SagaState::Running, fencing_token));
}

#[tokio::test]
async fn requests_without_a_queue_cover_the_callers_queues() {
    let (setup, mut a, mut b) = setup_with_clients().await;
    a.sagas.create_saga(in_queue("mine", "qa")).await.unwrap();
    for (task_id, queue) in [("theirs", "qb"), ("theirs-too", "qc")] {
        b.sagas.create_saga(in_queue(task_id, queue)).await.unwrap();
    }
    let listed = |sagas: ListSagasResponse| sagas.sagas.into_iter().map(|saga| saga.task_id).collect::<Vec<_>>();
    let all = ListSagasRequest::default;
    assert_eq!(listed(a.sagas.list_sagas(all()).await.unwrap().into_inner()), ["mine"]);
    assert_eq!(listed(b.sagas.list_sagas(all()).await.unwrap().into_inner()), ["theirs", "theirs-too"]);
    let mut reader = setup.client("reader").await;
    assert_eq!(listed(reader.sagas.list_sagas(all()).await.unwrap().into_inner()).len(), 3);
    let request = WatchEventsRequest { after_revision: Some(0), ..Default::default() };
    let mut events = a.sagas.watch_events(request).await.unwrap().into_inner();
    b.sagas.create_saga(in_queue("theirs-3", "qb")).await.unwrap();
    a.sagas.create_saga(in_queue("mine-2", "qa")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let Some(watch_events_response::Item::Event(event)) = events.message().await.unwrap().unwrap().item {
            seen.push(event.task_id);
        }
    }
    assert_eq!(seen, ["mine", "mine-2"]);
}

/// Events of one commit are encoded once for all watchers. A watcher of one queue receives nothing of another, whichever other
/// watchers there are.
#[tokio::test]
async fn p17_watchers_of_shared_events_receive_only_their_own_queues() {
    const BATCHES: usize = 20;
    let (setup, mut a, mut b) = setup_with_clients().await;
    let request = WatchEventsRequest { after_revision: Some(0), ..Default::default() };
    let mut watches = Vec::new();
    for (name, last) in [("reader", "last-a"), ("a", "last-a"), ("b", "last-b"), ("reader", "last-a")] {
        let mut client = setup.client(name).await;
        let mut events = client.sagas.watch_events(request.clone()).await.unwrap().into_inner();
        // All watches are open before the first event.
        events.message().await.unwrap().unwrap();
        watches.push((name, last, events));
    }
    let mut operator = setup.client("operator").await;
    for batch in 0..BATCHES {
        let saga = |n: usize| in_queue(&format!("t-{batch}-{n}"), ["qa", "qb", "qa", "qc"][n % 4]);
        let requests = (0..40).map(saga).collect();
        operator.sagas.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    }
    b.sagas.create_saga(in_queue("last-b", "qb")).await.unwrap();
    a.sagas.create_saga(in_queue("last-a", "qa")).await.unwrap();
    for (name, last, mut events) in watches {
        let mut seen: Vec<SagaEvent> = Vec::new();
        while seen.last().is_none_or(|event| event.task_id != last) {
            if let Some(watch_events_response::Item::Event(event)) = events.message().await.unwrap().unwrap().item {
                seen.push(event);
            }
        }
        let (queues, count) = match name {
            "a" => (&["qa"][..], BATCHES * 20 + 1),
            "b" => (&["qb", "qc"][..], BATCHES * 20 + 1),
            _ => (&["qa", "qb", "qc"][..], BATCHES * 40 + 2),
        };
        assert_eq!(
            seen.iter().map(|event| event.queue.as_str()).collect::<BTreeSet<_>>(),
            queues.iter().copied().collect()
        );
        assert_eq!(seen.len(), count, "{name}");
        assert!(seen.is_sorted_by(|one, next| one.revision < next.revision), "{name}");
    }
}

#[tokio::test]
async fn an_owner_id_must_begin_with_its_principals_name() {
    let (setup, mut a, _) = setup_with_clients().await;
    for (n, owner) in ["a", "a/host-7", "a/"].into_iter().enumerate() {
        a.sagas.create_saga(in_queue(&format!("t{n}"), "qa")).await.unwrap();
        a.sagas.claim(claim(&format!("t{n}"), owner)).await.unwrap();
    }
    a.sagas.create_saga(in_queue("t", "qa")).await.unwrap();
    let mut admin = setup.client("admin").await;
    for owner in ["b", "ab", "A", "b/a"] {
        for client in [&mut a, &mut admin] {
            let problem = denied(owner, client.sagas.claim(claim("t", owner)).await);
            assert_eq!((problem.fact("field"), problem.fact("rpc")), ("owner_id", "Claim"));
        }
        let next = ClaimNextRequest { queues: vec!["qa".into()], owner_id: owner.into(), ..Default::default() };
        assert_eq!(denied(owner, a.sagas.claim_next(next).await).fact("field"), "owner_id");
        let heartbeat =
            HeartbeatRequest { task_id: "t".into(), owner_id: owner.into(), fencing_token: 1, ..Default::default() };
        assert_eq!(denied(owner, a.sagas.heartbeat(heartbeat).await).fact("field"), "owner_id");
    }
}

#[tokio::test]
async fn a_request_id_belongs_to_one_principal() {
    let setup = AuthSetup::start(&[entry("a", "['worker']", "['q']"), entry("b", "['worker']", "['q']")].concat());
    let (mut a, mut b) = (setup.client("a").await, setup.client("b").await);
    let request = CreateSagaRequest { request_id: named("once"), payload: "secret".into(), ..in_queue("", "q") };
    let create = async |client: &mut TokenClient| {
        client.sagas.create_saga(request.clone()).await.unwrap().into_inner().saga.unwrap()
    };
    let first = create(&mut a).await;
    assert_eq!(create(&mut a).await.task_id, first.task_id, "the owner's repeat");
    assert_ne!(create(&mut b).await.task_id, first.task_id, "another principal's request");
}

#[tokio::test]
async fn a_repeat_shows_nothing_of_queues_the_caller_lost() {
    let setup = AuthSetup::start(&entry("w", "['worker']", "['q1', 'q2']"));
    let mut client = setup.client("w").await;
    client.sagas.create_saga(in_queue("t", "q1")).await.unwrap();
    let complete = |token| CompleteRequest {
        task_id: "t".into(),
        owner_id: "w".into(),
        fencing_token: token,
        request_id: named("complete"),
        ..Default::default()
    };
    let saga = client.sagas.claim(claim("t", "w")).await.unwrap().into_inner().saga.unwrap();
    let token = saga.lease.unwrap().fencing_token;
    client.sagas.complete(complete(token)).await.unwrap();
    client.sagas.complete(complete(token)).await.unwrap();
    setup.rewrite(&entry("w", "['worker']", "['q2']"));
    crate::support::eventually("the queue is taken away", || {
        let mut client = client.clone();
        async move { client.sagas.complete(Request::new(complete(token))).await.err() }
    })
    .await;
    hidden("Complete", client.sagas.complete(complete(token)).await);
}

/// The content of an error with one id replaced by another of the same length, and the length of its details, whose order is
/// random.
fn told(status: &Status, id: &str, instead: &str) -> (Problem, usize) {
    assert_eq!(id.len(), instead.len());
    let mut problem = Problem::of(status);
    problem.message = problem.message.replace(id, instead);
    problem.metadata.values_mut().for_each(|value| *value = value.replace(id, instead));
    (problem, status.details().len())
}

/// Calls every rpc for a saga that the caller may not see and for a missing one: the answers are equal in every detail, in
/// whatever state the saga is and whoever holds it.
#[tokio::test]
async fn a_saga_outside_the_callers_queues_is_answered_like_a_missing_one() {
    let (setup, _, mut b) = setup_with_clients().await;
    let hidden = ["hidden-planned", "hidden-running", "hidden-undoing", "hidden-ended"];
    for task_id in hidden {
        let policy = Some(Policy { on_failure: FailureAction::Compensate.into(), ..Default::default() });
        let request = CreateSagaRequest { policy, ..in_queue(task_id, "qb") };
        b.sagas.create_saga(CreateSagaRequest { compensations: vec![compensation("k")], ..request }).await.unwrap();
        if task_id == "hidden-planned" {
            continue;
        }
        let saga = b.sagas.claim(claim(task_id, "b")).await.unwrap().into_inner().saga.unwrap();
        let (task_id, owner_id, fencing_token) =
            (task_id.to_owned(), "b".to_owned(), saga.lease.unwrap().fencing_token);
        match task_id.as_str() {
            "hidden-undoing" => {
                let reason = "why".to_owned();
                let fail = FailRequest { task_id, owner_id, fencing_token, reason, ..Default::default() };
                b.sagas.fail(fail).await.unwrap();
            }
            "hidden-ended" => {
                let complete = CompleteRequest { task_id, owner_id, fencing_token, ..Default::default() };
                b.sagas.complete(complete).await.unwrap();
            }
            _ => {}
        }
    }
    let channel = setup.daemon.channel().await;
    let header = format!("Bearer {}", token("a"));
    let mut rpcs: Vec<_> = contract().into_iter().map(|rpc| (rpc.name.clone(), rpc)).collect();
    let (_, quarantine) = rpcs.iter().find(|(name, _)| name == "Quarantine").unwrap().clone();
    rpcs.push(("Quarantine as holder".to_owned(), quarantine));
    let mut not_found = 0;
    for (name, rpc) in &rpcs {
        if ["CreateSaga", "BatchCreateSagas"].contains(&name.as_str()) {
            // These name sagas that do not exist yet; see the next test.
            continue;
        }
        for task_id in hidden {
            let absent = task_id.replace("hidden", "absent");
            let ask = async |task_id: &str| {
                raw_rpc::call(&channel, &rpc.path, rpc.streams, request(name, "a", task_id), &[&header]).await
            };
            match (ask(task_id).await, ask(&absent).await) {
                (Ok(()), Ok(())) => {}
                (Err(hidden), Err(missing)) => {
                    not_found += usize::from(missing.code() == tonic::Code::NotFound);
                    let (hidden, missing) = (told(&hidden, task_id, &absent), told(&missing, &absent, &absent));
                    assert_eq!(hidden, missing, "{name} about {task_id}");
                }
                (hidden, missing) => panic!("{name} about {task_id}: {hidden:?}, and about none {missing:?}"),
            }
        }
    }
    assert!(not_found >= 11 * hidden.len(), "each rpc that names a saga was called: {not_found}");
}

/// Other ways to name a saga: by its saga id, in streams, and by a creation.
#[tokio::test]
async fn streams_and_saga_ids_reveal_no_hidden_saga() {
    let (_house, mut a, mut b) = setup_with_clients().await;
    b.sagas.create_saga(CreateSagaRequest { saga_id: "hidden-s".into(), ..in_queue("hidden-t", "qb") }).await.unwrap();
    for (hidden, absent) in [("hidden-s", "absent-s"), ("hidden-t", "absent-t")] {
        let by_saga_id = |saga_id: &str| GetSagaRequest { saga_id: saga_id.into(), ..Default::default() };
        let found = a.sagas.get_saga(by_saga_id(hidden)).await.unwrap_err();
        let missing = a.sagas.get_saga(by_saga_id(absent)).await.unwrap_err();
        assert_eq!(told(&found, hidden, absent), told(&missing, absent, absent));
        let item = |task_id: &str| KeepAliveRequest {
            task_id: task_id.into(),
            owner_id: "a".into(),
            fencing_token: 1,
            ..Default::default()
        };
        let items = futures::stream::iter([item(hidden), item(absent)]);
        let mut answers = a.sagas.keep_alive(items).await.unwrap().into_inner();
        let mut next =
            async || KeepAliveResponse { task_id: String::new(), ..answers.message().await.unwrap().unwrap() };
        assert_eq!(next().await, next().await);
    }
    for task_id in ["hidden-t", "absent-t"] {
        let request = WatchEventsRequest { task_id: task_id.into(), after_revision: Some(0), ..Default::default() };
        let mut events = a.sagas.watch_events(request).await.unwrap().into_inner();
        b.sagas.annotate(annotate("hidden-t")).await.unwrap_err();
        let quiet = std::time::Duration::from_millis(300);
        while let Ok(item) = tokio::time::timeout(quiet, events.message()).await {
            let item = item.unwrap().unwrap().item;
            assert!(matches!(item, Some(watch_events_response::Item::Bookmark(_))), "{task_id}: {item:?}");
        }
    }
    // Ids are unique among all sagas, so a creation reveals that an id is taken. But the answer is the same as for an id in the
    // caller's own queue.
    a.sagas.create_saga(in_queue("public-t", "qa")).await.unwrap();
    let taken =
        async |client: &mut TokenClient, id: &str| client.sagas.create_saga(in_queue(id, "qa")).await.unwrap_err();
    let (foreign, own) = (taken(&mut a, "hidden-t").await, taken(&mut a, "public-t").await);
    assert_eq!(Problem::of(&foreign).reason, "SAGA_EXISTS");
    assert_eq!(told(&foreign, "hidden-t", "public-t"), told(&own, "public-t", "public-t"));
}

/// A denied queue is answered alike, whether it exists or not.
#[tokio::test]
async fn a_denied_queue_is_answered_alike_whether_it_exists_or_not() {
    let (_house, mut a, mut b) = setup_with_clients().await;
    b.sagas.create_saga(in_queue("t", "qb")).await.unwrap();
    macro_rules! asked {
        ($($rpc:ident $message:ident { $($field:ident: $value:expr),* };)*) => {
            $({
                let mut all = Vec::new();
                for queue in ["qb", "q0"] {
                    let message = $message { queues: vec![queue.to_owned()], $($field: $value,)* ..Default::default() };
                    all.push(told(&a.sagas.$rpc(message).await.unwrap_err(), queue, "q0"));
                }
                assert_eq!(all[0], all[1], stringify!($rpc));
            })*
        };
    }
    asked! {
        claim_next ClaimNextRequest { owner_id: "a".to_owned() };
        list_sagas ListSagasRequest {};
        watch_stale WatchStaleRequest {};
        watch_events WatchEventsRequest {};
    }
    let mut create = async |queue: &str| {
        let status = a.sagas.create_saga(in_queue("u", queue)).await.unwrap_err();
        told(&status, queue, "q0")
    };
    assert_eq!(create("qb").await, create("q0").await);
}

/// A caller who may read a saga but not claim it is told the reason: it knows that the saga exists.
#[tokio::test]
async fn a_caller_who_may_read_a_saga_is_told_the_denied_queue() {
    let setup = AuthSetup::start(&[everyone(), entry("both", "['worker', 'reader']", "['qa']")].concat());
    let (mut b, mut both) = (setup.client("b").await, setup.client("both").await);
    b.sagas.create_saga(in_queue("t", "qb")).await.unwrap();
    both.sagas.get_saga(GetSagaRequest { task_id: "t".into(), ..Default::default() }).await.unwrap();
    assert_eq!(denied("Claim", both.sagas.claim(claim("t", "both")).await).fact("queue"), "qb");
}

fn annotate(task_id: &str) -> AnnotateRequest {
    AnnotateRequest { task_id: task_id.into(), actor: "b".into(), note: "n".into(), ..Default::default() }
}

/// A denied claim does not make a queue look as if it had a compensation handler.
#[tokio::test]
async fn a_denied_claim_does_not_count_as_a_compensation_handler() {
    let (setup, mut a, mut b) = setup_with_clients().await;
    let claim = |queues: &[&str], owner: &str| ClaimNextRequest {
        queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
        owner_id: owner.into(),
        purpose: LeasePurpose::Compensate.into(),
        compensation_kinds: vec!["k".into()],
        ..Default::default()
    };
    foreign("ClaimNext", a.sagas.claim_next(claim(&["qb"], "a")).await);
    // It may claim from the first queue, but the call is denied as a whole.
    foreign("ClaimNext", a.sagas.claim_next(claim(&["qa", "qb"], "a")).await);
    let operator = setup.client("operator").await;
    let asked = async || {
        let vitals = operator.clone().admin.get_vitals(GetVitalsRequest::default()).await.unwrap().into_inner();
        vitals.asked_kinds.into_iter().map(|asked| asked.queue).collect::<Vec<_>>()
    };
    assert_eq!(asked().await, [""; 0]);
    b.sagas.claim_next(claim(&["qb"], "b")).await.unwrap();
    assert_eq!(asked().await, ["qb"]);
}
