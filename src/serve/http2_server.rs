//! Serves HTTP/2 on accepted connections.

use std::{pin::pin, sync::Arc};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::call_service::{CallContext, CallService};
use crate::listen::Connection;

/// Serves the connections of one network thread until `closing` is cancelled or the channel closes. Then clients are told
/// to go away (GOAWAY), and this returns when all connections have ended. If the future is dropped first, connections keep
/// running on their runtime.
pub(super) async fn serve_connections(
    http: http2::Builder<TokioExecutor>,
    context: Arc<CallContext>,
    mut incoming: mpsc::Receiver<Connection>,
    closing: CancellationToken,
) {
    let open = TaskTracker::new();
    while let Some(Some(connection)) = closing.run_until_cancelled(incoming.recv()).await {
        open.spawn(serve_connection(http.clone(), context.clone(), connection, closing.clone()));
    }
    // The acceptor notices that this thread takes no more connections.
    drop(incoming);
    open.close();
    open.wait().await;
}

async fn serve_connection(
    http: http2::Builder<TokioExecutor>,
    context: Arc<CallContext>,
    connection: Connection,
    closing: CancellationToken,
) {
    let service = CallService { context, connection: connection.state().clone() };
    let mut serving = pin!(http.serve_connection(TokioIo::new(connection), service));
    let ended = tokio::select! {
        biased;
        ended = &mut serving => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}
