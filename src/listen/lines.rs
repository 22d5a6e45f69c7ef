//! The list of all greeted connections: by it they can be cut, and it tells which of them owe what.
//!
//! A line's accounts are kept by the floor above, which knows of calls: how many there are, how many answers the peer has
//! not taken yet, how many bytes those hold. Time is counted in ticks, which whoever keeps the accounts makes.

use std::{
    collections::HashMap,
    io,
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
    places::{ConnectionHolder, Registration},
    socket::Peer,
    tls::{Certificate, ShownCertificate},
};

/// The state of one connection that others may change.
#[derive(Debug)]
pub struct Line {
    peer: Peer,
    /// Once the handshake is over, if a certificate was asked for.
    certificate: OnceLock<ShownCertificate>,
    registration: Registration,
    /// A call on it was let in.
    authenticated: AtomicBool,
    /// To whom it belongs since that call.
    holder: Mutex<Option<ConnectionHolder>>,
    /// Cancelled when whoever made that call is not known any more.
    caller: Mutex<Option<CancellationToken>>,
    cut: AtomicBool,
    counters: Arc<Counters>,
    /// The task that drives the connection: one and the same for both directions.
    waker: AtomicWaker,
    /// Calls and streams on it.
    calls: AtomicUsize,
    /// Answers of unary calls that the peer has not taken.
    untaken: AtomicUsize,
    /// When it last took anything, or when the first of what it has to take was given: in ticks.
    taken_at: AtomicU64,
    /// Bytes of answers and of streams that the peer has not taken.
    bytes: AtomicUsize,
}

impl Line {
    pub(super) fn new(peer: Peer, registration: Registration, counters: Arc<Counters>) -> Self {
        Line {
            peer,
            certificate: OnceLock::new(),
            registration,
            authenticated: AtomicBool::new(false),
            holder: Mutex::new(None),
            caller: Mutex::new(None),
            cut: AtomicBool::new(false),
            counters,
            waker: AtomicWaker::new(),
            calls: AtomicUsize::new(0),
            untaken: AtomicUsize::new(0),
            taken_at: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The certificate that it showed, if one was asked for.
    pub fn certificate(&self) -> Option<&ShownCertificate> {
        self.certificate.get()
    }

    /// The peer has shown this certificate, and it was verified.
    pub(super) fn shows(&self, certificate: Certificate) {
        // There is one handshake.
        let _ = self.certificate.set(ShownCertificate::new(certificate));
        self.registration.verified();
    }

    /// A call on it was let in, so that it is not closed any more for others that have made none. `caller`: the principal's name,
    /// and what is cancelled when it is not known any more; then it takes another call.
    pub fn authenticated(&self, caller: Option<(&str, &CancellationToken)>) {
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
            self.registration.authenticated(holder);
        }
    }

    /// How much goes on there: whether calls are running, then when the peer last took anything. The least is the idlest.
    pub(super) fn activity(&self) -> (bool, u64) {
        (self.calls.load(Ordering::Relaxed) > 0, self.taken_at.load(Ordering::Relaxed))
    }

    /// To whom it belongs; none as long as no call on it was let in.
    pub fn holder(&self) -> Option<ConnectionHolder> {
        self.holder.lock().clone()
    }

    /// The caller is not known any more: whether another call is let in has to be seen.
    pub(super) fn is_unauthenticated(&self) {
        *self.holder.lock() = None;
        self.authenticated.store(false, Ordering::Relaxed);
    }

    /// Whether the caller of the call that was let in is not known any more.
    pub(super) fn caller_is_gone(&self) -> bool {
        self.caller.lock().as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Its number: later ones have higher ones.
    pub fn number(&self) -> u64 {
        self.registration.number()
    }

    pub(super) fn whole(&self) -> io::Result<()> {
        if self.is_cut() { Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the daemon")) } else { Ok(()) }
    }

    /// Pending, unless the line is cut: now, or with a wake-up later.
    pub(super) fn park<T>(&self, cx: &Context<'_>) -> Poll<io::Result<T>> {
        self.waker.register(cx.waker());
        // It may have been cut between the first look and the registration.
        match self.whole() {
            Ok(()) => Poll::Pending,
            Err(cut) => Poll::Ready(Err(cut)),
        }
    }

    /// Ends the connection, whatever its peer does: its next read or write fails, and one that waits fails now.
    pub fn cut(&self) {
        self.end(&self.counters.cut);
    }

    /// The same, counted there.
    pub(super) fn end(&self, counter: &AtomicU64) {
        if !self.cut.swap(true, Ordering::Release) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.waker.wake();
    }

    /// Whether it was cut.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// A call begins; returns how many there are now.
    pub fn begin_call(&self) -> usize {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A call has ended, its answer taken or given up.
    pub fn end_call(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes were handed to the connection; `answer`: they are the answer of a unary call.
    pub fn give(&self, bytes: usize, answer: bool, tick: u64) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.taken_at.store(tick, Ordering::Relaxed);
        }
        self.untaken.fetch_add(usize::from(answer), Ordering::Relaxed);
    }

    /// The peer took them, or they were given up. Returns how many of the bytes were still on the account.
    pub fn take(&self, bytes: usize, answer: bool, tick: u64) -> usize {
        self.taken_at.store(tick, Ordering::Relaxed);
        self.untaken.fetch_sub(usize::from(answer), Ordering::Relaxed);
        let left = |held: usize| Some(held.saturating_sub(bytes));
        let before = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        before.unwrap_or_else(|held| held).min(bytes)
    }

    /// Bytes that the peer has not taken.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes the bytes off the account, because the line is being cut; returns how many there were.
    pub fn write_off(&self) -> usize {
        self.bytes.swap(0, Ordering::Relaxed)
    }

    /// Bytes that the peer has left untaken, without taking any, since `tick` or longer.
    pub fn untaken_since(&self, tick: u64) -> usize {
        if self.taken_at.load(Ordering::Relaxed) <= tick { self.bytes() } else { 0 }
    }

    /// Answers of unary calls that the peer has left untaken, without taking anything, since `tick` or longer.
    pub fn answers_since(&self, tick: u64) -> usize {
        if self.taken_at.load(Ordering::Relaxed) <= tick { self.untaken.load(Ordering::Relaxed) } else { 0 }
    }
}

/// All greeted connections that are open.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counters: Arc<Counters>,
    open: Mutex<HashMap<u64, Arc<Line>>>,
}

/// Where it is counted what becomes of connections. See [`Counts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    no_tls: AtomicU64,
    no_http2: AtomicU64,
    too_late: AtomicU64,
    pub(super) displaced: AtomicU64,
    pub(super) unauthenticated: AtomicU64,
    cut: AtomicU64,
}

/// What became of connections, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted.
    pub accepted: u64,
    /// Closed, because no TLS connection came about.
    pub no_tls: u64,
    /// Closed, because their peers spoke no HTTP/2 or went away before.
    pub no_http2: u64,
    /// Closed, because nothing of HTTP/2 came in time.
    pub too_late: u64,
    /// Closed for another one, because no call on them had been let in, or they were beyond the share of whom they belong to.
    pub displaced: u64,
    /// Closed, because no call on them was let in in time.
    pub unauthenticated: u64,
    /// Cut by the daemon later.
    pub cut: u64,
}

/// Why a connection was not greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No TLS connection came about.
    NoTls,
    /// It does not speak HTTP/2.
    NoHttp2,
    /// It said too little in time.
    TooLate,
}

impl Lines {
    /// A connection was accepted.
    pub(super) fn accepted(&self) {
        self.0.counters.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Where it is counted what becomes of them.
    pub(super) fn counters(&self) -> Arc<Counters> {
        self.0.counters.clone()
    }

    /// One was closed before it was greeted.
    pub(super) fn refused(&self, why: Refusal) {
        let counter = match why {
            Refusal::NoTls => &self.0.counters.no_tls,
            Refusal::NoHttp2 => &self.0.counters.no_http2,
            Refusal::TooLate => &self.0.counters.too_late,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What became of connections.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let inner = &self.0.counters;
        Counts {
            accepted: read(&inner.accepted),
            no_tls: read(&inner.no_tls),
            no_http2: read(&inner.no_http2),
            too_late: read(&inner.too_late),
            displaced: read(&inner.displaced),
            unauthenticated: read(&inner.unauthenticated),
            cut: read(&inner.cut),
        }
    }

    /// A connection has sent its preface.
    pub(super) fn add(&self, line: &Arc<Line>) {
        self.0.open.lock().insert(line.number(), line.clone());
    }

    pub(super) fn remove(&self, line: &Line) {
        let mut open = self.0.open.lock();
        open.remove(&line.number());
        // The table of a flood is given back when the flood is over.
        if open.capacity() > 1024 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.open.lock().len()
    }

    /// All that are open and not cut.
    pub fn whole(&self) -> Vec<Arc<Line>> {
        self.0.open.lock().values().filter(|line| !line.is_cut()).cloned().collect()
    }

    /// Ends all that are open, whatever their peers do. Returns how many there were.
    pub fn cut_all(&self) -> usize {
        // Waking a task may drop its connection, which takes the lock.
        let lines: Vec<_> = self.0.open.lock().values().cloned().collect();
        for line in &lines {
            line.cut();
        }
        lines.len()
    }
}
