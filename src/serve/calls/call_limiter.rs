//! [`CallLimiter`]: counts all calls and the bytes of their messages, and decides which call or connection ends at a limit.
//! [`CallPermit`] is one call's part of the counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tracing::{debug, warn};

use crate::{
    domain::time::Span,
    grpc::problem::Problem,
    listen::{ConnectionState, Connections},
};

/// Calls that one connection may always have. Once three quarters of `max_calls` are taken, a connection with more gets
/// none of the last quarter. A worker has a few calls open, a flood as many as it can.
const FAIR_CALLS: usize = 64;
/// When clients should retry after a refusal.
const RETRY: Span = Span::from_secs(1);
/// The part of `max_call_bytes` that one connection's unread answers may take: 16 MiB of 256, five of the largest answers.
const SHARE: usize = 16;
/// Bytes of a call that are counted and never refused: heartbeats have to get through at any load.
const SMALL_BYTES: usize = 4 << 10;
/// The resolution of the timeouts. A younger request is never aborted for room: a well-behaved client's has arrived by
/// then.
const TICK: Duration = Duration::from_millis(100);
/// After this many ticks without reading anything a peer counts as stalled, and may be cut when there is no room.
const STALLED_TICKS: u64 = 10;

/// The limits, from the configuration.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct CallLimits {
    /// How long a message may take to arrive, from the begin of its call or of the message.
    pub(in crate::serve) request_timeout: Duration,
    /// How long a client may read nothing while answers wait for it.
    pub(in crate::serve) answer_timeout: Duration,
    /// Largest message, in bytes.
    pub(in crate::serve) max_message_bytes: usize,
    /// Most calls and streams at a time, counted until their answers have been read.
    pub(in crate::serve) max_calls: usize,
    /// Most bytes of messages that are arriving, being handled or unread.
    pub(in crate::serve) max_call_bytes: usize,
}

/// The counts of all calls.
pub(in crate::serve) struct CallLimiter {
    limits: CallLimits,
    connections: Connections,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    ticks: AtomicU64,
    /// Calls whose requests are arriving, oldest first.
    arriving: Mutex<Arriving>,
    /// Whether the present shortage has been logged.
    shortage_logged: AtomicBool,
}

/// Calls whose requests are arriving, by number, each with the tick at which it began.
#[derive(Default)]
struct Arriving {
    next: u64,
    calls: BTreeMap<u64, (u64, Arc<CallPermit>)>,
}

impl CallLimiter {
    pub(in crate::serve) fn new(limits: CallLimits, connections: Connections) -> Arc<Self> {
        Arc::new(CallLimiter {
            limits,
            connections,
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            ticks: AtomicU64::new(0),
            arriving: Mutex::default(),
            shortage_logged: AtomicBool::new(false),
        })
    }

    /// A call begins on a connection. None: there is no slot for it, and no call or connection that may be ended for it.
    pub(in crate::serve) fn begin(
        self: &Arc<Self>,
        connection: Option<&Arc<ConnectionState>>,
    ) -> Option<Arc<CallPermit>> {
        let own = connection.map_or(0, |connection| connection.begin_call());
        let all = self.calls.fetch_add(1, Relaxed) + 1;
        let call = CallPermit::new(self.clone(), connection.cloned());
        let max = self.limits.max_calls;
        let over_fair_share = all > max / 4 * 3 && own > FAIR_CALLS;
        if (all > max || over_fair_share) && !self.abort_oldest(None) && !self.cut_stalled() {
            self.log_shortage("calls", max);
            return None;
        }
        Some(call)
    }

    /// A call begins as an item of a stream; its request of this many bytes has arrived. It is counted until the result is
    /// dropped.
    ///
    /// # Errors
    /// There is no slot or no room for it.
    pub(in crate::serve) fn begin_item(
        self: &Arc<Self>,
        connection: Option<&Arc<ConnectionState>>,
        bytes: usize,
    ) -> Result<Arc<CallPermit>, Problem> {
        let call = self.begin(connection).ok_or_else(no_slot)?;
        call.charge(bytes).map_err(|_| no_room())?;
        Ok(call)
    }

    /// Counts bytes of a call's request. An error if there is no room for them.
    fn charge(self: &Arc<Self>, call: &Arc<CallPermit>, bytes: usize) -> Result<(), AbortReason> {
        let own = call.add(bytes);
        let all = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        if own <= SMALL_BYTES || all <= self.limits.max_call_bytes {
            return Ok(());
        }
        while self.bytes.load(Relaxed) > self.limits.max_call_bytes {
            if !self.abort_oldest(Some(call)) && !self.cut_stalled() {
                self.log_shortage("bytes of messages", self.limits.max_call_bytes);
                call.release_bytes();
                return Err(AbortReason::NoRoom);
            }
        }
        Ok(())
    }

    /// Makes room after an answer was handed to the connection. An answer can't be refused any more, so unlike for a
    /// request the connection with the largest part is cut even if it has not stalled.
    fn make_room_for_answers(&self) {
        while self.bytes.load(Relaxed) > self.limits.max_call_bytes {
            if !self.abort_oldest(None) && !self.cut_stalled() && !self.cut_largest() {
                return;
            }
        }
    }

    /// Aborts the oldest call whose request is arriving, except `but`. False: there is none.
    fn abort_oldest(&self, but: Option<&Arc<CallPermit>>) -> bool {
        let now = self.ticks.load(Relaxed);
        let mut arriving = self.arriving.lock();
        let others = |call: &Arc<CallPermit>| but.is_none_or(|but| !Arc::ptr_eq(call, but));
        let oldest = arriving.calls.iter().find(|(_, (_, call))| others(call));
        let Some(number) = oldest.filter(|(_, (since, _))| since + 1 < now).map(|(number, _)| *number) else {
            return false;
        };
        let gone = arriving.calls.remove(&number);
        // Waking a task may end it, and that takes the lock.
        drop(arriving);
        if let Some((_, call)) = gone {
            call.abort(AbortReason::NoRoom);
        }
        true
    }

    /// Cuts the stalled connection with the most unread bytes. False: none is stalled.
    fn cut_stalled(&self) -> bool {
        let Some(since) = self.ticks.load(Relaxed).checked_sub(STALLED_TICKS) else { return false };
        let connections = self.connections.live();
        let stalled = connections.iter().filter(|connection| connection.unread_bytes_since(since) > 0);
        let Some(worst) = stalled.max_by_key(|connection| connection.unread_bytes()) else { return false };
        self.cut(worst, "it has stalled, and what it leaves unread takes the room of others");
        true
    }

    /// Cuts the connection with the most unread bytes, if that is more than its share.
    fn cut_largest(&self) -> bool {
        let connections = self.connections.live();
        let worst = connections.iter().max_by_key(|connection| connection.unread_bytes());
        let Some(worst) = worst.filter(|connection| connection.unread_bytes() > self.limits.max_call_bytes / SHARE)
        else {
            return false;
        };
        self.cut(worst, "what it leaves unread takes the room of others");
        true
    }

    fn cut(&self, connection: &ConnectionState, why: &'static str) {
        debug!(peer = %connection.peer(), bytes = connection.unread_bytes(), why, "cut a connection");
        connection.cut();
        self.bytes.fetch_sub(connection.take_unread(), Relaxed);
    }

    fn log_shortage(&self, what: &'static str, max: usize) {
        if !self.shortage_logged.swap(true, Relaxed) {
            warn!(max, "too many {what}; further calls are refused until some end (max_calls, max_call_bytes)");
        }
    }

    /// Aborts requests and cuts connections whose timeouts are over. Never returns.
    pub(in crate::serve) async fn enforce_timeouts(self: Arc<Self>) {
        let request = in_ticks(self.limits.request_timeout);
        let answer = in_ticks(self.limits.answer_timeout);
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.ticks.fetch_add(1, Relaxed) + 1;
            // One more tick, so that a request that began within a tick gets its full time.
            for call in self.arriving_since(now.saturating_sub(request + 1)) {
                call.abort(AbortReason::TimedOut);
            }
            if now > answer {
                for connection in self
                    .connections
                    .live()
                    .iter()
                    .filter(|connection| connection.unread_answers_since(now - answer - 1) > 0)
                {
                    self.cut(connection, "it reads no answers (answer_timeout)");
                }
            }
            if self.calls.load(Relaxed) < self.limits.max_calls / 4 * 3
                && self.bytes.load(Relaxed) < self.limits.max_call_bytes / 4 * 3
            {
                self.shortage_logged.store(false, Relaxed);
            }
        }
    }

    /// Takes out the calls whose requests have been arriving since `tick` or longer.
    fn arriving_since(&self, tick: u64) -> Vec<Arc<CallPermit>> {
        let mut arriving = self.arriving.lock();
        let mut late = Vec::new();
        while let Some(first) = arriving.calls.first_entry() {
            if first.get().0 > tick || tick == 0 {
                break;
            }
            late.push(first.remove().1);
        }
        late
    }
}

/// Why a call is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AbortReason {
    /// Its request did not arrive within `request_timeout`.
    TimedOut,
    /// Other calls need its room.
    NoRoom,
}

/// One call, from its headers until its answer has been read. Its slot is free when the permit is dropped or the call
/// aborted.
pub(in crate::serve) struct CallPermit {
    limiter: Arc<CallLimiter>,
    connection: Option<Arc<ConnectionState>>,
    /// Whether it still counts towards `max_calls`.
    holds_slot: AtomicBool,
    bytes: AtomicUsize,
    abort_reason: OnceLock<AbortReason>,
    /// Wakes the task that waits for the request.
    waker: AtomicWaker,
}

impl CallPermit {
    /// A call that has just been counted.
    fn new(limiter: Arc<CallLimiter>, connection: Option<Arc<ConnectionState>>) -> Arc<Self> {
        let (bytes, abort_reason, waker) = (AtomicUsize::new(0), OnceLock::new(), AtomicWaker::new());
        Arc::new(CallPermit { limiter, connection, holds_slot: AtomicBool::new(true), bytes, abort_reason, waker })
    }

    /// Adds to the call's bytes. Returns their new sum.
    fn add(&self, bytes: usize) -> usize {
        self.bytes.fetch_add(bytes, Relaxed) + bytes
    }

    /// Counts bytes of the request.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Result<(), AbortReason> {
        self.limiter.charge(self, bytes)
    }

    /// Forgets the counted bytes: a stream's message was handed to its handler.
    pub(super) fn release_bytes(&self) {
        self.limiter.bytes.fetch_sub(self.bytes.swap(0, Relaxed), Relaxed);
    }

    /// The request waits for its client, until the result is dropped.
    pub(super) fn begin_arriving(self: &Arc<Self>) -> ArrivingRequest {
        let tick = self.limiter.ticks.load(Relaxed);
        let mut arriving = self.limiter.arriving.lock();
        let number = arriving.next;
        arriving.next += 1;
        arriving.calls.insert(number, (tick, self.clone()));
        ArrivingRequest { limiter: self.limiter.clone(), number }
    }

    /// Why the call was aborted; if it was not, `waker` is woken when it is.
    pub(super) fn poll_aborted(&self, waker: &Waker) -> Option<AbortReason> {
        self.waker.register(waker);
        self.abort_reason.get().copied()
    }

    pub(super) fn limits(&self) -> &CallLimits {
        &self.limiter.limits
    }

    /// Aborts the call while its request arrives. Its slot and bytes are free at once: its task may have to wait behind the
    /// flood that caused the abort, and until then other calls would be refused for lack of room.
    fn abort(&self, abort_reason: AbortReason) {
        // The first reason stands.
        let _ = self.abort_reason.set(abort_reason);
        self.release_bytes();
        self.release_slot();
        self.waker.wake();
    }

    /// Frees the call's slot, once.
    fn release_slot(&self) {
        if self.holds_slot.swap(false, Relaxed) {
            self.limiter.calls.fetch_sub(1, Relaxed);
        }
    }

    /// Counts bytes of an answer that are handed to the connection, until the result is dropped.
    pub(super) fn hand_out(self: &Arc<Self>, bytes: usize, answer: bool) -> UnreadAnswer {
        let tick = self.limiter.ticks.load(Relaxed);
        if let Some(connection) = &self.connection {
            connection.add_unread(bytes, answer, tick);
            self.limiter.bytes.fetch_add(bytes, Relaxed);
            // The connection that is cut for room may be this one.
            self.limiter.make_room_for_answers();
        }
        UnreadAnswer { call: self.clone(), bytes, answer }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.release_bytes();
        self.release_slot();
        if let Some(connection) = &self.connection {
            connection.end_call();
        }
    }
}

/// A request that is arriving, until this is dropped.
pub(super) struct ArrivingRequest {
    limiter: Arc<CallLimiter>,
    number: u64,
}

impl Drop for ArrivingRequest {
    fn drop(&mut self) {
        let gone = self.limiter.arriving.lock().calls.remove(&self.number);
        // After the lock is released: this may be the last reference to the call, and dropping that takes locks.
        drop(gone);
    }
}

/// A part of an answer that the peer has not read.
pub(super) struct UnreadAnswer {
    call: Arc<CallPermit>,
    bytes: usize,
    answer: bool,
}

impl Drop for UnreadAnswer {
    fn drop(&mut self) {
        if let Some(connection) = &self.call.connection {
            let held = connection.remove_unread(self.bytes, self.answer, self.call.limiter.ticks.load(Relaxed));
            self.call.limiter.bytes.fetch_sub(held, Relaxed);
        }
    }
}

/// The error at `max_calls`.
pub(in crate::serve) fn no_slot() -> Problem {
    Problem::overloaded("too many calls are open; nothing was changed: try again (max_calls)", RETRY)
}

/// The error at `max_call_bytes`.
pub(super) fn no_room() -> Problem {
    let text =
        "too many requests are being received; this one was not carried out: try again (max_calls, max_call_bytes)";
    Problem::overloaded(text, RETRY)
}

fn in_ticks(length: Duration) -> u64 {
    length.as_micros().div_ceil(TICK.as_micros()).try_into().unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aborted calls free their slots at once, before their tasks run.
    #[test]
    fn an_aborted_call_occupies_no_slot() {
        let (request_timeout, answer_timeout) = (Duration::from_secs(2), Duration::from_secs(2));
        let limits =
            CallLimits { request_timeout, answer_timeout, max_message_bytes: 1, max_calls: 40, max_call_bytes: 1 };
        let limiter = CallLimiter::new(limits, Connections::default());
        let flood: Vec<_> = (0..40).map(|_| limiter.begin(None).unwrap()).collect();
        let arriving: Vec<_> = flood[..30].iter().map(CallPermit::begin_arriving).collect();
        limiter.ticks.store(5, Relaxed);
        let mut newer: Vec<_> = (0..30).map(|_| limiter.begin(None).expect("an older one goes for it")).collect();
        assert!(limiter.begin(None).is_none(), "nobody is left who could go");
        newer.truncate(25);
        let honest: Vec<_> = (0..6).map_while(|_| limiter.begin(None)).collect();
        assert_eq!(honest.len(), 5, "places of those that ended");
        drop((arriving, flood, newer, honest));
        assert_eq!(limiter.calls.load(Relaxed), 0);
    }
}
