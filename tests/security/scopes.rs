//! A worker is confined to its queues by every verb, reads and repeats included; and to owners of its own name.

use sagad::proto::*;
use tonic::{Request, Status};

use crate::{
    people::{Client, House, entry, everyone},
    support::{Problem, Refused, compensation, ms, named},
};

async fn house() -> (House, Client, Client) {
    let house = House::start(&everyone());
    let (a, b) = (house.client("a").await, house.client("b").await);
    (house, a, b)
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

/// Denied for this queue, to `a`.
fn foreign<T: std::fmt::Debug>(rpc: &str, answer: Result<T, Status>) {
    let problem = denied(rpc, answer);
    assert_eq!((problem.fact("queue"), problem.fact("principal"), problem.fact("rpc")), ("qb", "a", rpc));
}

#[tokio::test]
async fn every_verb_is_confined() {
    let (_house, mut a, mut b) = house().await;
    b.sagas.create_saga(in_queue("t", "qb")).await.unwrap();
    let saga = b.sagas.claim(claim("t", "b")).await.unwrap().into_inner().saga.unwrap();
    let lease = saga.lease.unwrap();
    // With the very lease of the other, under a name of its own: what stops it is the queue.
    let (task_id, owner_id, fencing_token) = ("t".to_owned(), "a".to_owned(), lease.fencing_token);
    macro_rules! foreign {
        ($($rpc:ident $name:literal $message:ident { $($field:ident $(: $value:expr)?),* };)*) => {
            $(
                #[allow(clippy::needless_update, reason = "some have no further fields")]
                let message = $message { task_id: task_id.clone(), $($field $(: $value)?,)* ..Default::default() };
                foreign($name, a.sagas.$rpc(message).await);
            )*
        };
    }
    macro_rules! held {
        ($($rpc:ident $name:literal $message:ident { $($field:ident: $value:expr),* };)*) => {
            foreign! { $($rpc $name $message { owner_id: owner_id.clone(), fencing_token $(, $field: $value)* };)* }
        };
    }
    foreign! {
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
    foreign("ClaimNext", a.sagas.claim_next(next).await);
    let item = KeepAliveRequest { task_id: task_id.clone(), owner_id, fencing_token, ..Default::default() };
    let mut answers = a.sagas.keep_alive(futures::stream::iter([item])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().reason, "PERMISSION_DENIED");
    // Reads.
    foreign("GetSaga", a.sagas.get_saga(GetSagaRequest { task_id: task_id.clone(), ..Default::default() }).await);
    foreign("GetSaga", a.sagas.get_saga(GetSagaRequest { saga_id: task_id.clone(), ..Default::default() }).await);
    foreign(
        "ListEvents",
        a.sagas.list_events(ListEventsRequest { task_id: task_id.clone(), ..Default::default() }).await,
    );
    foreign("ListSagas", a.sagas.list_sagas(ListSagasRequest { queues: queues.clone(), ..Default::default() }).await);
    foreign(
        "WatchStale",
        a.sagas.watch_stale(WatchStaleRequest { queues: queues.clone(), ..Default::default() }).await,
    );
    foreign("WatchEvents", a.sagas.watch_events(WatchEventsRequest { queues, ..Default::default() }).await);
    // Nothing of it happened.
    let saga =
        b.sagas.get_saga(GetSagaRequest { task_id, ..Default::default() }).await.unwrap().into_inner().saga.unwrap();
    assert_eq!((saga.state(), saga.lease.unwrap().fencing_token), (SagaState::Running, fencing_token));
}

#[tokio::test]
async fn what_names_no_queue_is_about_ones_own() {
    let (house, mut a, mut b) = house().await;
    a.sagas.create_saga(in_queue("mine", "qa")).await.unwrap();
    for (task_id, queue) in [("theirs", "qb"), ("theirs-too", "qc")] {
        b.sagas.create_saga(in_queue(task_id, queue)).await.unwrap();
    }
    let listed = |sagas: ListSagasResponse| sagas.sagas.into_iter().map(|saga| saga.task_id).collect::<Vec<_>>();
    let all = ListSagasRequest::default;
    assert_eq!(listed(a.sagas.list_sagas(all()).await.unwrap().into_inner()), ["mine"]);
    assert_eq!(listed(b.sagas.list_sagas(all()).await.unwrap().into_inner()), ["theirs", "theirs-too"]);
    let mut reader = house.client("reader").await;
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

#[tokio::test]
async fn an_owner_bears_the_name_of_its_principal() {
    let (house, mut a, _) = house().await;
    for (n, owner) in ["a", "a/host-7", "a/"].into_iter().enumerate() {
        a.sagas.create_saga(in_queue(&format!("t{n}"), "qa")).await.unwrap();
        a.sagas.claim(claim(&format!("t{n}"), owner)).await.unwrap();
    }
    a.sagas.create_saga(in_queue("t", "qa")).await.unwrap();
    let mut admin = house.client("admin").await;
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
async fn a_request_id_is_its_principals_own() {
    let house = House::start(&[entry("a", "['worker']", "['q']"), entry("b", "['worker']", "['q']")].concat());
    let (mut a, mut b) = (house.client("a").await, house.client("b").await);
    let request = CreateSagaRequest { request_id: named("once"), payload: "secret".into(), ..in_queue("", "q") };
    let create =
        async |client: &mut Client| client.sagas.create_saga(request.clone()).await.unwrap().into_inner().saga.unwrap();
    let first = create(&mut a).await;
    assert_eq!(create(&mut a).await.task_id, first.task_id, "a repeat");
    assert_ne!(create(&mut b).await.task_id, first.task_id, "another's");
}

#[tokio::test]
async fn a_repeat_tells_nothing_of_queues_that_were_taken_away() {
    let house = House::start(&entry("w", "['worker']", "['q1', 'q2']"));
    let mut client = house.client("w").await;
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
    house.rewrite(&entry("w", "['worker']", "['q2']"));
    crate::support::eventually("the queue is taken away", || {
        let mut client = client.clone();
        async move { client.sagas.complete(Request::new(complete(token))).await.err() }
    })
    .await;
    assert_eq!(denied("Complete", client.sagas.complete(complete(token)).await).fact("queue"), "q1");
}
