//! The listening sockets: our own accept loop, in front of the gRPC server.
//!
//! What a server's usual loop lacks: it spins a whole core when the process is out of file descriptors, it takes any
//! number of connections, and it waits for ever for a peer that says nothing. Here every connection is counted, has to
//! send the HTTP/2 preface in time before the server hears of it, and can be cut from outside when the daemon ends.
//!
//! At the bound, a connection is closed for a new one: the idlest of whoever has more than its share, or the one that has waited
//! longest for its first call (see `places`). Where none may be closed, further connections *wait to be accepted*, in order of
//! arrival in the kernel's backlog, rather than being accepted and closed. There is one coordinator, so a client that is turned away
//! can only come back later, and a gRPC client's backoff grows to minutes: longer than most leases. Waiting, it gets the first place
//! that is free.

mod accept;
mod connection;
mod deal;
mod frames;
mod lines;
mod places;
mod socket;
mod tls;

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use connection::Connection;
pub use lines::{Line, Lines};
pub use places::ConnectionHolder;
pub use socket::{Listeners, LocalAddress, Peer, Socket};
pub use tls::{Certificate, CertificateName, ShownCertificate, Tls};

/// Greeted connections that the server has not picked up yet: a burst's worth. It picks them up at once, so more would
/// only hide that it does not.
const GREETED: usize = 64;

/// What bounds the connections of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenLimits {
    /// Most connections at a time, greeted or not.
    pub max_connections: usize,
    /// How long a connection may take to send the HTTP/2 preface, the TLS handshake included.
    pub preface_timeout: Duration,
    /// How long it may take until a call on it is let in. See [`Line::authenticated`].
    pub auth_timeout: Duration,
}

/// An open door: a running accept loop.
#[derive(Debug)]
pub struct Listening {
    /// The connections that have sent their preface, for each runtime that they are dealt to.
    pub incoming: Vec<mpsc::Receiver<Connection>>,
    /// All of those that are open.
    pub lines: Lines,
    /// The loop itself. It ends when it is told to, or when nobody takes its connections any more.
    pub accepting: JoinHandle<()>,
}

/// Accepts connections until `stop` is cancelled, and deals them among these runtimes. The sockets are closed then, with
/// all connections that have not sent their preface; greeted ones live on. With `tls` each has to shake hands first.
pub fn listen(
    listeners: impl Into<Listeners>,
    limits: ListenLimits,
    tls: Option<Tls>,
    halls: &[Handle],
    stop: CancellationToken,
) -> Listening {
    let lines = Lines::default();
    let (halls, incoming) = halls
        .iter()
        .map(|runtime| {
            let (greeted, incoming) = mpsc::channel(GREETED);
            (deal::Hall::new(runtime.clone(), greeted), incoming)
        })
        .unzip();
    let accepting = tokio::spawn({
        let door = accept::Door::new(Arc::new(listeners.into()), limits, tls, lines.clone(), halls);
        async move {
            // Dropping the loop drops the socket and the connections that are not greeted yet.
            let _ = stop.run_until_cancelled_owned(door.accept_all()).await;
        }
    });
    Listening { incoming, lines, accepting }
}
