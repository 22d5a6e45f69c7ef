//! All that faces clients: the accept loop, the gRPC server with its settings, and the calls in flight.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::future::join_all;
use http::Request;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker, task_tracker::TrackedFuture},
};
use tonic::{body::Body, codec::CompressionEncoding, service::RoutesBuilder, transport::Server};
use tower::{Layer, Service};
use tracing::{info, warn};

use super::{
    ServeError,
    auth::{GuardLayer, Loaded},
    calls::{CallLimits, CallsLayer, Ledger, SESSION},
    observe::ObserveLayer,
    session::SessionCounters,
    threads::Threads,
};
use crate::{
    config::Limits,
    grpc::ErrorLayer,
    listen::{Lines, ListenLimits, Listeners, listen},
    proto::DESCRIPTORS,
};

/// Largest set of request headers: gRPC's own default, with room for tokens and traces.
const HEADER_BYTES: u32 = 8 << 10;
/// Streams that a client may have cancelled before they were looked at, until its connection is ended ("rapid reset",
/// CVE-2023-44487). Clients that cancel a hundred calls at once exist; those that flood reach any number.
const RESET_STREAMS: usize = 128;
/// Streams of a connection that we had to reset because of an error of its client, until the connection is ended ("made
/// you reset", CVE-2025-8671). The gRPC library sets no limit. A correct client never causes one.
const ERROR_RESETS: usize = 64;
/// What a client may send on a stream before we took it. A stream of a worker whose answers are not read holds as much;
/// 64 KiB at a time let 5 MiB a second through where a round trip takes 12 ms, and are the protocol's own default.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same for a whole connection: 16 streams at full speed.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of it each call needs: half of a connection's window is what small frames may cost, at 256 bytes each, before the
/// library ends the connection as a flood ("tiny frames"). As many calls as are allowed may each send one at a time.
const WINDOW_PER_CALL: u32 = 1024;
/// Largest frame: the protocol's least, so that no connection buffers more than this before it understands it.
const FRAME_BYTES: u32 = 16 << 10;
/// Time for cut connections to notice: they are woken, so it takes a moment of CPU each.
const CUT: Duration = Duration::from_millis(500);

/// A running server.
pub(super) struct Front {
    serving: JoinHandle<()>,
    accepting: JoinHandle<()>,
    lines: Lines,
    calls: TaskTracker,
    closing: CancellationToken,
    /// Gives up what is late, until this is dropped.
    _time: AbortOnDropHandle<()>,
    /// Keeps certificates and principals as their files are.
    _fresh: AbortOnDropHandle<()>,
}

impl Front {
    /// Serves `routes`, and reflection beside them, to those who are let in.
    pub(super) fn start(
        limits: &Limits,
        listeners: Listeners,
        threads: &Threads,
        mut routes: RoutesBuilder,
        security: &Loaded,
        observe: ObserveLayer,
    ) -> Result<Self, ServeError> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // For whoever renders an error's details.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        if security.reflection {
            let gzip = CompressionEncoding::Gzip;
            routes.add_service(reflection().build_v1()?.accept_compressed(gzip));
            routes.add_service(reflection().build_v1alpha()?.accept_compressed(gzip));
        }

        let closing = CancellationToken::new();
        let calls = TaskTracker::new();
        let door = listen(
            listeners,
            ListenLimits {
                max_connections: limits.max_connections,
                preface_timeout: limits.preface_timeout.to_std(),
                auth_timeout: limits.auth_timeout.to_std(),
            },
            security.tls.clone(),
            threads.handles(),
            closing.clone(),
        );
        let ledger = Ledger::new(call_limits(limits), door.lines.clone());
        let server = server(limits)
            .layer(observe.clone())
            .layer(CallsLayer::new(ledger.clone(), limits.max_watches)?)
            .layer(InFlight { sessions: SessionCounters { observe, ledger: ledger.clone(), calls: calls.clone() } })
            .layer(ErrorLayer)
            .layer(GuardLayer { guard: security.guard.clone(), clock: security.clock.clone() });
        let routes = routes.routes().prepare();
        let served = threads.handles().iter().zip(door.incoming).map(|(runtime, incoming)| {
            let (server, routes, closing) = (server.clone(), routes.clone(), closing.clone());
            let serving =
                async move { server.serve_with_incoming_shutdown(routes, incoming, closing.cancelled_owned()).await };
            AbortOnDropHandle::new(runtime.spawn(serving))
        });
        let served = join_all(served);
        let serving = tokio::spawn(async move { drop(served.await) });
        let _time = AbortOnDropHandle::new(tokio::spawn(ledger.watch_time()));
        let _fresh = AbortOnDropHandle::new(tokio::spawn(security.keep_fresh(door.lines.clone())));
        Ok(Front { serving, accepting: door.accepting, lines: door.lines, calls, closing, _time, _fresh })
    }

    /// The clients' connections.
    pub(super) fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// Ready if the server stops by itself. It has no reason to.
    pub(super) async fn failed(&mut self) {
        // The accept loop ends, too, when the server takes no more connections.
        if let Err(error) = (&mut self.accepting).await {
            warn!(%error, "the accept loop ended early");
        }
    }

    /// Closes the socket, tells clients to go, waits until `answered_by` for calls in flight, then at most `linger` for
    /// connections to close, and cuts the rest. Streams are to be ended by others; they are not calls in flight.
    pub(super) async fn end(mut self, answered_by: Instant, linger: Duration) {
        self.closing.cancel();
        self.calls.close();
        if timeout_at(answered_by, self.calls.wait()).await.is_err() {
            warn!(calls = self.calls.len(), "some calls are not answered in time");
        }
        if timeout(linger, &mut self.serving).await.is_ok() {
            return;
        }
        let connections = self.lines.cut_all();
        info!(connections, "cut the connections that did not close in time");
        if timeout(CUT, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

fn call_limits(limits: &Limits) -> CallLimits {
    CallLimits {
        request_timeout: limits.request_timeout.to_std(),
        answer_timeout: limits.answer_timeout.to_std(),
        max_message_bytes: limits.max_message_bytes,
        max_calls: limits.max_calls,
        max_call_bytes: limits.max_call_bytes,
    }
}

/// The server's settings. Its own timeouts and concurrency limits stay off: they do not bound streams. So does the
/// maximum age of connections: with a grace it cuts them without a GOAWAY. How much of an answer the library may buffer
/// can't be set: a call's answer is handed to it in one piece, on the call's account.
fn server(limits: &Limits) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(limits.keepalive_interval.to_std()))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout.to_std()))
        .http2_adaptive_window(Some(false))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(
            CONNECTION_WINDOW.max(limits.max_concurrent_streams.saturating_mul(WINDOW_PER_CALL)),
        )
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS))
}

/// Counts calls from their headers to the handler's answer. A stream's answer is its beginning; the items of a session are counted
/// one by one.
#[derive(Clone)]
struct InFlight {
    sessions: SessionCounters,
}

impl<S> Layer<S> for InFlight {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, sessions: self.sessions.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    sessions: SessionCounters,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path() == SESSION {
            let counter = self.sessions.counter(&request);
            request.extensions_mut().insert(counter);
        }
        self.sessions.calls.track_future(self.inner.call(request))
    }
}
