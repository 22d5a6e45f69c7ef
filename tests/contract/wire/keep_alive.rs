//! `KeepAlive`: many leases over one stream, none of which depends on the stream.

use std::{collections::HashMap, time::Duration};

use futures::{StreamExt, stream};
use sagad::proto::*;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::*;

const LEASES: usize = 50;

async fn leases(api: &Api) -> Vec<Saga> {
    let requests = (0..LEASES).map(|i| create(&format!("t-{i}"))).collect();
    api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    let request = ClaimNextRequest {
        queues: vec!["default".into()],
        owner_id: "w".into(),
        ttl: secs(60),
        max_sagas: 100,
        ..Default::default()
    };
    api.claim_next(request).await.unwrap()
}

#[tokio::test]
async fn m4_one_stream_keeps_fifty_leases_and_a_refused_item_does_not_end_it() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let sagas = leases(&api).await;
    assert_eq!(sagas.len(), LEASES);
    // One saga is cancelled, one lease is over.
    let cancel = RequestCancelRequest {
        task_id: sagas[3].task_id.clone(),
        actor: "ada".into(),
        reason: "enough".into(),
        ..Default::default()
    };
    api.request_cancel(cancel).await.unwrap();
    api.complete(key(&sagas[4]).complete()).await.unwrap();

    let (send, items) = mpsc::channel(8);
    let mut answers = api.sagas.clone().keep_alive(ReceiverStream::new(items)).await.unwrap().into_inner();
    let mut expiry: HashMap<String, i64> = HashMap::new();
    for round in 0..3 {
        let mut sent: Vec<_> = sagas.iter().map(|saga| key(saga).keep_alive()).collect();
        sent.insert(7, Key { owner_id: "other".into(), ..key(&sagas[7]) }.keep_alive());
        sent.insert(20, Key { task_id: "nobody".into(), ..key(&sagas[0]) }.keep_alive());
        sent.push(KeepAliveRequest { ttl: ms(1), ..key(&sagas[0]).keep_alive() });
        for item in &sent {
            send.send(item.clone()).await.unwrap();
            let answer = timeout(WAIT_MAX, answers.message()).await.unwrap().unwrap().unwrap();
            assert_eq!(answer.task_id, item.task_id, "answers come in the order of the items");
            let refused = match (&*item.task_id, &*item.owner_id, item.ttl) {
                (_, _, Some(_)) => Some((Code::InvalidArgument, "INVALID_ARGUMENT")),
                ("nobody", ..) => Some((Code::NotFound, "SAGA_NOT_FOUND")),
                (_, "other", _) => Some((Code::Aborted, "NOT_OWNER")),
                (task_id, ..) if task_id == sagas[4].task_id => Some((Code::FailedPrecondition, "SAGA_TERMINAL")),
                _ => None,
            };
            if let Some((code, reason)) = refused {
                assert_eq!((answer.code, answer.reason.as_str()), (code as i32, reason));
                assert!(answer.lease.is_none() && !answer.message.is_empty());
                continue;
            }
            assert_eq!((answer.code, answer.reason.as_str()), (0, ""));
            let lease = answer.lease.as_ref().unwrap();
            let extended = micros(lease.expire_time.as_ref());
            assert!(expiry.insert(item.task_id.clone(), extended).is_none_or(|before| before < extended), "{round}");
            let cancelled = item.task_id == sagas[3].task_id;
            let expected = if cancelled { (Directive::Cancel, "enough") } else { (Directive::Continue, "") };
            assert_eq!((answer.directive(), answer.cancel_reason.as_str()), expected);
        }
    }
    assert_eq!(expiry.len(), LEASES - 1);
    drop(send);
    assert!(answers.message().await.unwrap().is_none(), "the stream ends when the client closes its side");
}

#[tokio::test]
async fn m4_a_refusal_that_leaves_the_lease_valid_carries_the_directive() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let cancel = RequestCancelRequest {
        task_id: "t".into(),
        actor: "ada".into(),
        reason: "enough".into(),
        ..Default::default()
    };
    api.request_cancel(cancel).await.unwrap();
    let short = KeepAliveRequest { ttl: ms(100), ..key(&saga).keep_alive() };
    let mut answers = api.sagas.clone().keep_alive(stream::iter([short])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.reason.as_str(), answer.directive()), ("LEASE_NOT_EXTENDED", Directive::Cancel));
    assert_eq!(answer.cancel_reason, "enough");
}

#[tokio::test]
async fn m4_a_lease_does_not_depend_on_a_connection() {
    let daemon = Daemon::start();
    let looker = daemon.api().await;
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let items = stream::iter([key(&saga).keep_alive()]).chain(stream::pending());
    let mut answers = api.sagas.clone().keep_alive(items).await.unwrap().into_inner();
    let lease = answers.message().await.unwrap().unwrap().lease;
    // The stream and its connection are dropped without being closed.
    drop(answers);
    drop(api);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = looker.get("t").await;
    assert_eq!((&after.lease, after.stale, after.state()), (&lease, false, SagaState::Running));
    assert_eq!(looker.claim(claim("t", "other", 1000)).await.reason(), "LEASE_HELD");
    // The lease can be used with its token over any connection.
    looker.heartbeat(key(&saga).heartbeat()).await.unwrap();
    looker.complete(key(&saga).complete()).await.unwrap();
}
