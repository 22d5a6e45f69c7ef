//! The HTTP server behind the operators' port, and what bounds it.
//!
//! Nobody is trusted to be quick: a connection lasts a minute at most, and when there are too many the oldest goes. So
//! whoever asks and reads is served at once, however many others hold theirs open.

use std::{collections::VecDeque, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use futures::future::{Either, select};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{body::Body, server::NamedService};
use tower::{Service, ServiceExt, service_fn};
use tracing::{debug, warn};

use super::{Ops, pages};

/// Most connections: a few scrapers, probes and people.
const CONNECTIONS: usize = 64;
/// How long a connection lasts before it is told to go, and how long it has to do so.
const LIFETIME: Duration = Duration::from_secs(50);
const GOING: Duration = Duration::from_secs(10);
/// How long the head of a request may take to arrive, and a connection may idle between two.
const HEAD: Duration = Duration::from_secs(10);
/// Room for the head of a request.
const HEAD_BYTES: usize = 16 << 10;
/// Streams of one connection.
const STREAMS: u32 = 16;
/// How long to wait after an accept that failed.
const SHORTAGE: Duration = Duration::from_millis(100);

/// The health service, whatever reports to it.
pub(in crate::serve) trait HealthService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> HealthService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Accepts for ever.
pub(super) async fn accept_all<H: HealthService>(socket: TcpListener, ops: Arc<Ops>, health: H) {
    let mut open: VecDeque<AbortOnDropHandle<()>> = VecDeque::with_capacity(CONNECTIONS);
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= CONNECTIONS {
                    open.pop_front();
                }
                let served = serve(stream, ops.clone(), health.clone());
                open.push_back(AbortOnDropHandle::new(tokio::spawn(served)));
            }
            Err(error) => {
                warn!(%error, "can't accept a connection for metrics and probes");
                sleep(SHORTAGE).await;
            }
        }
    }
}

async fn serve<H: HealthService>(stream: TcpStream, ops: Arc<Ops>, health: H) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
    builder.http2().timer(TokioTimer::new()).max_header_list_size(HEAD_BYTES as u32).max_concurrent_streams(STREAMS);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (ops, health) = (ops.clone(), health.clone());
        async move {
            let request = request.map(Body::new);
            if request.uri().path().strip_prefix('/').is_some_and(|path| path.starts_with(H::NAME)) {
                health.oneshot(request).await
            } else {
                let (head, _) = request.into_parts();
                Ok(pages::answer(&ops, &head).await)
            }
        }
    });
    let service = TowerToHyperService::new(answer);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = match select(connection.as_mut(), pin!(sleep(LIFETIME))).await {
        Either::Left((ended, _)) => ended,
        Either::Right(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(GOING, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection for metrics and probes ended early");
    }
}
