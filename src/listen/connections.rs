//! [`ConnectionState`] and [`Connections`]: what is known of each open connection, the list of them, and how they are cut.
//!
//! The call limiter (`serve/calls`) updates the counters of calls and unread bytes; this module only stores them. Times
//! are the call limiter's ticks of 100 ms.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    connection_holder::ConnectionHolder,
    socket::Peer,
    tls::{ClientCertificate, ConnectionCertificate},
};

/// What the connection limiter has to know of an open connection. A trait, because the limiter's module uses this one.
pub(super) trait LimiterEvents: fmt::Debug + Send + Sync {
    /// A call on the connection passed authentication: it is no longer closed in favour of others that have made none.
    fn authenticated(&self, number: u64, holder: ConnectionHolder);

    /// The connection's certificate was verified: it is closed only after those without one.
    fn verified(&self, number: u64);
}

/// The state of one connection that other tasks read and change.
#[derive(Debug)]
pub struct ConnectionState {
    peer: Peer,
    /// Set after the handshake, if clients are asked for a certificate.
    certificate: OnceLock<ConnectionCertificate>,
    number: u64,
    limiter: Arc<dyn LimiterEvents>,
    /// A call on this connection passed authentication.
    authenticated: AtomicBool,
    /// Whom the connection belongs to since that call.
    holder: Mutex<Option<ConnectionHolder>>,
    /// Cancelled when the caller of that call is revoked.
    caller: Mutex<Option<CancellationToken>>,
    cut: AtomicBool,
    counters: Arc<ConnectionCounters>,
    /// Wakes the one task that drives the connection in both directions.
    waker: AtomicWaker,
    /// Open calls and streams.
    calls: AtomicUsize,
    /// Answers to unary calls that the peer has not read yet.
    unread_answers: AtomicUsize,
    /// When the peer last read anything, or when its first unread bytes were handed out, in ticks.
    last_read_tick: AtomicU64,
    /// Bytes of answers and streams that the peer has not read yet.
    unread_bytes: AtomicUsize,
}

impl ConnectionState {
    pub(super) fn new(
        peer: Peer,
        number: u64,
        limiter: Arc<dyn LimiterEvents>,
        counters: Arc<ConnectionCounters>,
    ) -> Self {
        ConnectionState {
            peer,
            certificate: OnceLock::new(),
            number,
            limiter,
            authenticated: AtomicBool::new(false),
            holder: Mutex::new(None),
            caller: Mutex::new(None),
            cut: AtomicBool::new(false),
            counters,
            waker: AtomicWaker::new(),
            calls: AtomicUsize::new(0),
            unread_answers: AtomicUsize::new(0),
            last_read_tick: AtomicU64::new(0),
            unread_bytes: AtomicUsize::new(0),
        }
    }

    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The peer's verified certificate, if clients are asked for one.
    pub fn certificate(&self) -> Option<&ConnectionCertificate> {
        self.certificate.get()
    }

    /// Stores the certificate that was verified in the handshake.
    pub(super) fn set_certificate(&self, certificate: ClientCertificate) {
        // It is set only once: a connection has one handshake.
        let _ = self.certificate.set(ConnectionCertificate::new(certificate));
        self.limiter.verified(self.number);
    }

    /// Called for each call that passes authentication: the connection is then no longer closed in favour of others that
    /// have made none. `caller` is the principal's name and a token that is cancelled when the principal is revoked; the
    /// connection then needs another call.
    pub fn set_authenticated(&self, caller: Option<(&str, &CancellationToken)>) {
        if self.authenticated.load(Ordering::Relaxed) {
            return;
        }
        let holder = match caller {
            Some((name, _)) => ConnectionHolder::Principal(name.into()),
            None => ConnectionHolder::Network(self.peer.network()),
        };
        *self.caller.lock() = caller.map(|(_, known)| known.clone());
        *self.holder.lock() = Some(holder.clone());
        if !self.authenticated.swap(true, Ordering::Relaxed) {
            self.limiter.authenticated(self.number, holder);
        }
    }

    /// How active the connection is: whether calls run, then when the peer last read anything. The smallest is the idlest.
    pub(super) fn activity(&self) -> (bool, u64) {
        (self.calls.load(Ordering::Relaxed) > 0, self.last_read_tick.load(Ordering::Relaxed))
    }

    /// Whom it belongs to; none until a call on it has passed authentication.
    pub fn holder(&self) -> Option<ConnectionHolder> {
        self.holder.lock().clone()
    }

    /// The caller was revoked: only another call that passes authentication keeps the connection.
    pub(super) fn reset_authentication(&self) {
        *self.holder.lock() = None;
        self.authenticated.store(false, Ordering::Relaxed);
    }

    /// Whether the caller that authenticated the connection has been revoked.
    pub(super) fn is_caller_revoked(&self) -> bool {
        self.caller.lock().as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Its number; later connections have higher ones.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn check_open(&self) -> io::Result<()> {
        if self.is_cut() { Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the daemon")) } else { Ok(()) }
    }

    /// Pending until the connection is cut; the task is woken then.
    pub(super) fn poll_cut<T>(&self, cx: &Context<'_>) -> Poll<io::Result<T>> {
        self.waker.register(cx.waker());
        // It may have been cut between the caller's check and the registration.
        match self.check_open() {
            Ok(()) => Poll::Pending,
            Err(cut) => Poll::Ready(Err(cut)),
        }
    }

    /// Closes the connection whatever its peer does: the next read or write fails, and a pending one fails now.
    pub fn cut(&self) {
        self.cut_as(&self.counters.cut);
    }

    /// Like [`ConnectionState::cut`], counted in `counter`.
    pub(super) fn cut_as(&self, counter: &AtomicU64) {
        if !self.cut.swap(true, Ordering::Release) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.waker.wake();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// A call begins. Returns the number of open calls, this one included.
    pub fn begin_call(&self) -> usize {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A call has ended: its answer was read, or the call was aborted.
    pub fn end_call(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds bytes that were handed to the connection; `answer`: they are the answer to a unary call.
    pub fn add_unread(&self, bytes: usize, answer: bool, tick: u64) {
        if self.unread_bytes.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.last_read_tick.store(tick, Ordering::Relaxed);
        }
        self.unread_answers.fetch_add(usize::from(answer), Ordering::Relaxed);
    }

    /// The peer has read these bytes, or they were dropped. Returns how many of them were still counted here.
    pub fn remove_unread(&self, bytes: usize, answer: bool, tick: u64) -> usize {
        self.last_read_tick.store(tick, Ordering::Relaxed);
        self.unread_answers.fetch_sub(usize::from(answer), Ordering::Relaxed);
        let left = |held: usize| Some(held.saturating_sub(bytes));
        let before = self.unread_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        before.unwrap_or_else(|held| held).min(bytes)
    }

    /// Bytes that the peer has not read.
    pub fn unread_bytes(&self) -> usize {
        self.unread_bytes.load(Ordering::Relaxed)
    }

    /// Sets the unread bytes to zero because the connection is being cut. Returns how many there were.
    pub fn take_unread(&self) -> usize {
        self.unread_bytes.swap(0, Ordering::Relaxed)
    }

    /// The unread bytes, if the peer has read nothing since `tick`; else 0.
    pub fn unread_bytes_since(&self, tick: u64) -> usize {
        if self.last_read_tick.load(Ordering::Relaxed) <= tick { self.unread_bytes() } else { 0 }
    }

    /// The number of unread answers, if the peer has read nothing since `tick`; else 0.
    pub fn unread_answers_since(&self, tick: u64) -> usize {
        if self.last_read_tick.load(Ordering::Relaxed) <= tick {
            self.unread_answers.load(Ordering::Relaxed)
        } else {
            0
        }
    }
}

/// All open connections whose handshake is over; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counters: Arc<ConnectionCounters>,
    open: Mutex<HashMap<u64, Arc<ConnectionState>>>,
}

/// Counts how connections ended. See [`ConnectionCounts`].
#[derive(Debug, Default)]
pub(super) struct ConnectionCounters {
    accepted: AtomicU64,
    no_tls: AtomicU64,
    no_http2: AtomicU64,
    too_late: AtomicU64,
    pub(super) displaced: AtomicU64,
    pub(super) unauthenticated: AtomicU64,
    cut: AtomicU64,
}

/// How connections ended, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    pub accepted: u64,
    /// Closed: the TLS handshake failed.
    pub no_tls: u64,
    /// Closed: the peer did not speak HTTP/2, or disconnected before its preface.
    pub no_http2: u64,
    /// Closed: no HTTP/2 preface within `preface_timeout`.
    pub too_late: u64,
    /// Closed to make room: no call on it had passed authentication, or its holder had more than its share.
    pub displaced: u64,
    /// Closed: no call on it passed authentication within `auth_timeout`.
    pub unauthenticated: u64,
    /// Cut by the daemon after that.
    pub cut: u64,
}

/// Why a connection was closed during its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeFailure {
    /// The TLS handshake failed.
    NoTls,
    /// The peer does not speak HTTP/2.
    NoHttp2,
    /// The preface did not arrive within `preface_timeout`.
    TimedOut,
}

impl Connections {
    /// Counts an accepted connection.
    pub(super) fn accepted(&self) {
        self.0.counters.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Arc<ConnectionCounters> {
        self.0.counters.clone()
    }

    /// Counts a connection that was closed during its handshake.
    pub(super) fn refused(&self, why: HandshakeFailure) {
        let counter = match why {
            HandshakeFailure::NoTls => &self.0.counters.no_tls,
            HandshakeFailure::NoHttp2 => &self.0.counters.no_http2,
            HandshakeFailure::TimedOut => &self.0.counters.too_late,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> ConnectionCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        ConnectionCounts {
            accepted: read(&counters.accepted),
            no_tls: read(&counters.no_tls),
            no_http2: read(&counters.no_http2),
            too_late: read(&counters.too_late),
            displaced: read(&counters.displaced),
            unauthenticated: read(&counters.unauthenticated),
            cut: read(&counters.cut),
        }
    }

    /// Lists a connection whose handshake is over.
    pub(super) fn add(&self, connection: &Arc<ConnectionState>) {
        self.0.open.lock().insert(connection.number(), connection.clone());
    }

    pub(super) fn remove(&self, connection: &ConnectionState) {
        let mut open = self.0.open.lock();
        open.remove(&connection.number());
        // A flood grows the table; give the memory back once it is over.
        if open.capacity() > 1024 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
    }

    /// The number of open connections.
    pub fn count(&self) -> usize {
        self.0.open.lock().len()
    }

    /// All open connections that have not been cut.
    pub fn live(&self) -> Vec<Arc<ConnectionState>> {
        self.0.open.lock().values().filter(|connection| !connection.is_cut()).cloned().collect()
    }

    /// Cuts all open connections. Returns how many there were.
    pub fn cut_all(&self) -> usize {
        // Waking a task may drop its connection, and that takes the lock.
        let connections: Vec<_> = self.0.open.lock().values().cloned().collect();
        for connection in &connections {
            connection.cut();
        }
        connections.len()
    }
}
