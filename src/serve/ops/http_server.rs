//! The HTTP server on the operators' port, and its limits.
//!
//! No client is trusted to be quick: a connection lasts a minute at most. At the limit one connection is closed for each
//! new one. It is one on which no request is being answered, if there is any: the oldest of the address with the most
//! connections. So a probe that asks and reads is served at once, however many connections others hold or open.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures::future::{Either, select};
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tower::{ServiceExt, service_fn};
use tracing::{debug, info, warn};

use super::{
    routes::{HealthService, routes},
    state::OpsState,
};
use crate::{
    config::OPS_CONNECTIONS,
    domain::time::{Span, Timestamp},
};

/// How long a new connection has for its request before it may be closed for another one. A client sends the request with
/// its first packet and needs a moment of CPU for it; a flood opens 12,800 connections a second.
const FIRST_REQUEST: Span = Span::from_millis(10);
/// How long a connection lasts before its client is told to go away, and how long it then has to close.
const LIFETIME: Duration = Duration::from_secs(50);
const CLOSE_GRACE: Duration = Duration::from_secs(10);
/// How long the header of a request may take to arrive, and how long a connection may idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest header of a request, in bytes.
const HEADER_BYTES: usize = 16 << 10;
/// Most streams of one HTTP/2 connection.
const STREAMS: u32 = 16;
/// How long to wait after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

struct OpenConnection {
    address: IpAddr,
    since: Timestamp,
    /// Requests on it that are being answered.
    answering: Arc<AtomicUsize>,
    task: AbortOnDropHandle<()>,
}

/// Serves until the result is dropped.
pub(in crate::serve) fn serve<H: HealthService>(
    ops: &Arc<OpsState>,
    socket: TcpListener,
    health: H,
) -> io::Result<AbortOnDropHandle<()>> {
    let address = socket.local_addr()?;
    info!(%address, "serving metrics and probes");
    Ok(AbortOnDropHandle::new(tokio::spawn(accept_loop(socket, ops.clone(), health))))
}

/// Accepts and serves connections. Never returns.
async fn accept_loop<H: HealthService>(socket: TcpListener, ops: Arc<OpsState>, health: H) {
    let router = routes(ops.clone(), health);
    let mut open: VecDeque<OpenConnection> = VecDeque::with_capacity(OPS_CONNECTIONS);
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                open.retain(|connection| !connection.task.is_finished());
                while open.len() >= OPS_CONNECTIONS {
                    let chosen = connection_to_close(&open);
                    let age = open.get(chosen).map_or(FIRST_REQUEST, |one| ops.clock.now().since(one.since));
                    if age >= FIRST_REQUEST {
                        open.remove(chosen);
                    } else {
                        sleep(Duration::from_micros(FIRST_REQUEST.micros().abs_diff(age.micros()))).await;
                        open.retain(|connection| !connection.task.is_finished());
                    }
                }
                let answering = Arc::new(AtomicUsize::new(0));
                let served = serve_connection(stream, router.clone(), answering.clone());
                let task = AbortOnDropHandle::new(tokio::spawn(served));
                let address = peer.ip().to_canonical();
                open.push_back(OpenConnection { address, since: ops.clock.now(), answering, task });
                // Without this a flood is accepted many connections at a time, and none is read in between.
                yield_now().await;
            }
            Err(error) => {
                warn!(%error, "can't accept a connection for metrics and probes");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// The index of the connection that is closed for a new one.
fn connection_to_close(open: &VecDeque<OpenConnection>) -> usize {
    let mut of_address: HashMap<IpAddr, usize> = HashMap::new();
    for one in open {
        *of_address.entry(one.address).or_default() += 1;
    }
    let rank = |one: &OpenConnection| {
        let (answering, others) = (one.answering.load(Relaxed) > 0, of_address.get(&one.address).copied().unwrap_or(0));
        (answering, usize::MAX - others)
    };
    // Of equal ones `min_by_key` takes the first, and that is the oldest.
    open.iter().enumerate().min_by_key(|(_, one)| rank(one)).map_or(0, |(place, _)| place)
}

/// Counts a request as being answered until its response has been handed to the connection.
struct RequestGuard(Arc<AtomicUsize>);

impl RequestGuard {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        RequestGuard(count.clone())
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The body of a response, with the count of its request.
struct CountedBody {
    inner: Body,
    _guard: RequestGuard,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

async fn serve_connection(stream: TcpStream, router: Router, answering: Arc<AtomicUsize>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEADER_BYTES);
    builder.http2().timer(TokioTimer::new()).max_header_list_size(HEADER_BYTES as u32).max_concurrent_streams(STREAMS);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (router, guard) = (router.clone(), RequestGuard::begin(&answering));
        async move {
            let answer = router.oneshot(request).await?;
            Ok::<_, Infallible>(answer.map(|inner| CountedBody { inner, _guard: guard }))
        }
    });
    let service = TowerToHyperService::new(answer);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = match select(connection.as_mut(), pin!(sleep(LIFETIME))).await {
        Either::Left((ended, _)) => ended,
        Either::Right(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(CLOSE_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection for metrics and probes ended early");
    }
}
