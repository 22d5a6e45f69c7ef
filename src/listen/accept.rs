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
    ListenLimits,
    connection::{Connection, PREFACE},
    deal::{Hall, closed, emptiest},
    lines::{Line, Lines, Refusal},
    places::{Place, Places},
    socket::{Peer, Socket},
    tls::{Stream, Tls},
};
use crate::mutants::{self, Mutant};

/// The first wait after a failed accept: long enough for a busy server to free a descriptor, too short for a client to
/// notice.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// The longest wait. It bounds how late the first client is served once descriptors are free again.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The source of connections. A trait, so that a test can make accepts fail.
pub(super) trait Accept: Send + Sync + 'static {
    /// The next connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Socket, Peer)>> + Send;
}

/// Accepts the connections of all listeners within their limits, and hands them to the network threads.
pub(super) struct Door<A> {
    source: Arc<A>,
    places: Places,
    preface_timeout: Duration,
    tls: Option<Tls>,
    lines: Lines,
    halls: Vec<Hall>,
}

impl<A: Accept> Door<A> {
    pub(super) fn new(source: Arc<A>, limits: ListenLimits, tls: Option<Tls>, lines: Lines, halls: Vec<Hall>) -> Self {
        let ListenLimits { max_connections, preface_timeout, auth_timeout } = limits;
        let places = Places::new(max_connections, auth_timeout, lines.counters());
        Door { source, places, preface_timeout, tls, lines, halls }
    }

    /// Accepts until a network thread stops taking connections.
    pub(super) async fn accept_all(self) {
        let places = self.places.clone();
        tokio::select! {
            () = self.accept_each() => {}
            () = places.watch_time() => {}
        }
    }

    async fn accept_each(self) {
        let mut greetings = JoinSet::new();
        let mut shortage = Shortage::default();
        loop {
            self.places.tell_if_full();
            let accepted = tokio::select! {
                () = closed(&self.halls) => return,
                // Finished handshake tasks are collected at once: left in the set, a burst of them would keep its memory.
                Some(_) = greetings.join_next() => continue,
                accepted = self.next() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if shortage.accepted() {
                        info!("accepting connections again");
                    }
                    self.lines.accepted();
                    // The connection that could have been closed for this one may have made its first call while `accept`
                    // was pending.
                    let (place, line) = loop {
                        if let Some(entered) = self.places.enter(peer) {
                            break entered;
                        }
                        tokio::select! {
                            () = closed(&self.halls) => return,
                            () = self.places.room() => {}
                        }
                    };
                    let Some(hall) = emptiest(&self.halls) else { return };
                    greetings.spawn_on(self.greet(stream, line, place, hall), hall.runtime());
                }
                // The peer disconnected before it was accepted. The connection has left the backlog, so this can't loop
                // forever.
                Err(error) if is_the_peers(&error) => debug!(%error, "a connection ended before it was accepted"),
                Err(error) => {
                    let (wait, first) = shortage.failed();
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
        self.places.room().await;
        self.source.accept().await
    }

    /// The TLS handshake, then the HTTP/2 preface, then the connection goes to its thread. Any failure closes it.
    fn greet(&self, stream: Socket, line: Arc<Line>, place: Place, hall: &Hall) -> impl Future<Output = ()> + use<A> {
        let (tls, lines) = (self.tls.clone(), self.lines.clone());
        let (mut within, entry) = (self.preface_timeout, hall.enter());
        if mutants::on(Mutant::SilentConnectionsKept) {
            within = Duration::from_secs(3600);
        }
        // The socket leaves this runtime's event queue and is registered with the runtime that will serve it.
        let stream = Detached::from(stream);
        async move {
            let (greeted, seat) = entry;
            let peer = line.peer();
            let stream = match stream.attach() {
                Ok(stream) => stream,
                Err(error) => return debug!(%peer, %error, "closed: it can't be waited for"),
            };
            // Without it a small answer waits for the peer's delayed acknowledgement: 40 ms.
            if let Socket::Tcp(stream) = &stream
                && let Err(error) = stream.set_nodelay(true)
            {
                debug!(%peer, %error, "TCP_NODELAY could not be set");
            }
            let config = tls.as_ref().map(Tls::current);
            let greeting = tokio::select! {
                biased;
                greeting = timeout(within, greeting(stream, config.clone(), &line)) => greeting,
                // Cut: another connection needs its permit, or `auth_timeout` is over.
                _ = poll_fn(|cx| line.park::<()>(cx)) => return,
            };
            match greeting {
                Ok(Ok(stream)) => {
                    let connection = Connection::new(stream, line.clone(), (place, seat), &lines);
                    // The certificate may have been revoked during the handshake. A reload checks the connections that are
                    // listed after it has replaced the configuration, and this one was not listed then.
                    if line.certificate().is_some() && !is_current(tls.as_ref(), config.as_ref()) {
                        line.cut();
                    }
                    // An error means that the server is shutting down; the connection is closed with it.
                    let _ = greeted.send(connection).await;
                }
                Ok(Err((why, error))) => {
                    lines.refused(why);
                    debug!(%peer, %error, "closed: no HTTP/2");
                }
                Err(_) => {
                    lines.refused(Refusal::TooLate);
                    debug!(%peer, "closed: no HTTP/2 preface in time");
                }
            }
        }
    }
}

/// A socket that is registered with no event queue.
enum Detached {
    Tcp(io::Result<std::net::TcpStream>),
    Unix(io::Result<std::os::unix::net::UnixStream>),
}

impl From<Socket> for Detached {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(stream) => Detached::Tcp(stream.into_std()),
            Socket::Unix(stream) => Detached::Unix(stream.into_std()),
        }
    }
}

impl Detached {
    /// Registers it with the runtime on which this is called.
    fn attach(self) -> io::Result<Socket> {
        match self {
            Detached::Tcp(stream) => stream.and_then(TcpStream::from_std).map(Socket::Tcp),
            Detached::Unix(stream) => stream.and_then(UnixStream::from_std).map(Socket::Unix),
        }
    }
}

fn is_current(tls: Option<&Tls>, config: Option<&Arc<ServerConfig>>) -> bool {
    match (tls, config) {
        (Some(tls), Some(config)) => Arc::ptr_eq(&tls.current(), config),
        (None, _) | (_, None) => true,
    }
}

/// Everything before the first frame. Unix sockets have no TLS: nobody else can read them.
async fn greeting(stream: Socket, tls: Option<Arc<ServerConfig>>, line: &Line) -> Result<Stream, (Refusal, io::Error)> {
    let mut stream = match (stream, tls) {
        (Socket::Unix(stream), _) => Stream::Unix(stream),
        (Socket::Tcp(stream), None) => Stream::Plain(stream),
        (Socket::Tcp(stream), Some(tls)) => {
            let (stream, certificate) = Tls::accept(tls, stream).await.map_err(|error| (Refusal::NoTls, error))?;
            if let Some(certificate) = certificate {
                line.shows(certificate);
            }
            stream
        }
    };
    read_preface(&mut stream).await.map_err(|error| (Refusal::NoHttp2, error))?;
    Ok(stream)
}

/// Reads exactly the preface, and gives up at the first byte that differs.
async fn read_preface(stream: &mut Stream) -> io::Result<()> {
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
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// How long to wait between failing accepts. One success doesn't end a shortage: at the descriptor limit each
/// connection that closes lets one more in, so every other attempt would be logged.
#[derive(Debug, Default)]
struct Shortage {
    wait: Duration,
}

impl Shortage {
    /// After a failed accept: how long to wait, and whether this failure begins a shortage (then it is logged).
    fn failed(&mut self) -> (Duration, bool) {
        let first = self.wait.is_zero();
        self.wait = (self.wait * 2).clamp(WAIT_MIN, WAIT_MAX);
        (self.wait, first)
    }

    /// After a successful accept: whether it ends a shortage.
    fn accepted(&mut self) -> bool {
        let in_episode = !self.wait.is_zero();
        self.wait /= 2;
        if self.wait < WAIT_MIN {
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
    fn waits_grow_to_a_second_and_an_episode_is_told_once() {
        let mut shortage = Shortage::default();
        assert!(!shortage.accepted());
        assert_eq!(shortage.failed(), (WAIT_MIN, true));
        assert_eq!(shortage.failed(), (WAIT_MIN * 2, false));
        for _ in 0..10 {
            assert!(!shortage.failed().1);
        }
        assert_eq!(shortage.wait, WAIT_MAX);
        assert!(!shortage.accepted(), "one success is not the end of it");
        assert!(!shortage.failed().1);
        let successes = (1..10).find(|_| shortage.accepted());
        assert!(successes.is_some_and(|count| count > 1));
        assert_eq!(shortage.failed(), (WAIT_MIN, true));
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
    async fn without_descriptors_it_waits_instead_of_spinning() {
        let source = Arc::new(Exhausted(AtomicUsize::new(0)));
        let (greeted, _incoming) = tokio::sync::mpsc::channel(1);
        let halls = vec![Hall::new(tokio::runtime::Handle::current(), greeted)];
        let limits = ListenLimits {
            max_connections: 1,
            preface_timeout: Duration::from_secs(5),
            auth_timeout: Duration::from_secs(30),
        };
        let door = Door::new(source.clone(), limits, None, Lines::default(), halls);
        assert!(timeout(Duration::from_secs(1), door.accept_all()).await.is_err(), "it goes on for ever");
        // At 0, 50, 150, 350 and 750 ms.
        let attempts = source.0.load(Ordering::Relaxed);
        assert!((2..=5).contains(&attempts), "{attempts} attempts in a second");
    }
}
