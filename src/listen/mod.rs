//! Listening sockets and the accept loop in front of the gRPC server.
//!
//! `tonic`'s and `hyper`'s usual accept loops spin a core when the process is out of file descriptors, accept any number of
//! connections, and wait forever for a peer that sends nothing. Here connections are limited, each has to send the HTTP/2
//! preface in time before the server sees it, and the daemon can cut each of them.
//!
//! At the limit, one connection is closed for each new one: the idlest of the holder that has more than its share, or else
//! the one that has waited longest for its first call (see `connection_limiter`). If none may be closed, new connections
//! stay in the kernel's backlog, in order of arrival, instead of being accepted and closed. There is one coordinator, so a
//! client that is turned away can only retry, and a gRPC client's backoff grows to minutes: longer than most leases. In
//! the backlog it gets the first permit that is free.

mod acceptor;
mod connection;
mod connection_holder;
mod connection_limiter;
mod connections;
mod control_frame_limiter;
mod network_thread;
mod socket;
mod tls;

use std::sync::Arc;

use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use acceptor::ListenLimits;
pub use connection::Connection;
pub use connection_holder::ConnectionHolder;
pub use connections::{ConnectionState, Connections};
pub use socket::{Listeners, LocalAddress, Peer, Socket};
pub use tls::{CertificateName, ClientCertificate, ConnectionCertificate, Tls};

/// Connections per network thread that it has not picked up yet: one burst. The thread picks them up at once, so a longer
/// queue would only hide that it doesn't.
const HANDSHAKEN: usize = 64;

/// A running accept loop.
#[derive(Debug)]
pub struct AcceptLoop {
    /// For each network thread, its connections after their handshake.
    pub incoming: Vec<mpsc::Receiver<Connection>>,
    /// All open connections after their handshake.
    pub connections: Connections,
    /// The loop. It ends when `stop` is cancelled or a network thread takes no more connections.
    pub task: JoinHandle<()>,
}

/// Accepts connections until `stop` is cancelled, and assigns each to the least loaded of `threads`. Then the sockets are
/// closed, and all connections that are still in their handshake; the others live on. With `tls` each needs a handshake.
pub fn listen(
    listeners: impl Into<Listeners>,
    limits: ListenLimits,
    tls: Option<Tls>,
    threads: &[Handle],
    stop: CancellationToken,
) -> AcceptLoop {
    let connections = Connections::default();
    let (threads, incoming) = threads
        .iter()
        .map(|runtime| {
            let (handshaken, incoming) = mpsc::channel(HANDSHAKEN);
            (network_thread::NetworkThread::new(runtime.clone(), handshaken), incoming)
        })
        .unzip();
    let task = tokio::spawn({
        let acceptor = acceptor::Acceptor::new(Arc::new(listeners.into()), limits, tls, connections.clone(), threads);
        async move {
            // Dropping the loop closes the sockets and the connections that are still in their handshake.
            let _ = stop.run_until_cancelled_owned(acceptor.run()).await;
        }
    });
    AcceptLoop { incoming, connections, task }
}
