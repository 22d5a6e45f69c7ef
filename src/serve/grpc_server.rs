//! [`GrpcServer`]: the accept loop, HTTP/2 and its settings, and the calls in flight.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tonic::codec::CompressionEncoding;
use tracing::{info, warn};

use super::{
    auth::{CallerCheck, LoadedSecurity, reload_on_change},
    call_service::CallContext,
    calls::{CallLimiter, CallLimits, LibraryStreamLimiter, MethodTable, RequestBody},
    error::ServeError,
    http2_server,
    network_threads::NetworkThreads,
    observe::CallObserver,
    session_trackers::SessionTrackers,
};
use crate::{
    config::Limits,
    grpc::Services,
    listen::{Connections, ListenLimits, Listeners, listen},
    proto::DESCRIPTORS,
};

/// Largest set of request headers, in bytes: gRPC's own default, with room for tokens and traces.
const HEADER_BYTES: u32 = 8 << 10;
/// Streams per connection that a client may cancel before the server has accepted them; beyond that the connection is
/// closed ("rapid reset", CVE-2023-44487). Some clients cancel a hundred calls at once; a flood cancels any number.
const RESET_STREAMS: usize = 128;
/// Streams per connection that the server may reset because of the client's errors; beyond that the connection is closed
/// ("made you reset", CVE-2025-8671). `tonic` sets no limit. A correct client causes none.
const ERROR_RESETS: usize = 64;
/// Flow-control window of a stream, in bytes: the protocol's default. A worker's stream whose answers are not read holds
/// this much. With a round trip of 12 ms it allows 5 MiB a second.
const STREAM_WINDOW: u32 = 64 << 10;
/// Flow-control window of a connection, in bytes: 16 streams at full speed.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Window that each allowed call adds. `h2` closes a connection as a flood of tiny frames when small frames, counted as 256
/// bytes each, exceed half of its window; so each allowed call may send one at the same time.
const WINDOW_PER_CALL: u32 = 1024;
/// Largest frame, in bytes: the protocol's minimum, so that no connection buffers more before a frame is complete.
const FRAME_BYTES: u32 = 16 << 10;
/// How long cut connections may take to end. Their tasks are woken, so each needs only a moment of CPU.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// The running server for clients.
pub(super) struct GrpcServer {
    serving: JoinHandle<()>,
    accepting: JoinHandle<()>,
    connections: Connections,
    calls: TaskTracker,
    closing: CancellationToken,
    /// Enforces the call limiter's timeouts until this is dropped.
    _timeouts: AbortOnDropHandle<()>,
    /// Reloads certificates and principals when their files change.
    _reload: AbortOnDropHandle<()>,
}

impl GrpcServer {
    /// Serves `services`, and reflection if configured.
    pub(super) fn start(
        limits: &Limits,
        listeners: Listeners,
        threads: &NetworkThreads,
        mut services: Services<RequestBody>,
        security: &LoadedSecurity,
        observer: CallObserver,
    ) -> Result<Self, ServeError> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // For clients that render error details.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        if security.reflection {
            let gzip = CompressionEncoding::Gzip;
            services = services.with(reflection().build_v1()?.accept_compressed(gzip));
            services = services.with(reflection().build_v1alpha()?.accept_compressed(gzip));
        }

        let closing = CancellationToken::new();
        let calls = TaskTracker::new();
        let accept_loop = listen(
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
        let limiter = CallLimiter::new(call_limits(limits), accept_loop.connections.clone());
        let context = Arc::new(CallContext {
            trackers: SessionTrackers { observer, limiter: limiter.clone(), calls: calls.clone() },
            methods: MethodTable::of_all_services()?,
            library_streams: LibraryStreamLimiter::new(limits.max_watches),
            caller_check: CallerCheck { authenticator: security.authenticator.clone(), clock: security.clock.clone() },
            services,
        });
        let http = http(limits);
        let served = threads.handles().iter().zip(accept_loop.incoming).map(|(runtime, incoming)| {
            let serving = http2_server::serve_connections(http.clone(), context.clone(), incoming, closing.clone());
            AbortOnDropHandle::new(runtime.spawn(serving))
        });
        let served = join_all(served);
        let serving = tokio::spawn(async move { drop(served.await) });
        let _timeouts = AbortOnDropHandle::new(tokio::spawn(limiter.enforce_timeouts()));
        let _reload = AbortOnDropHandle::new(tokio::spawn(reload_on_change(security, accept_loop.connections.clone())));
        Ok(GrpcServer {
            serving,
            accepting: accept_loop.task,
            connections: accept_loop.connections,
            calls,
            closing,
            _timeouts,
            _reload,
        })
    }

    /// The clients' connections.
    pub(super) fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Ready when the server stops by itself, which is a bug.
    pub(super) async fn failed(&mut self) {
        // The accept loop also ends when the network threads take no more connections.
        if let Err(error) = (&mut self.accepting).await {
            warn!(%error, "the accept loop ended early");
        }
    }

    /// Closes the sockets, tells clients to go away, waits until `answered_by` for calls in flight, then at most `linger`
    /// for connections to close, and cuts the rest. The caller has to end the streams; they don't count as calls in flight.
    pub(super) async fn shut_down(mut self, answered_by: Instant, linger: Duration) {
        self.closing.cancel();
        self.calls.close();
        if timeout_at(answered_by, self.calls.wait()).await.is_err() {
            warn!(calls = self.calls.len(), "some calls are not answered in time");
        }
        if timeout(linger, &mut self.serving).await.is_ok() {
            return;
        }
        let connections = self.connections.cut_all();
        info!(connections, "cut the connections that did not close in time");
        if timeout(CUT_GRACE, &mut self.serving).await.is_err() {
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

/// The HTTP/2 settings. The send buffer keeps `h2`'s default: an answer is handed over in one piece and counted by the call
/// limiter.
fn http(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(Some(limits.keepalive_interval.to_std()))
        .keep_alive_timeout(limits.keepalive_timeout.to_std())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(
            CONNECTION_WINDOW.max(limits.max_concurrent_streams.saturating_mul(WINDOW_PER_CALL)),
        )
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(HEADER_BYTES)
        .max_pending_accept_reset_streams(Some(RESET_STREAMS))
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        // Clients of a coordinator don't use the `date` header, and it would be sent with every answer.
        .auto_date_header(false);
    http
}
