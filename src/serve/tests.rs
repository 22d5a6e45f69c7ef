//! The daemon's life over real sockets, with a stub in place of the store: how it starts, and that no peer delays its end.

use std::{future::pending, net::SocketAddr, sync::mpsc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::*;
use crate::{
    clock::SystemClock,
    config::ServeArgs,
    domain::time::Span,
    grpc::Services,
    proto::{
        admin_service_client::AdminServiceClient,
        admin_service_server::{AdminService, AdminServiceServer},
        *,
    },
};

/// Well below the grace of ten seconds, and enough on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A service with a call that is held until the store drains, and a stream that does not end by itself.
struct StubService {
    drained: watch::Receiver<bool>,
    streams: CancellationToken,
}

type BackupStream = std::pin::Pin<Box<dyn Stream<Item = Result<BackupResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AdminService for StubService {
    type BackupStream = BackupStream;

    async fn get_server_info(
        &self,
        _: Request<GetServerInfoRequest>,
    ) -> Result<Response<GetServerInfoResponse>, Status> {
        let mut drained = self.drained.clone();
        drained.wait_for(|drained| *drained).await.map_err(|_| Status::internal("gone"))?;
        Ok(Response::new(GetServerInfoResponse { version: "held".into(), ..Default::default() }))
    }

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<BackupStream>, Status> {
        let chunk = BackupResponse { chunk: vec![0; 64 << 10].into(), ..Default::default() };
        let chunks = stream::repeat_with(move || Ok(chunk.clone())).take_until(self.streams.clone().cancelled_owned());
        Ok(Response::new(chunks.chain(stream::once(async { Err(Status::unavailable("SHUTTING_DOWN")) })).boxed()))
    }

    async fn pause_queue(&self, _: Request<PauseQueueRequest>) -> Result<Response<PauseQueueResponse>, Status> {
        pending().await
    }

    async fn resume_queue(&self, _: Request<ResumeQueueRequest>) -> Result<Response<ResumeQueueResponse>, Status> {
        pending().await
    }

    async fn list_queues(&self, _: Request<ListQueuesRequest>) -> Result<Response<ListQueuesResponse>, Status> {
        pending().await
    }

    async fn get_vitals(&self, _: Request<GetVitalsRequest>) -> Result<Response<GetVitalsResponse>, Status> {
        pending().await
    }

    async fn revoke_principal(
        &self,
        _: Request<RevokePrincipalRequest>,
    ) -> Result<Response<RevokePrincipalResponse>, Status> {
        pending().await
    }

    async fn purge_sagas(&self, _: Request<PurgeSagasRequest>) -> Result<Response<PurgeSagasResponse>, Status> {
        pending().await
    }
}

/// A daemon whose store and signals the test controls.
struct Daemon {
    address: SocketAddr,
    /// Opens the store, or makes that fail.
    open: mpsc::Sender<Result<(), BoxError>>,
    /// Makes the writer end by itself.
    fail: Option<oneshot::Sender<BoxError>>,
    shutdown: CancellationToken,
    announced: oneshot::Receiver<SocketAddr>,
    run: JoinHandle<Result<(), ServeError>>,
}

impl Daemon {
    async fn start(grace: Span) -> Self {
        let mut config = Config::merge(&ServeArgs::default(), &|_| None).unwrap();
        config.drain_grace = grace;
        config.limits.preface_timeout = Span::from_secs(60);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, opening) = mpsc::channel();
        let (fail, failing) = oneshot::channel();
        let (announce, announced) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let told = shutdown.clone().cancelled_owned();
        let served = stub_store(opening, failing);
        let run = tokio::spawn(async move {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
            let endpoint = ListenEndpoint {
                listeners: listener.into(),
                security: LoadedSecurity::read(&config.security, &clock).unwrap(),
            };
            let announce = |bound: &[LocalAddress]| match bound {
                [LocalAddress::Tcp(address)] => announce.send(*address).unwrap(),
                other => panic!("{other:?}"),
            };
            run_with(&config, endpoint, &NetworkThreads::current(), served, &ServiceManager::none(), announce, told)
                .await
        });
        Daemon { address, open, fail: Some(fail), shutdown, announced, run }
    }

    async fn serving(grace: Span) -> Self {
        let mut daemon = Self::start(grace).await;
        daemon.open.send(Ok(())).unwrap();
        assert_eq!(timeout(SOON, &mut daemon.announced).await.unwrap().unwrap(), daemon.address);
        daemon
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    async fn connection(&self, greeting: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        stream
    }

    /// Waits for the daemon's end, which has to come soon.
    async fn end(self) -> Result<(), ServeError> {
        timeout(SOON, self.run).await.expect("it ends in time").unwrap()
    }
}

fn stub_store(opening: mpsc::Receiver<Result<(), BoxError>>, failing: oneshot::Receiver<BoxError>) -> ServedStore {
    let (drain, drained) = watch::channel(false);
    ServedStore {
        services: Box::new(move |streams, _| {
            Services::default().with(AdminServiceServer::new(StubService { drained, streams }))
        }),
        clock: Arc::new(SystemClock::start()),
        open: Box::new(move || {
            opening.recv().unwrap_or_else(|_| Err("the test is over".into()))?;
            let (close, closed) = oneshot::channel();
            let ended = async move {
                tokio::select! {
                    Ok(failure) = failing => Err(failure),
                    Ok(()) = closed => Ok(()),
                }
            };
            Ok(OpenStore {
                drain: Box::new(move || {
                    drain.send_replace(true);
                }),
                close: Box::new(move || close.send(()).unwrap()),
                ended: ended.boxed(),
                store: None,
                retention: Box::new(|_| async {}.boxed()),
                silence: Arc::new(|| Span::ZERO),
            })
        }),
    }
}

fn asking(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match timeout(SOON, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test]
async fn health_answers_before_the_store_is_open() {
    let mut daemon = Daemon::start(Span::from_secs(10)).await;
    let mut health = HealthClient::new(daemon.channel().await);
    for name in super::super::health::NAMES {
        let status = health.check(asking(name)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::NotServing, "{name}");
    }
    assert_eq!(health.check(asking("sagad.v1.Other")).await.unwrap_err().code(), Code::NotFound);
    assert!(daemon.announced.try_recv().is_err());

    daemon.open.send(Ok(())).unwrap();
    timeout(SOON, &mut daemon.announced).await.unwrap().unwrap();
    for name in ["", "sagad.v1.SagaService", "sagad.v1.AdminService"] {
        let status = health.check(asking(name)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{name}");
    }
    daemon.shutdown.cancel();
    daemon.end().await.unwrap();
}

#[tokio::test]
async fn reflection_serves_the_contract() {
    let daemon = Daemon::serving(Span::from_secs(10)).await;
    let mut reflection = ServerReflectionClient::new(daemon.channel().await);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = reflection.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["sagad.v1.SagaService", "sagad.v1.AdminService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    daemon.shutdown.cancel();
    daemon.end().await.unwrap();
}

#[tokio::test]
async fn no_peer_delays_the_shutdown_and_calls_are_answered() {
    let daemon = Daemon::serving(Span::from_secs(10)).await;
    let mut silent = daemon.connection(b"").await;
    let mut half = daemon.connection(b"PRI * HTTP/2.0").await;
    // The preface and an empty SETTINGS frame; after that it neither sends nor reads.
    let mut mute = daemon.connection(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let _idle = HealthClient::new(daemon.channel().await).check(asking("")).await.unwrap();
    let mut health = HealthClient::new(daemon.channel().await).watch(asking("")).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut stalled =
        AdminServiceClient::new(daemon.channel().await).backup(BackupRequest {}).await.unwrap().into_inner();
    let mut live = AdminServiceClient::new(daemon.channel().await).backup(BackupRequest {}).await.unwrap().into_inner();
    let live = tokio::spawn(async move {
        loop {
            match live.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    });
    let mut admin = AdminServiceClient::new(daemon.channel().await);
    let held = tokio::spawn(async move { admin.get_server_info(GetServerInfoRequest {}).await });
    sleep(Duration::from_millis(200)).await;
    assert!(!held.is_finished());

    daemon.shutdown.cancel();
    let address = daemon.address;
    daemon.end().await.unwrap();
    assert_eq!(held.await.unwrap().unwrap().into_inner().version, "held");
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(health.message().await.unwrap().is_none(), "the watch ends");
    assert_eq!(timeout(SOON, live).await.unwrap().unwrap(), Code::Unavailable);
    for stream in [&mut silent, &mut half, &mut mute] {
        assert!(is_closed(stream).await);
    }
    assert!(TcpStream::connect(address).await.is_err());
    let cut = timeout(SOON, async { while let Ok(Some(_)) = stalled.message().await {} }).await;
    assert!(cut.is_ok(), "the stalled reader's connection is gone");
}

#[tokio::test]
async fn a_call_without_an_answer_is_cancelled_within_the_grace() {
    let daemon = Daemon::serving(Span::from_secs(2)).await;
    let mut admin = AdminServiceClient::new(daemon.channel().await);
    let hanging = tokio::spawn(async move { admin.list_queues(ListQueuesRequest::default()).await });
    sleep(Duration::from_millis(200)).await;
    daemon.shutdown.cancel();
    timeout(Duration::from_millis(2500), daemon.end()).await.expect("within the grace").unwrap();
    assert!(timeout(SOON, hanging).await.unwrap().unwrap().is_err());
}

/// The client sends a deadline but doesn't enforce it: the server still answers by then.
#[tokio::test]
async fn a_call_ends_at_its_own_deadline() {
    let daemon = Daemon::serving(Span::from_secs(2)).await;
    let field = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/sagad.v1.AdminService/ListQueues"),
        ("grpc-timeout", "200m"),
    ];
    let block = fields.map(|(name, value)| field(name, value)).concat();
    // The preface, empty SETTINGS, HEADERS, and an empty message as DATA that ends the request.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let headers = [&[0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1], &block[..]].concat();
    let data = [0, 0, 5, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0];
    let mut client = daemon.connection(&[&preface[..], &headers, &data].concat()).await;
    let answered = timeout(SOON, async {
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            client.read_exact(&mut vec![0; usize::from(head[1]) << 8 | usize::from(head[2])]).await.unwrap();
            // HEADERS that end the stream.
            if head[3] == 1 {
                break head[4] & 1;
            }
        }
    });
    assert_eq!(answered.await.expect("in time"), 1);
    daemon.shutdown.cancel();
    daemon.end().await.unwrap();
}

#[tokio::test]
async fn a_store_that_fails_ends_the_daemon() {
    let mut daemon = Daemon::serving(Span::from_secs(10)).await;
    let _silent = daemon.connection(b"").await;
    let _idle = HealthClient::new(daemon.channel().await).check(asking("")).await.unwrap();
    let _open = AdminServiceClient::new(daemon.channel().await).backup(BackupRequest {}).await.unwrap();
    daemon.fail.take().unwrap().send("disk I/O error".into()).unwrap();
    let text = daemon.end().await.unwrap_err().to_string();
    assert!(text.contains("the store failed: disk I/O error") && text.contains("sagad check"), "{text}");
}

#[tokio::test]
async fn a_store_that_does_not_open_ends_the_daemon() {
    let daemon = Daemon::start(Span::from_secs(10)).await;
    let _idle = HealthClient::new(daemon.channel().await).check(asking("")).await.unwrap();
    daemon.open.send(Err("another daemon holds this store".into())).unwrap();
    assert_eq!(daemon.end().await.unwrap_err().to_string(), "another daemon holds this store");
}

#[tokio::test]
async fn the_daemon_can_be_ended_before_the_store_is_open() {
    let daemon = Daemon::start(Span::from_secs(10)).await;
    let _silent = daemon.connection(b"").await;
    daemon.shutdown.cancel();
    let open = daemon.open.clone();
    daemon.end().await.unwrap();
    // Lets the thread that opens the store end.
    open.send(Err("too late".into())).unwrap();
}
