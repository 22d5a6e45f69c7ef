//! [`Acceptor`]: the accept loop. It backs off while the process is out of file descriptors or other resources.

use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::rustls::ServerConfig;
use tracing::{debug, info, warn};

use super::{
    connection::{Connection, PREFACE},
    connection_limiter::{ConnectionLimiter, ConnectionPermit},
    connections::{ConnectionState, Connections, HandshakeFailure},
    network_thread::{NetworkThread, any_closed, least_loaded},
    socket::{Accept, Peer, Socket},
    tls::{Tls, TransportStream},
};
use crate::mutants::{self, Mutant};

/// The first wait after a failed accept: long enough for a busy server to free a descriptor, too short for a client to
/// notice.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest wait. It bounds how late the first client is served once descriptors are free again.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The limits of all listeners together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenLimits {
    /// Most connections at a time, whether their handshake is over or not.
    pub max_connections: usize,
    /// How long a connection may take to send the HTTP/2 preface, including the TLS handshake.
    pub preface_timeout: Duration,
    /// How long it may take until a call on it passes authentication. See [`super::ConnectionState::set_authenticated`].
    pub auth_timeout: Duration,
}

/// Accepts the connections of all listeners within their limits, and hands them to the network threads.
pub(super) struct Acceptor<A> {
    source: Arc<A>,
    limiter: ConnectionLimiter,
    preface_timeout: Duration,
    tls: Option<Tls>,
    connections: Connections,
    threads: Vec<NetworkThread>,
}

impl<A: Accept> Acceptor<A> {
    pub(super) fn new(
        source: Arc<A>,
        limits: ListenLimits,
        tls: Option<Tls>,
        connections: Connections,
        threads: Vec<NetworkThread>,
    ) -> Self {
        let ListenLimits { max_connections, preface_timeout, auth_timeout } = limits;
        let limiter = ConnectionLimiter::new(max_connections, auth_timeout, connections.counters());
        Acceptor { source, limiter, preface_timeout, tls, connections, threads }
    }

    /// Accepts until a network thread stops taking connections.
    pub(super) async fn run(self) {
        let limiter = self.limiter.clone();
        tokio::select! {
            () = self.accept_loop() => {}
            () = limiter.enforce_timeouts() => {}
        }
    }

    async fn accept_loop(self) {
        let mut handshakes = JoinSet::new();
        let mut backoff = AcceptBackoff::default();
        loop {
            self.limiter.log_if_full();
            let accepted = tokio::select! {
                () = any_closed(&self.threads) => return,
                // Finished handshake tasks are collected at once: left in the set, a burst of them would keep its memory.
                Some(_) = handshakes.join_next() => continue,
                accepted = self.next() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if backoff.accepted() {
                        info!("accepting connections again");
                    }
                    self.connections.accepted();
                    // The connection that could have been closed for this one may have made its first call while `accept`
                    // was pending.
                    let (permit, state) = loop {
                        if let Some(admitted) = self.limiter.admit(peer) {
                            break admitted;
                        }
                        tokio::select! {
                            () = any_closed(&self.threads) => return,
                            () = self.limiter.room() => {}
                        }
                    };
                    let Some(thread) = least_loaded(&self.threads) else { return };
                    handshakes.spawn_on(self.start_handshake(stream, state, permit, thread), thread.runtime());
                }
                // The peer disconnected before it was accepted. The connection has left the backlog, so this can't loop
                // forever.
                Err(error) if concerns_one_connection(&error) => {
                    debug!(%error, "a connection ended before it was accepted")
                }
                Err(error) => {
                    let (wait, first) = backoff.failed();
                    if first {
                        warn!(%error, "can't accept connections; trying again, at most a second apart");
                    }
                    sleep(wait).await;
                }
            }
        }
    }

    /// Waits until there is room, then for a connection. Cancel safe: dropping the future loses no connection.
    async fn next(&self) -> io::Result<(Socket, Peer)> {
        self.limiter.room().await;
        self.source.accept().await
    }

    /// The TLS handshake, then the HTTP/2 preface, then the connection goes to its thread. Any failure closes it.
    fn start_handshake(
        &self,
        stream: Socket,
        state: Arc<ConnectionState>,
        permit: ConnectionPermit,
        thread: &NetworkThread,
    ) -> impl Future<Output = ()> + use<A> {
        let (tls, connections) = (self.tls.clone(), self.connections.clone());
        let (mut time_limit, entry) = (self.preface_timeout, thread.assign());
        if mutants::on(Mutant::SilentConnectionsKept) {
            time_limit = Duration::from_secs(3600);
        }
        // The socket leaves this runtime's event queue and is registered with the runtime that will serve it.
        let stream = DetachedSocket::from(stream);
        async move {
            let (handshaken, load_guard) = entry;
            let peer = state.peer();
            let stream = match stream.attach() {
                Ok(stream) => stream,
                Err(error) => return debug!(%peer, %error, "closed: it can't be registered with the event queue"),
            };
            // Without it a small answer waits for the peer's delayed acknowledgement: 40 ms.
            if let Socket::Tcp(stream) = &stream
                && let Err(error) = stream.set_nodelay(true)
            {
                debug!(%peer, %error, "TCP_NODELAY could not be set");
            }
            let config = tls.as_ref().map(Tls::current);
            let handshake = tokio::select! {
                biased;
                handshake = timeout(time_limit, handshake(stream, config.clone(), &state)) => handshake,
                // Cut: another connection needs its permit, or `auth_timeout` is over.
                _ = poll_fn(|cx| state.poll_cut::<()>(cx)) => return,
            };
            match handshake {
                Ok(Ok(stream)) => {
                    let connection = Connection::new(stream, state.clone(), (permit, load_guard), &connections);
                    // The certificate may have been revoked during the handshake. A reload checks the connections that are
                    // listed after it has replaced the configuration, and this one was not listed then.
                    if state.certificate().is_some() && !is_current_config(tls.as_ref(), config.as_ref()) {
                        state.cut();
                    }
                    // An error means that the server is shutting down; the connection is closed with it.
                    let _ = handshaken.send(connection).await;
                }
                Ok(Err((why, error))) => {
                    connections.refused(why);
                    debug!(%peer, %error, "closed: no HTTP/2");
                }
                Err(_) => {
                    connections.refused(HandshakeFailure::TimedOut);
                    debug!(%peer, "closed: no HTTP/2 preface in time");
                }
            }
        }
    }
}

/// A socket that is registered with no event queue.
enum DetachedSocket {
    Tcp(io::Result<std::net::TcpStream>),
    Unix(io::Result<std::os::unix::net::UnixStream>),
}

impl From<Socket> for DetachedSocket {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(stream) => DetachedSocket::Tcp(stream.into_std()),
            Socket::Unix(stream) => DetachedSocket::Unix(stream.into_std()),
        }
    }
}

impl DetachedSocket {
    /// Registers it with the runtime on which this is called.
    fn attach(self) -> io::Result<Socket> {
        match self {
            DetachedSocket::Tcp(stream) => stream.and_then(TcpStream::from_std).map(Socket::Tcp),
            DetachedSocket::Unix(stream) => stream.and_then(UnixStream::from_std).map(Socket::Unix),
        }
    }
}

fn is_current_config(tls: Option<&Tls>, config: Option<&Arc<ServerConfig>>) -> bool {
    match (tls, config) {
        (Some(tls), Some(config)) => Arc::ptr_eq(&tls.current(), config),
        (None, _) | (_, None) => true,
    }
}

/// Everything before the first frame. Unix sockets have no TLS: nobody else can read them.
async fn handshake(
    stream: Socket,
    tls: Option<Arc<ServerConfig>>,
    state: &ConnectionState,
) -> Result<TransportStream, (HandshakeFailure, io::Error)> {
    let mut stream = match (stream, tls) {
        (Socket::Unix(stream), _) => TransportStream::Unix(stream),
        (Socket::Tcp(stream), None) => TransportStream::Plain(stream),
        (Socket::Tcp(stream), Some(tls)) => {
            let (stream, certificate) =
                Tls::accept(tls, stream).await.map_err(|error| (HandshakeFailure::NoTls, error))?;
            if let Some(certificate) = certificate {
                state.set_certificate(certificate);
            }
            stream
        }
    };
    read_preface(&mut stream).await.map_err(|error| (HandshakeFailure::NoHttp2, error))?;
    Ok(stream)
}

/// Reads exactly the preface, and gives up at the first byte that differs.
async fn read_preface(stream: &mut TransportStream) -> io::Result<()> {
    let mut buffer = [0; PREFACE.len()];
    let mut seen = 0;
    while seen < PREFACE.len() {
        let read = stream.read(&mut buffer[seen..]).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed it"));
        }
        if buffer[seen..seen + read] != PREFACE[seen..seen + read] {
            // The first byte of a TLS handshake record.
            let tls = buffer[0] == 0x16;
            let problem =
                if tls { "the peer speaks TLS, this port does not" } else { "the peer speaks another protocol" };
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        seen += read;
    }
    Ok(())
}

/// True if the error concerns only the connection that the accept would have returned.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// How long to wait between failing accepts. One success doesn't end a shortage: at the descriptor limit each
/// connection that closes lets one more in, so every other attempt would be logged.
#[derive(Debug, Default)]
struct AcceptBackoff {
    wait: Duration,
}

impl AcceptBackoff {
    /// After a failed accept: how long to wait, and whether this failure begins a shortage (then it is logged).
    fn failed(&mut self) -> (Duration, bool) {
        let first = self.wait.is_zero();
        self.wait = (self.wait * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        (self.wait, first)
    }

    /// After a successful accept: whether it ends a shortage.
    fn accepted(&mut self) -> bool {
        let in_episode = !self.wait.is_zero();
        self.wait /= 2;
        if self.wait < BACKOFF_MIN {
            self.wait = Duration::ZERO;
        }
        in_episode && self.wait.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn accept_delays_grow_to_a_second_and_an_episode_is_logged_once() {
        let mut backoff = AcceptBackoff::default();
        assert!(!backoff.accepted());
        assert_eq!(backoff.failed(), (BACKOFF_MIN, true));
        assert_eq!(backoff.failed(), (BACKOFF_MIN * 2, false));
        for _ in 0..10 {
            assert!(!backoff.failed().1);
        }
        assert_eq!(backoff.wait, BACKOFF_MAX);
        assert!(!backoff.accepted(), "one success is not the end of it");
        assert!(!backoff.failed().1);
        let successes = (1..10).find(|_| backoff.accepted());
        assert!(successes.is_some_and(|count| count > 1));
        assert_eq!(backoff.failed(), (BACKOFF_MIN, true));
    }

    /// Fails like a process without free descriptors: at once, each time.
    struct Exhausted(AtomicUsize);

    impl Accept for Exhausted {
        async fn accept(&self) -> io::Result<(Socket, Peer)> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::from_raw_os_error(24))
        }
    }

    #[tokio::test]
    async fn without_file_descriptors_the_acceptor_waits() {
        let source = Arc::new(Exhausted(AtomicUsize::new(0)));
        let (handshaken, _incoming) = tokio::sync::mpsc::channel(1);
        let threads = vec![NetworkThread::new(tokio::runtime::Handle::current(), handshaken)];
        let limits = ListenLimits {
            max_connections: 1,
            preface_timeout: Duration::from_secs(5),
            auth_timeout: Duration::from_secs(30),
        };
        let acceptor = Acceptor::new(source.clone(), limits, None, Connections::default(), threads);
        assert!(timeout(Duration::from_secs(1), acceptor.run()).await.is_err(), "it goes on for ever");
        // At 0, 50, 150, 350 and 750 ms.
        let attempts = source.0.load(Ordering::Relaxed);
        assert!((2..=5).contains(&attempts), "{attempts} attempts in a second");
    }
}
