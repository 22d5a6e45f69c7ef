//! Large requests and large answers.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use prost::Message;
use sagad::proto::*;

use crate::support::*;

const BLOB: usize = 64 << 10;
const ANSWER: usize = 3 << 20;

#[tokio::test]
async fn p12_blobs_of_64_kib_are_accepted_and_larger_ones_refused_with_the_field() {
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
    let release = ReleaseRequest { progress: Some(blob(BLOB + 1)), ..lease.release() };
    assert_eq!(api.release(release).await.refused().fields, ["progress"]);
    let fail = FailRequest { progress: Some(blob(BLOB + 1)), ..lease.fail("broke") };
    assert_eq!(api.fail(fail).await.refused().fields, ["progress"]);
    let complete = CompleteRequest { progress: Some(blob(BLOB + 1)), ..lease.complete() };
    assert_eq!(api.complete(complete).await.refused().fields, ["progress"]);
    let result = |bytes| CompleteRequest { result: blob(bytes), ..lease.complete() };
    assert_eq!(api.complete(result(BLOB + 1)).await.refused().fields, ["result"]);
    let saga = api.complete(result(BLOB)).await.unwrap();
    assert_eq!([saga.payload.len(), saga.progress.len(), saga.result.len()], [BLOB; 3]);
    assert_eq!(api.get("t").await, saga);
    api.create_saga(create("w")).await.unwrap();
    let lease = key(&api.claim(claim("w", "w", 60_000)).await.unwrap());
    let last = ReleaseRequest { progress: Some(blob(BLOB)), ..lease.release() };
    assert_eq!(api.release(last).await.unwrap().progress.len(), BLOB);
}

#[tokio::test]
async fn p12_a_message_over_4_mib_is_refused_with_error_info() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let huge = CreateSagaRequest { payload: vec![0; 5 << 20].into(), ..create("t") };
    let problem = api.create_saga(huge).await.refused();
    assert_eq!(problem.reason, "INVALID_ARGUMENT");
    assert!(problem.message.contains("4194304"), "{}", problem.message);
    // Over the limit of the batch, but under that of the message.
    let requests = (0..40).map(|i| CreateSagaRequest { payload: vec![0; BLOB].into(), ..create(&format!("t-{i}")) });
    let batch = BatchCreateSagasRequest { requests: requests.collect(), ..Default::default() };
    assert_eq!(api.batch_create_sagas(batch).await.refused().fields, ["requests"]);
    assert_eq!(api.stats().await.ready, 0);

    // A stream ends with an error for a message that is too large.
    let huge = KeepAliveRequest { progress: Some(vec![0; 5 << 20].into()), ..Default::default() };
    let mut answers = api.sagas.clone().keep_alive(stream::iter([huge])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.reason(), "INVALID_ARGUMENT");
    let huge = HeartbeatRequest { progress: Some(vec![0; 5 << 20].into()), ..Default::default() };
    let huge = SessionRequest { call: Some(session_request::Call::Heartbeat(huge)), ..Default::default() };
    let mut answers = api.sagas.clone().session(stream::iter([huge])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.reason(), "INVALID_ARGUMENT");
    api.create_saga(create("t")).await.expect("the connection still works");
}

#[tokio::test]
async fn gzipped_requests_are_accepted_and_their_unpacked_size_is_limited() {
    let daemon = Daemon::start();
    let channel = daemon.channel().await;
    let gzip = tonic::codec::CompressionEncoding::Gzip;
    let sagas = saga_service_client::SagaServiceClient::new(channel.clone()).send_compressed(gzip);
    let admin = admin_service_client::AdminServiceClient::new(channel.clone()).send_compressed(gzip);
    let api = Api { sagas, admin, channel };
    let payload = bytes::Bytes::from(vec![7; BLOB]);
    let saga = api.create_saga(CreateSagaRequest { payload: payload.clone(), ..create("t") }).await.unwrap();
    assert_eq!(saga.payload, payload);
    let saga = api.claim(claim("t", "w", 60_000)).await.unwrap();
    let beats = stream::iter([key(&saga).keep_alive(), key(&saga).keep_alive()]);
    let mut answers = api.sagas.clone().keep_alive(beats).await.unwrap().into_inner();
    for _ in 0..2 {
        assert_eq!(answers.message().await.unwrap().unwrap().reason, "");
    }
    api.admin.clone().get_server_info(GetServerInfoRequest {}).await.unwrap();
    // Some KiB that unpack to 5 and 64 MiB are refused like messages of that size.
    for mib in [5, 64] {
        let bomb = CreateSagaRequest { payload: vec![0; mib << 20].into(), ..create("u") };
        let problem = api.create_saga(bomb).await.refused();
        assert_eq!((problem.reason.as_str(), problem.code), ("INVALID_ARGUMENT", tonic::Code::InvalidArgument));
        assert!(problem.message.contains("4194304"), "{}", problem.message);
    }
    api.create_saga(create("u")).await.expect("the connection still works");
    // Another compression is refused, and the answer names the accepted ones.
    let mut request = tonic::Request::new(create("v"));
    request.metadata_mut().insert("grpc-encoding", "snappy".parse().unwrap());
    let refused = daemon.api().await.sagas.create_saga(request).await.unwrap_err();
    let accepted = refused.metadata().get("grpc-accept-encoding").unwrap().to_str().unwrap().to_owned();
    assert!(accepted.contains("gzip"), "{accepted}");
    let info = tonic_types::StatusExt::get_details_error_info(&refused).unwrap();
    assert_eq!((refused.code(), info.reason.as_str()), (tonic::Code::Unimplemented, "UNIMPLEMENTED"));
    assert!(refused.message().contains("snappy"), "{refused:?}");
}

/// A saga of about a MiB in compensations, which lists don't omit.
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
    // ClaimNext returns fewer than asked for, and the rest in later calls.
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
        let answer = ClaimNextResponse { sagas, ..Default::default() };
        assert!(answer.encoded_len() <= ANSWER, "{} bytes", answer.encoded_len());
        claimed += answer.sagas.len();
    }
    assert_eq!(claimed, 2 * SAGAS);
}

#[tokio::test]
async fn p12_a_page_token_is_valid_for_its_own_filter_only() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for i in 0..5 {
        api.create_saga(create(&format!("t-{i}"))).await.unwrap();
    }
    let request = ListSagasRequest { page_size: 2, ..Default::default() };
    let token = api.list_sagas(request.clone()).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    // A token may be used with another page size, but not with another filter.
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
async fn p12_a_saga_that_matches_throughout_a_listing_is_listed_exactly_once() {
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
        // Between two pages some sagas end, and others are created and changed.
        let other = format!("t-{}", (listed.len() * 37) % 100);
        if changed.insert(other.clone()) {
            let saga = api.claim(claim(&other, "w", 60_000)).await.unwrap();
            api.complete(key(&saga).complete()).await.unwrap();
        }
        api.create_saga(CreateSagaRequest::default()).await.unwrap();
    }
    let seen: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(seen.len(), listed.len(), "a saga was listed twice");
    for i in 0..100 {
        let task_id = format!("t-{i}");
        assert!(seen.contains(&task_id) || changed.contains(&task_id), "{task_id} is missing");
    }
}

/// All queues, and how many pages they took.
async fn all_queues(api: &Api, page_size: i32) -> (Vec<Queue>, usize) {
    let mut request = ListQueuesRequest { page_size, ..Default::default() };
    let (mut queues, mut pages) = (Vec::new(), 0);
    loop {
        let page = api.admin.clone().list_queues(request.clone()).await.unwrap().into_inner();
        assert!(page.encoded_len() <= ANSWER, "{} bytes", page.encoded_len());
        queues.extend(page.queues);
        pages += 1;
        if page.next_page_token.is_empty() {
            return (queues, pages);
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn p12_every_queue_is_listed_however_long_the_pause_reasons_are() {
    const QUEUES: usize = 800;
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let pauses = (0..QUEUES).map(|i| {
        let (mut admin, queue) = (api.admin.clone(), format!("q-{i:04}"));
        async move {
            let reason = "r".repeat(4096);
            let pause = PauseQueueRequest { queue, actor: "ada".into(), reason, ..Default::default() };
            admin.pause_queue(pause).await.unwrap();
        }
    });
    stream::iter(pauses).buffer_unordered(64).collect::<Vec<()>>().await;
    for (page_size, expected) in [(0, 2), (1000, 2), (100, 8), (799, 2), (1, QUEUES)] {
        let (queues, pages) = all_queues(&api, page_size).await;
        assert!(queues.iter().all(|queue| queue.paused && queue.reason.len() == 4096));
        let names: Vec<_> = queues.into_iter().map(|queue| queue.queue).collect();
        assert_eq!(names, (0..QUEUES).map(|i| format!("q-{i:04}")).collect::<Vec<_>>());
        assert_eq!(pages, expected, "of {page_size}");
    }
    let refused = |page_size, page_token: &str| {
        let (mut admin, page_token) = (api.admin.clone(), page_token.to_owned());
        async move { admin.list_queues(ListQueuesRequest { page_size, page_token }).await.refused().fields }
    };
    assert_eq!(refused(1001, "").await, ["page_size"]);
    assert_eq!(refused(-1, "").await, ["page_size"]);
    assert_eq!(refused(0, "x").await, ["page_token"]);
    assert_eq!(refused(0, &"a".repeat(100_000)).await, ["page_token"]);
    for i in 0..2 {
        api.create_saga(create(&format!("t-{i}"))).await.unwrap();
    }
    let of_sagas = api.list_sagas(ListSagasRequest { page_size: 1, ..Default::default() }).await.unwrap();
    assert_eq!(refused(0, &of_sagas.next_page_token).await, ["page_token"], "a token of another rpc");
}

#[tokio::test]
async fn p12_stats_report_how_many_queues_they_omit() {
    const QUEUES: usize = 25_500;
    let daemon = Daemon::start();
    let api = daemon.api().await;
    // The longest names, so that fewer queues fill an answer.
    let queue = |i: usize| format!("{i:05}-{}", "q".repeat(94));
    for from in (0..QUEUES).step_by(500) {
        let requests = (from..from + 500).map(|i| CreateSagaRequest { queue: queue(i), ..create(&format!("t-{i}")) });
        let batch = BatchCreateSagasRequest { requests: requests.collect(), ..Default::default() };
        api.batch_create_sagas(batch).await.unwrap();
    }
    let ended = RequestCancelRequest {
        task_id: "t-0".into(),
        actor: "ada".into(),
        reason: "not needed".into(),
        ..Default::default()
    };
    api.request_cancel(ended).await.unwrap();
    let stats = api.stats().await;
    assert!(stats.encoded_len() <= ANSWER, "{} bytes", stats.encoded_len());
    assert!(stats.omitted_queues > 0, "all {} are there: more are needed", stats.queues.len());
    assert_eq!(stats.queues.len() + stats.omitted_queues as usize, QUEUES);
    assert_eq!(stats.ready as usize, QUEUES - 1, "the totals are of all");
    let names: Vec<_> = stats.queues.iter().map(|queue| queue.queue.clone()).collect();
    assert!(names.is_sorted());
    assert!(!names.contains(&queue(0)), "one without a saga in flight is left out first");
    assert_eq!(names[0], queue(1));
}
