//! All that faces clients: the accept loop, the gRPC server with its settings, and the calls in flight.

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
    ServeError,
    auth::{CallerCheck, Loaded},
    call_service::CallHandling,
    calls::{CallLimits, Ledger, Methods, OtherStreams, RequestBody},
    connections,
    observe::Observer,
    session::SessionCounters,
    threads::Threads,
};
use crate::{
    config::Limits,
    grpc::Services,
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
    /// Serves `services`, and reflection beside them, to those who are let in.
    pub(super) fn start(
        limits: &Limits,
        listeners: Listeners,
        threads: &Threads,
        mut services: Services<RequestBody>,
        security: &Loaded,
        observe: Observer,
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
            services = services.with(reflection().build_v1()?.accept_compressed(gzip));
            services = services.with(reflection().build_v1alpha()?.accept_compressed(gzip));
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
        let handling = Arc::new(CallHandling {
            counters: SessionCounters { observe, ledger: ledger.clone(), calls: calls.clone() },
            methods: Methods::of_all_services()?,
            other_streams: OtherStreams::new(limits.max_watches),
            caller_check: CallerCheck { guard: security.guard.clone(), clock: security.clock.clone() },
            services,
        });
        let http = http(limits);
        let served = threads.handles().iter().zip(door.incoming).map(|(runtime, incoming)| {
            let serving = connections::serve(http.clone(), handling.clone(), incoming, closing.clone());
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

    /// Closes the socket, tells clients to go, waits until `store_answering_with` for calls in flight, then at most `linger` for
    /// connections to close, and cuts the rest. Streams are to be ended by others; they are not calls in flight.
    pub(super) async fn end(mut self, store_answering_with: Instant, linger: Duration) {
        self.closing.cancel();
        self.calls.close();
        if timeout_at(store_answering_with, self.calls.wait()).await.is_err() {
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

/// The settings of HTTP/2. How much of an answer the library may buffer is left as it is: a call's answer is handed to it in one
/// piece, on the call's account.
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
        // No caller of a coordinator looks at it, and it would be written and read with every answer.
        .auto_date_header(false);
    http
}
