//! A coordinator of a few lines that answers as its test says: what the client must do can then be seen without a
//! daemon, and with errors that a daemon gives only when it is in trouble.

pub mod binary;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sagad::{
    client::Client,
    proto::{saga_service_server::*, *},
};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::area;

/// The answer of a call that has no script.
pub fn unscripted<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not in the script"))
}

/// What the fake answers, call by call: the number of the call, from 0, and the request.
pub type Script<Q, A> = Box<dyn Fn(usize, &Q) -> Result<A, Status> + Send + Sync>;

macro_rules! fake {
    (scripted { $($rpc:ident: $request:ident -> $response:ident),* $(,)? }
     absent { $($absent:ident: $absent_request:ident -> $absent_response:ident),* $(,)? }) => {
        /// A coordinator with a script for each rpc, which records the calls.
        pub struct FakeCoordinator {
            $(pub $rpc: Script<$request, $response>,)*
            pub delay: Duration,
            pub watch_stale: Script<WatchStaleRequest, Vec<WatchStaleResponse>>,
            /// How often a session was opened; each is refused as unimplemented.
            pub sessions: AtomicUsize,
            pub watches: Mutex<Vec<WatchStaleRequest>>,
            pub calls: Mutex<Vec<ReceivedCall>>,
        }

        /// A call that was received.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(non_camel_case_types)]
        pub enum ReceivedCall {
            $($rpc($request),)*
        }

        impl Default for FakeCoordinator {
            fn default() -> Self {
                Self {
                    $($rpc: Box::new(|_, _| unscripted()),)*
                    delay: Duration::ZERO,
                    watch_stale: Box::new(|_, _| unscripted()),
                    sessions: AtomicUsize::new(0),
                    watches: Mutex::default(),
                    calls: Mutex::default(),
                }
            }
        }

        #[tonic::async_trait]
        impl SagaService for Server {
            $(async fn $rpc(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let request = request.into_inner();
                let number = {
                    let mut seen = self.0.calls_received();
                    seen.push(ReceivedCall::$rpc(request.clone()));
                    seen.iter().filter(|seen| matches!(seen, ReceivedCall::$rpc(_))).count() - 1
                };
                let answer = (self.0.$rpc)(number, &request);
                tokio::time::sleep(self.0.delay).await;
                answer.map(Response::new)
            })*

            $(async fn $absent(&self, _: Request<$absent_request>) -> Result<Response<$absent_response>, Status> {
                unscripted()
            })*

            type KeepAliveStream = Answers<KeepAliveResponse>;
            type SessionStream = Answers<SessionResponse>;
            type WatchStaleStream = Answers<WatchStaleResponse>;
            type WatchEventsStream = Answers<WatchEventsResponse>;

            async fn keep_alive(
                &self,
                _: Request<Streaming<KeepAliveRequest>>,
            ) -> Result<Response<Self::KeepAliveStream>, Status> {
                unscripted()
            }

            // As an older coordinator answers.
            async fn session(
                &self,
                _: Request<Streaming<SessionRequest>>,
            ) -> Result<Response<Self::SessionStream>, Status> {
                self.0.sessions.fetch_add(1, Ordering::Relaxed);
                unscripted()
            }

            async fn watch_stale(
                &self,
                request: Request<WatchStaleRequest>,
            ) -> Result<Response<Self::WatchStaleStream>, Status> {
                let request = request.into_inner();
                let number = {
                    let mut watches = self.0.watches.lock().expect("no test panics while it holds this");
                    watches.push(request.clone());
                    watches.len() - 1
                };
                let items = (self.0.watch_stale)(number, &request)?;
                Ok(Response::new(Box::pin(tokio_stream::iter(items.into_iter().map(Ok)))))
            }

            async fn watch_events(
                &self,
                _: Request<WatchEventsRequest>,
            ) -> Result<Response<Self::WatchEventsStream>, Status> {
                unscripted()
            }
        }
    };
}

fake! {
    scripted {
        batch_create_sagas: BatchCreateSagasRequest -> BatchCreateSagasResponse,
        heartbeat: HeartbeatRequest -> HeartbeatResponse,
        claim: ClaimRequest -> ClaimResponse,
        claim_next: ClaimNextRequest -> ClaimNextResponse,
        release: ReleaseRequest -> ReleaseResponse,
        complete: CompleteRequest -> CompleteResponse,
        fail: FailRequest -> FailResponse,
        quarantine: QuarantineRequest -> QuarantineResponse,
        record_compensation: RecordCompensationRequest -> RecordCompensationResponse,
        compensate: CompensateRequest -> CompensateResponse,
        list_sagas: ListSagasRequest -> ListSagasResponse,
    }
    absent {
        create_saga: CreateSagaRequest -> CreateSagaResponse,
        get_saga: GetSagaRequest -> GetSagaResponse,
        dispatch: DispatchRequest -> DispatchResponse,
        register_compensation: RegisterCompensationRequest -> RegisterCompensationResponse,
        waive_compensation: WaiveCompensationRequest -> WaiveCompensationResponse,
        recover: RecoverRequest -> RecoverResponse,
        request_cancel: RequestCancelRequest -> RequestCancelResponse,
        annotate: AnnotateRequest -> AnnotateResponse,
        list_events: ListEventsRequest -> ListEventsResponse,
        get_stats: GetStatsRequest -> GetStatsResponse,
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Server(Arc<FakeCoordinator>);

impl FakeCoordinator {
    /// All calls so far, in order.
    pub fn calls_received(&self) -> MutexGuard<'_, Vec<ReceivedCall>> {
        self.calls.lock().expect("no test panics while it holds this")
    }

    /// Starts it on a port of its own; it ends with the test's runtime.
    pub async fn start(self) -> (Client, Arc<FakeCoordinator>) {
        area::enter();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let fake = Arc::new(self);
        let service = SagaServiceServer::new(Server(Arc::clone(&fake)));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = Client::new(&format!("http://{address}"), Duration::from_secs(5)).expect("an address");
        (client, fake)
    }
}

/// A refusal as the coordinator makes it.
pub fn refusal(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Status::with_error_details(code, "refused", ErrorDetails::with_error_info(reason, "sagad", metadata))
}

/// The same, to be repeated after a pause.
pub fn refusal_for_now(code: Code, reason: &str, pause: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "sagad", HashMap::new());
    details.set_retry_info(Some(pause));
    Status::with_error_details(code, "refused for now", details)
}

/// A lease granted at `granted_ms` of the fake's clock for `ttl_ms`.
pub fn lease(granted_ms: i64, ttl_ms: i64) -> Lease {
    let at = |ms: i64| prost_types::Timestamp { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 };
    let length = |ms: i64| prost_types::Duration { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 };
    Lease {
        owner_id: "w".to_owned(),
        fencing_token: 7,
        purpose: LeasePurpose::Execute.into(),
        acquire_time: Some(at(0)),
        heartbeat_time: Some(at(granted_ms)),
        expire_time: Some(at(granted_ms + ttl_ms)),
        ttl: Some(length(ttl_ms)),
        heartbeat_interval: Some(length(ttl_ms / 3)),
        standing: LeaseStanding::Held.into(),
        effective_expire_time: Some(at(granted_ms + ttl_ms)),
    }
}

/// A running saga with such a lease.
pub fn saga(ttl_ms: i64) -> Saga {
    Saga {
        task_id: "t-1".to_owned(),
        queue: "q".to_owned(),
        state: SagaState::Running.into(),
        lease: Some(lease(0, ttl_ms)),
        ..Saga::default()
    }
}
