//! Traces, received by a test collector.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use sagad::proto::{session_request::Call, *};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::watched_daemon::WatchedDaemon;
use crate::support::{Daemon, claim, create, eventually, key, now, session::Session};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that keeps the spans it receives.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let service = resource.resource.unwrap().attributes.into_iter().find(|one| one.key == "service.name");
            assert_eq!(service.map(|one| one.value.unwrap().value), Some(Some(Value::StringValue("sagad".into()))));
            self.0.lock().unwrap().extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Collector::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    fn named(&self, name: &str) -> Vec<Span> {
        self.0.lock().unwrap().iter().filter(|span| span.name == name).cloned().collect()
    }

    async fn one(&self, name: &str) -> Span {
        eventually(name, || async { self.named(name).pop() }).await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let value = span.attributes.iter().find(|one| one.key == key)?.value.clone()?.value?;
    match value {
        Value::StringValue(text) => Some(text),
        other => panic!("{key}: {other:?}"),
    }
}

fn with_parent<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=1".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_item_is_a_span_of_the_sessions_trace() {
    let (collector, address) = Collector::start().await;
    let endpoint = format!("http://{address}");
    let daemon = Daemon::start_with(&["--otlp-endpoint", &endpoint, "--trace-sample", "0"]);
    let api = daemon.api().await;
    let lease = key(&api.running("t-1", "w-1").await);
    let traced = Session::over(async |items| api.sagas.clone().session(with_parent(items, "01")).await);
    let mut session = traced.await.unwrap();
    session.call(Call::Heartbeat(lease.heartbeat())).await.unwrap();
    session.call(Call::Complete(lease.complete())).await.unwrap();
    let spans =
        [collector.one("sagad.v1.SagaService/Heartbeat").await, collector.one("sagad.v1.SagaService/Complete").await];
    for span in &spans {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!((span.kind(), span.trace_state.as_str()), (SpanKind::Server, "vendor=1"));
        assert_eq!(attribute(span, "rpc.method").as_ref(), Some(&span.name));
        assert_eq!(attribute(span, "rpc.response.status_code").as_deref(), Some("OK"));
        assert_eq!(attribute(span, "network.peer.address").as_deref(), Some("127.0.0.1"));
        assert_eq!(attribute(span, "sagad.task_id").as_deref(), Some("t-1"));
        assert_eq!(attribute(span, "sagad.owner_id").as_deref(), Some("w-1"));
        let commit = eventually("its commit", || async {
            collector.named("commit").into_iter().find(|commit| commit.parent_span_id == span.span_id)
        });
        assert!(commit.await.start_time_unix_nano >= span.start_time_unix_nano);
    }
    assert!(collector.named("sagad.v1.SagaService/Claim").is_empty(), "it was not sampled");
    // Items of a client without a trace have no spans.
    let untraced = Session::over(async |items| api.sagas.clone().session(with_parent(items, "00")).await);
    untraced.await.unwrap().call(Call::Complete(lease.complete())).await.unwrap();
    drop(session);
    collector.one("sagad.v1.SagaService/Session").await;
    assert_eq!(collector.named("sagad.v1.SagaService/Complete").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_call_has_spans_for_its_wait_transition_and_commit() {
    let (collector, address) = Collector::start().await;
    let endpoint = format!("http://{address}");
    let daemon = Daemon::start_with(&["--otlp-endpoint", &endpoint, "--trace-sample", "0"]);
    let api = daemon.api().await;
    let request = CreateSagaRequest { queue: "builds".into(), payload: "secret-secret".into(), ..create("t-1") };
    api.sagas.clone().create_saga(with_parent(request, "01")).await.unwrap();
    let saga = api.sagas.clone().claim(with_parent(claim("t-1", "w-1", 60_000), "01")).await.unwrap().into_inner().saga;
    let saga = saga.unwrap();
    assert!(api.sagas.clone().claim(with_parent(claim("t-1", "w-2", 60_000), "00")).await.is_err());
    api.heartbeat(key(&saga).heartbeat()).await.unwrap();
    api.sagas.clone().complete(with_parent(key(&saga).complete(), "01")).await.unwrap();

    let complete = collector.one("sagad.v1.SagaService/Complete").await;
    let created = collector.one("sagad.v1.SagaService/CreateSaga").await;
    for span in [&created, &complete] {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!((span.kind(), span.trace_state.as_str()), (SpanKind::Server, "vendor=1"));
        assert_eq!(attribute(span, "rpc.system.name").as_deref(), Some("grpc"));
        assert_eq!(attribute(span, "rpc.method").as_ref(), Some(&span.name));
        assert_eq!(attribute(span, "rpc.response.status_code").as_deref(), Some("OK"));
        assert_eq!(attribute(span, "network.peer.address").as_deref(), Some("127.0.0.1"));
        assert_eq!(attribute(span, "sagad.task_id").as_deref(), Some("t-1"));
        assert!(span.status.is_none());
    }
    assert_eq!(attribute(&created, "sagad.queue").as_deref(), Some("builds"));
    assert_eq!(attribute(&complete, "sagad.owner_id").as_deref(), Some("w-1"));
    let all = collector.0.lock().unwrap().clone();
    let within: Vec<&Span> = all.iter().filter(|span| span.parent_span_id == complete.span_id).collect();
    let part =
        |name: &str| (*within.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"))).clone();
    let (queue, transition, commit) = (part("queue"), part("transition"), part("commit"));
    let times = [
        complete.start_time_unix_nano,
        queue.start_time_unix_nano,
        queue.end_time_unix_nano,
        transition.start_time_unix_nano,
        transition.end_time_unix_nano,
        commit.start_time_unix_nano,
        commit.end_time_unix_nano,
        complete.end_time_unix_nano,
    ];
    assert!(times.is_sorted(), "{times:?}");
    assert!(commit.end_time_unix_nano > commit.start_time_unix_nano);
    let wall = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    assert!(wall.abs_diff(times[0]) < 600_000_000_000, "the times are those of the wall clock");
    assert_eq!(within.len(), 3);
    assert!(within.iter().all(|span| hex(&span.trace_id) == TRACE && span.kind() == SpanKind::Internal));
    // Neither the call that its client does not sample, nor the calls without a trace.
    assert_eq!(collector.named("sagad.v1.SagaService/Claim").len(), 1);
    assert_eq!(collector.named("sagad.v1.SagaService/Heartbeat").len(), 0);
    assert!(!format!("{all:?}").contains("secret"), "a payload is in a trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_trace_are_sampled_as_configured_and_failures_are_marked() {
    let (collector, address) = Collector::start().await;
    let mut watched =
        WatchedDaemon::start(&["--otlp-endpoint", &format!("http://{address}"), "--trace-sample", "1"]).await;
    let api = watched.daemon.api().await;
    api.running("t-1", "w").await;
    let mut unknown = tonic::client::Grpc::new(api.channel.clone());
    unknown.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/sagad.v1.SagaService/NoSuchCall");
    let codec = tonic_prost::ProstCodec::<GetStatsRequest, GetStatsResponse>::default();
    assert!(unknown.unary(Request::new(GetStatsRequest {}), path, codec).await.is_err());
    let failed = collector.one("sagad.v1.SagaService/NoSuchCall").await;
    assert_eq!(failed.status.unwrap().code(), StatusCode::Error);
    let created = collector.one("sagad.v1.SagaService/CreateSaga").await;
    assert!(created.parent_span_id.is_empty() && created.trace_id != vec![0; 16] && created.trace_id.len() == 16);
    assert_ne!(created.trace_id, collector.one("sagad.v1.SagaService/Claim").await.trace_id);
    eventually("they are counted", || async {
        (watched.metrics().value("sagad_spans_exported_total")? >= 9.0).then_some(())
    })
    .await;
    // Queued spans are sent at shutdown.
    api.get("t-1").await;
    drop((api, unknown));
    watched.daemon.terminate().await;
    assert_eq!(collector.named("sagad.v1.SagaService/GetSaga").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unresponsive_collector_delays_neither_calls_nor_shutdown() {
    // The collector accepts connections and never answers, which is worse than being unreachable.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", deaf.local_addr().unwrap());
    let args = ["--otlp-endpoint", &endpoint, "--trace-sample", "1", "--drain-grace", "5s"];
    let mut watched = WatchedDaemon::start(&args).await;
    let api = watched.daemon.api().await;
    for n in 0..1500 {
        api.create_saga(create(&format!("t-{n}"))).await.unwrap();
    }
    eventually("spans are dropped", || async {
        let metrics = watched.metrics();
        (metrics.value("sagad_spans_dropped_total{reason=\"queue_full\"}")? > 0.0).then_some(())
    })
    .await;
    assert_eq!(watched.metrics().value("sagad_spans_exported_total"), Some(0.0));
    drop(api);
    let begun = now();
    watched.daemon.terminate().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
