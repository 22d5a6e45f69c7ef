//! Large requests and large answers.

use std::collections::BTreeSet;

use futures::stream;
use prost::Message;
use sagad::proto::*;

use crate::support::*;

const BLOB: usize = 64 << 10;
const ANSWER: usize = 3 << 20;

#[tokio::test]
async fn p12_blobs_of_64_kib_are_taken_and_one_byte_more_is_refused_by_field() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let blob = |bytes: usize| bytes::Bytes::from(vec![0xff; bytes]);
    api.create_saga(CreateSagaRequest { payload: blob(BLOB), ..create("t") }).await.unwrap();
    let larger = CreateSagaRequest { payload: blob(BLOB + 1), ..create("u") };
    assert_eq!(api.create_saga(larger.clone()).await.refused().fields, ["payload"]);
    let batch = BatchCreateSagasRequest { requests: vec![create("v"), larger], ..Default::default() };
    assert_eq!(api.batch_create_sagas(batch).await.refused().fields, ["requests[1].payload"]);

    let lease = key(&api.claim(claim("t", "w", 60_000)).await.unwrap());
    let progress = |bytes| HeartbeatRequest { progress: Some(blob(bytes)), ..lease.heartbeat() };
    api.heartbeat(progress(BLOB)).await.unwrap();
    assert_eq!(api.heartbeat(progress(BLOB + 1)).await.refused().fields, ["progress"]);
    let result = |bytes| CompleteRequest { result: blob(bytes), ..lease.complete() };
    assert_eq!(api.complete(result(BLOB + 1)).await.refused().fields, ["result"]);
    let saga = api.complete(result(BLOB)).await.unwrap();
    assert_eq!([saga.payload.len(), saga.progress.len(), saga.result.len()], [BLOB; 3]);
    assert_eq!(api.get("t").await, saga);
}

#[tokio::test]
async fn p12_a_message_over_4_mib_is_refused_with_error_info() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let huge = CreateSagaRequest { payload: vec![0; 5 << 20].into(), ..create("t") };
    let problem = api.create_saga(huge).await.refused();
    assert_eq!(problem.reason, "INVALID_ARGUMENT");
    assert!(problem.message.contains("4194304"), "{}", problem.message);
    // Over the batch's own bound, though under the message's.
    let requests = (0..40).map(|i| CreateSagaRequest { payload: vec![0; BLOB].into(), ..create(&format!("t-{i}")) });
    let batch = BatchCreateSagasRequest { requests: requests.collect(), ..Default::default() };
    assert_eq!(api.batch_create_sagas(batch).await.refused().fields, ["requests"]);
    assert_eq!(api.stats().await.ready, 0);

    // A stream whose message is too large is broken, and says so.
    let huge = KeepAliveRequest { progress: Some(vec![0; 5 << 20].into()), ..Default::default() };
    let mut answers = api.sagas.clone().keep_alive(stream::iter([huge])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.reason(), "INVALID_ARGUMENT");
    api.create_saga(create("t")).await.expect("the connection goes on");
}

/// A saga of about a MiB, all of it listed: compensations are not left out.
fn huge(task_id: &str) -> CreateSagaRequest {
    let text = "x".repeat(4096);
    let compensations = (0..128)
        .map(|i| CompensationSpec { kind: format!("k{i}"), target: text.clone(), reason: text.clone() })
        .collect();
    CreateSagaRequest { compensations, payload: vec![1; BLOB].into(), ..create(task_id) }
}

#[tokio::test]
async fn p10_no_answer_exceeds_3_mib_and_pages_are_complete() {
    const SAGAS: usize = 10;
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for i in 0..SAGAS {
        api.create_saga(huge(&format!("huge-{i}"))).await.unwrap();
        api.create_saga(create(&format!("small-{i}"))).await.unwrap();
    }
    for newest_first in [false, true] {
        let mut request = ListSagasRequest { page_size: 1000, newest_first, ..Default::default() };
        let mut listed = Vec::new();
        loop {
            let page = api.list_sagas(request.clone()).await.unwrap();
            assert!(page.encoded_len() <= ANSWER, "{} bytes", page.encoded_len());
            assert!(!page.sagas.is_empty() && page.sagas.iter().all(|saga| saga.payload.is_empty()));
            listed.extend(page.sagas.into_iter().map(|saga| saga.task_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(listed.len(), 2 * SAGAS);
        assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), 2 * SAGAS, "each exactly once");
    }
    // ClaimNext hands out fewer, and the rest later.
    let next = ClaimNextRequest {
        queues: vec!["default".into()],
        owner_id: "w".into(),
        ttl: secs(600),
        max_sagas: 100,
        ..Default::default()
    };
    let mut claimed = 0;
    loop {
        let sagas = api.claim_next(next.clone()).await.unwrap();
        if sagas.is_empty() {
            break;
        }
        let answer = ClaimNextResponse { sagas };
        assert!(answer.encoded_len() <= ANSWER, "{} bytes", answer.encoded_len());
        claimed += answer.sagas.len();
    }
    assert_eq!(claimed, 2 * SAGAS);
}

#[tokio::test]
async fn p12_page_tokens_belong_to_their_filter() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for i in 0..5 {
        api.create_saga(create(&format!("t-{i}"))).await.unwrap();
    }
    let request = ListSagasRequest { page_size: 2, ..Default::default() };
    let token = api.list_sagas(request.clone()).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    // Another size is fine, another filter is not.
    let rest = ListSagasRequest { page_size: 1000, page_token: token.clone(), ..Default::default() };
    assert_eq!(api.list_sagas(rest).await.unwrap().sagas.len(), 3);
    let other = ListSagasRequest { queues: vec!["q".into()], page_token: token.clone(), ..Default::default() };
    assert_eq!(api.list_sagas(other).await.refused().fields, ["page_token"]);
    let events = ListEventsRequest { task_id: "t-1".into(), page_token: token, ..Default::default() };
    assert_eq!(api.list_events(events).await.refused().fields, ["page_token"]);
    for page_token in ["x".to_owned(), "a".repeat(100_000), "=".into(), "ä".into()] {
        let forged = ListSagasRequest { page_token, ..Default::default() };
        assert_eq!(api.list_sagas(forged).await.refused().fields, ["page_token"]);
    }
    let larger = ListSagasRequest { page_size: 1001, ..Default::default() };
    assert_eq!(api.list_sagas(larger).await.refused().fields, ["page_size"]);
}

#[tokio::test]
async fn p12_a_listing_holds_each_saga_that_matches_throughout_exactly_once() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let requests = (0..100).map(|i| create(&format!("t-{i}"))).collect();
    api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    let mut request = ListSagasRequest { in_flight_only: true, page_size: 7, ..Default::default() };
    let mut listed = Vec::new();
    let mut changed = BTreeSet::new();
    loop {
        let page = api.list_sagas(request.clone()).await.unwrap();
        listed.extend(page.sagas.iter().map(|saga| saga.task_id.clone()));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        // In between some end, others are made and changed.
        let other = format!("t-{}", (listed.len() * 37) % 100);
        if changed.insert(other.clone()) {
            let saga = api.claim(claim(&other, "w", 60_000)).await.unwrap();
            api.complete(key(&saga).complete()).await.unwrap();
        }
        api.create_saga(CreateSagaRequest::default()).await.unwrap();
    }
    let seen: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(seen.len(), listed.len(), "one twice");
    for i in 0..100 {
        let task_id = format!("t-{i}");
        assert!(seen.contains(&task_id) || changed.contains(&task_id), "{task_id} is missing");
    }
}
