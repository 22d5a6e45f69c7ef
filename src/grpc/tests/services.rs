//! The services over a real connection, on a store whose answers the test sets.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    body::Body,
    transport::{Channel, Server},
};
use tonic_types::StatusExt;
use tower::service_fn;

use crate::{
    clock::{Clock, ManualClock},
    domain::{
        bounds,
        command::{self, Answer, Command, HolderOperation, LeaseAnswer, Operation, PurgeResult},
        ids::Revision,
        rejection::{CommandRefusal, Rejection, UnextendedLease},
        text::Text,
        time::{Span, Timestamp},
    },
    grpc::{GrpcLimits, ServerSettings, StoreSlot, services},
    proto::{self, admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient},
    store::{
        StoreError,
        memory::{
            Memory,
            testing::{planned, running},
        },
    },
};

struct Served {
    sagas: SagaServiceClient<Channel>,
    admin: AdminServiceClient<Channel>,
    channel: Channel,
    stop: CancellationToken,
    slot: StoreSlot,
    memory: Memory,
    backups: tempfile::TempDir,
}

const LIMITS: GrpcLimits = GrpcLimits {
    max_watches: 2,
    max_worker_streams: 1,
    max_session_calls: 4,
    max_message_bytes: 4 * 1024 * 1024,
    callers_known: false,
};

/// Serves without a store.
async fn serve() -> Served {
    let slot = StoreSlot::new();
    let stop = CancellationToken::new();
    let backups = tempfile::tempdir().unwrap();
    let facts = ServerSettings {
        restart_grace: Span::from_secs(10),
        backup_dir: backups.path().to_owned(),
        bounds: Vec::new(),
    };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let services = Arc::new(services(slot.clone(), facts, LIMITS, None, clock, stop.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let called = service_fn(move |request: http::Request<Body>| {
        let answering = services.call(request);
        async { Ok::<_, Infallible>(answering.await) }
    });
    tokio::spawn(Server::builder().serve_with_incoming(called, TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Served {
        sagas: SagaServiceClient::new(channel.clone()),
        admin: AdminServiceClient::new(channel.clone()),
        channel,
        stop,
        slot,
        memory: Memory::default(),
        backups,
    }
}

/// Serves a store whose writer answers with `answer`.
async fn serve_with(respond: impl Fn(command::Request) -> Result<Answer, StoreError> + Send + 'static) -> Served {
    let served = serve().await;
    served.slot.set(served.memory.store_answering_with(respond));
    served
}

fn refused(why: Rejection) -> StoreError {
    StoreError::Refused(Box::new(CommandRefusal::plain(why)))
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

fn heartbeat(task_id: &str) -> proto::KeepAliveRequest {
    proto::KeepAliveRequest { task_id: task_id.into(), owner_id: "o".into(), fencing_token: 1, ..Default::default() }
}

/// Accepts heartbeats, except those of the saga `clamped`.
fn heartbeats(request: command::Request) -> Result<Answer, StoreError> {
    match request.command {
        Command::Change(change)
            if matches!(&change.operation, Operation::ByHolder(_, HolderOperation::Heartbeat { .. })) =>
        {
            if change.task_id.as_str() == "clamped" {
                return Err(refused(Rejection::ExecutionTimeout(UnextendedLease {
                    expire_time: Timestamp::ZERO,
                    cancel_reason: Some(Text::parse("not needed").unwrap()),
                })));
            }
            let lease = running("t", "q", None).lease.unwrap();
            Ok(Answer::Lease(LeaseAnswer { lease, cancel_reason: None }))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn before_the_store_is_open_calls_are_unavailable_unless_malformed() {
    let mut served = serve().await;
    let status = served.sagas.get_saga(proto::GetSagaRequest { task_id: "t".into(), ..Default::default() }).await;
    let status = status.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    let status = served.sagas.claim(proto::ClaimRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    let fields: Vec<&str> = details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["task_id", "owner_id"]);
    assert_eq!(served.admin.backup(proto::BackupRequest {}).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_changed_saga_is_returned_with_all_fields() {
    let mut served = serve_with(|request| match request.command {
        Command::Create(creations) => {
            Ok(Answer::Sagas(creations.iter().map(|creation| planned(creation.task_id.as_str(), "q").into()).collect()))
        }
        Command::ClaimNext(_) => Ok(Answer::Sagas(Vec::new())),
        Command::Change(_) | Command::SetPaused(_) | Command::Purge(_) => {
            Ok(Answer::Saga(Arc::new(running("t", "q", None))))
        }
    })
    .await;
    let request = proto::CreateSagaRequest { task_id: "a".into(), ..Default::default() };
    let saga = served.sagas.create_saga(request.clone()).await.unwrap().into_inner().saga.unwrap();
    assert_eq!((saga.task_id.as_str(), saga.state()), ("a", proto::SagaState::Planned));
    let batch = proto::BatchCreateSagasRequest { requests: vec![request], ..Default::default() };
    assert_eq!(served.sagas.batch_create_sagas(batch).await.unwrap().into_inner().sagas.len(), 1);
    let claim = proto::ClaimRequest { task_id: "t".into(), owner_id: "o".into(), ..Default::default() };
    let saga = served.sagas.claim(claim).await.unwrap().into_inner().saga.unwrap();
    assert_eq!(saga.lease.unwrap().owner_id, "worker-1");
    let next = proto::ClaimNextRequest { queues: vec!["q".into()], owner_id: "o".into(), ..Default::default() };
    assert!(served.sagas.claim_next(next).await.unwrap().into_inner().sagas.is_empty());
}

#[tokio::test]
async fn only_the_refusal_of_a_batch_has_an_index() {
    let exists =
        || CommandRefusal { index: Some(0), ..CommandRefusal::plain(Rejection::SagaExists { field: "task_id" }) };
    let mut served = serve_with(move |_| Err(StoreError::Refused(Box::new(exists())))).await;
    let request = proto::CreateSagaRequest { task_id: "a".into(), ..Default::default() };
    let status = served.sagas.create_saga(request.clone()).await.unwrap_err();
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["field"], "task_id");
    let batch = proto::BatchCreateSagasRequest { requests: vec![request], ..Default::default() };
    let status = served.sagas.batch_create_sagas(batch).await.unwrap_err();
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["field"], "requests[0].task_id");
}

#[tokio::test]
async fn a_wait_is_limited_to_the_callers_deadline() {
    let (waits, seen) = std::sync::mpsc::channel();
    let mut served = serve_with(move |request| {
        if let Command::ClaimNext(claim) = request.command {
            waits.send(claim.wait).unwrap();
        }
        Ok(Answer::Sagas(Vec::new()))
    })
    .await;
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let message =
        proto::ClaimNextRequest { queues: vec!["q".into()], owner_id: "o".into(), wait, ..Default::default() };
    let mut request = Request::new(message.clone());
    request.set_timeout(Duration::from_secs(5));
    served.sagas.claim_next(request).await.unwrap();
    served.sagas.claim_next(message).await.unwrap();
    assert_eq!(seen.recv().unwrap(), Span::from_millis(4900));
    assert_eq!(seen.recv().unwrap(), Span::from_secs(60));
}

#[tokio::test]
async fn a_failed_item_of_keep_alive_fails_no_other_and_keeps_its_place() {
    let mut served = serve_with(heartbeats).await;
    let mut items: Vec<proto::KeepAliveRequest> = (0..300).map(|i| heartbeat(&format!("t{i}"))).collect();
    items[1] = heartbeat("clamped");
    items[2] = heartbeat("not an id");
    let sent: Vec<String> = items.iter().map(|item| item.task_id.clone()).collect();
    let answers = served.sagas.keep_alive(futures::stream::iter(items)).await.unwrap().into_inner();
    let answers: Vec<proto::KeepAliveResponse> = answers.map(|answer| answer.unwrap()).collect().await;
    assert_eq!(answers.iter().map(|answer| answer.task_id.clone()).collect::<Vec<_>>(), sent);
    assert_eq!((answers[0].code, answers[0].directive()), (0, proto::Directive::Continue));
    assert!(answers[0].lease.is_some());
    let clamped = &answers[1];
    assert_eq!((clamped.code, clamped.reason.as_str()), (Code::FailedPrecondition.into(), "EXECUTION_TIMEOUT"));
    assert_eq!((clamped.directive(), clamped.cancel_reason.as_str()), (proto::Directive::Cancel, "not needed"));
    assert_eq!((answers[2].code, answers[2].reason.as_str()), (Code::InvalidArgument.into(), "INVALID_ARGUMENT"));
    assert_eq!(answers[2].directive(), proto::Directive::Unspecified);
    assert!(answers[3..].iter().all(|answer| answer.code == 0));
}

#[tokio::test]
async fn the_number_of_streams_is_limited_and_they_end_at_shutdown() {
    let mut served = serve_with(heartbeats).await;
    let watch = proto::WatchEventsRequest::default();
    let mut first = served.sagas.watch_events(watch.clone()).await.unwrap().into_inner();
    let mut second = served.sagas.watch_stale(proto::WatchStaleRequest::default()).await.unwrap().into_inner();
    assert!(first.next().await.unwrap().is_ok() && second.next().await.unwrap().is_ok());
    let status = served.sagas.watch_events(watch).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    assert!(status.get_error_details().retry_info().is_some());

    let (items, sent) = tokio::sync::mpsc::channel(8);
    let sent = tokio_stream::wrappers::ReceiverStream::new(sent);
    let mut kept = served.sagas.keep_alive(sent).await.unwrap().into_inner();
    items.send(heartbeat("t")).await.unwrap();
    assert_eq!(kept.next().await.unwrap().unwrap().code, 0);
    let status = served.sagas.keep_alive(futures::stream::empty()).await.unwrap_err();
    assert_eq!(reason(&status), "OVERLOADED");

    served.stop.cancel();
    for status in [
        first.next().await.unwrap().unwrap_err(),
        second.next().await.unwrap().unwrap_err(),
        kept.next().await.unwrap().unwrap_err(),
    ] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    }
}

#[tokio::test]
async fn a_stream_no_longer_counts_after_its_client_is_gone() {
    let mut served = serve_with(heartbeats).await;
    for _ in 0..10 {
        let mut watch = loop {
            match served.sagas.watch_events(proto::WatchEventsRequest::default()).await {
                Ok(watch) => break watch.into_inner(),
                // The server notices a cut stream a moment later.
                Err(status) => assert_eq!(reason(&status), "OVERLOADED"),
            }
            tokio::task::yield_now().await;
        };
        watch.next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn every_error_carries_an_error_info() {
    let mut served = serve_with(|_| Err(StoreError::OutcomeUnknown)).await;
    let status = served.sagas.get_saga(proto::GetSagaRequest { task_id: "t".into(), ..Default::default() }).await;
    assert_eq!(reason(&status.unwrap_err()), "SAGA_NOT_FOUND");

    let too_large = proto::CreateSagaRequest { payload: vec![0; 5 * 1024 * 1024].into(), ..Default::default() };
    let status = served.sagas.create_saga(too_large).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
    assert!(status.message().contains("4194304"), "{}", status.message());

    let mut raw = tonic::client::Grpc::new(served.channel.clone());
    raw.ready().await.unwrap();
    // A UUID in place of a policy.
    let garbage = proto::BackupResponse { chunk: bytes::Bytes::new(), total_bytes: 7, revision: 0 };
    let path = http::uri::PathAndQuery::from_static("/sagad.v1.SagaService/CreateSaga");
    let codec = tonic_prost::ProstCodec::<proto::BackupResponse, proto::CreateSagaResponse>::default();
    let status = raw.unary(Request::new(garbage), path, codec).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
    assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "saga_id");

    raw.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/sagad.v1.SagaService/NoSuchRpc");
    let codec = tonic_prost::ProstCodec::<proto::BackupRequest, proto::BackupResponse>::default();
    let status = raw.unary(Request::new(proto::BackupRequest {}), path, codec).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "UNIMPLEMENTED"));
}

#[tokio::test]
async fn get_server_info_describes_the_server() {
    let mut served = serve_with(|_| Err(StoreError::ShuttingDown)).await;
    let info = served.admin.get_server_info(proto::GetServerInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.version.as_str(), info.store.as_str()), (env!("CARGO_PKG_VERSION"), "memory"));
    assert_eq!(info.bounds.len(), bounds::ALL.len());
    assert_eq!(info.start_time, info.current_time, "on a clock that stands");
    assert_eq!(info.restart_grace.unwrap().seconds, 10);
    assert_eq!(info.clock_offset, Some(prost_types::Duration::default()));
}

#[tokio::test]
async fn a_purge_is_done_in_steps() {
    let (steps, seen) = std::sync::mpsc::channel();
    let left = std::sync::Mutex::new(1700_usize);
    let mut served = serve_with(move |request| {
        let Command::Purge(purge) = request.command else { panic!() };
        steps.send(purge.max_sagas).unwrap();
        let mut left = left.lock().unwrap();
        let sagas = purge.max_sagas.min(*left);
        if !purge.validate_only {
            *left -= sagas;
        }
        Ok(Answer::Purged(PurgeResult { sagas, events: 3 * sagas, more: *left > 0, ..PurgeResult::default() }))
    })
    .await;
    let request = |max_sagas, validate_only| proto::PurgeSagasRequest {
        older_than: Some(prost_types::Duration::default()),
        max_sagas,
        actor: "Jo".into(),
        validate_only,
        ..Default::default()
    };
    let answer = served.admin.purge_sagas(request(1200, true)).await.unwrap().into_inner();
    assert_eq!((answer.purged_sagas, answer.more), (1200, true));
    let answer = served.admin.purge_sagas(request(1200, false)).await.unwrap().into_inner();
    assert_eq!((answer.purged_sagas, answer.purged_events, answer.more), (1200, 3600, true));
    let answer = served.admin.purge_sagas(request(0, false)).await.unwrap().into_inner();
    assert_eq!((answer.purged_sagas, answer.more), (500, false));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [1200, 500, 500, 200, 500]);
}

#[tokio::test]
async fn a_backup_is_complete_and_leaves_no_files() {
    let mut served = serve_with(|_| Err(StoreError::ShuttingDown)).await;
    served.memory.compact(Revision(9));
    served.memory.back_up_as(vec![7; 3 * 1024 * 1024 + 1]);
    let first = served.admin.backup(proto::BackupRequest {}).await.unwrap().into_inner();
    let status = served.admin.backup(proto::BackupRequest {}).await.err();
    assert_eq!(status.map(|status| reason(&status)).as_deref(), Some("OVERLOADED"), "one at a time");
    let pieces: Vec<proto::BackupResponse> = first.map(|piece| piece.unwrap()).collect().await;
    let mib = 1024 * 1024;
    assert_eq!(pieces.iter().map(|piece| piece.chunk.len()).collect::<Vec<_>>(), [mib, mib, mib, 1]);
    assert!(pieces.iter().all(|piece| piece.total_bytes == 3 * mib as i64 + 1 && piece.revision == 9));
    assert_eq!(std::fs::read_dir(served.backups.path()).unwrap().count(), 0);

    std::fs::remove_dir(served.backups.path()).unwrap();
    let mut broken = served.admin.backup(proto::BackupRequest {}).await.unwrap().into_inner();
    let status = broken.next().await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
}
