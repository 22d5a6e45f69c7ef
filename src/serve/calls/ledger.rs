//! [`CallLimiter`]: counts all calls and the bytes of their messages, and decides which call or connection ends at a limit.
//! [`CallPermit`] is one call's part of the counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tracing::{debug, warn};

use super::{
    CallLimits,
    call::{Call, Verdict},
};
use crate::{
    domain::time::Span,
    grpc::status::Problem,
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

/// The counts of all calls.
pub(in crate::serve) struct Ledger {
    pub(super) limits: CallLimits,
    connections: Connections,
    pub(super) calls: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    pub(super) ticks: AtomicU64,
    /// Calls whose requests are arriving, oldest first.
    pub(super) arriving: Mutex<Arriving>,
    /// Whether the present shortage has been logged.
    told: AtomicBool,
}

/// Calls whose requests are arriving, by number, each with the tick at which it began.
#[derive(Default)]
pub(super) struct Arriving {
    pub(super) next: u64,
    pub(super) calls: BTreeMap<u64, (u64, Arc<Call>)>,
}

impl Ledger {
    pub(in crate::serve) fn new(limits: CallLimits, connections: Connections) -> Arc<Self> {
        Arc::new(Ledger {
            limits,
            connections,
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            ticks: AtomicU64::new(0),
            arriving: Mutex::default(),
            told: AtomicBool::new(false),
        })
    }

    /// A call begins on a connection. None: there is no slot for it, and no call or connection that may be ended for it.
    pub(in crate::serve) fn begin(self: &Arc<Self>, connection: Option<&Arc<ConnectionState>>) -> Option<Arc<Call>> {
        let mine = connection.map_or(0, |connection| connection.begin_call());
        let all = self.calls.fetch_add(1, Relaxed) + 1;
        let call = Call::of(self.clone(), connection.cloned());
        let max = self.limits.max_calls;
        let greedy = all > max / 4 * 3 && mine > FAIR_CALLS;
        if (all > max || greedy) && !self.give_one_up(None) && !self.cut_stalled() {
            self.tell("calls", max);
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
    ) -> Result<Arc<Call>, Problem> {
        let call = self.begin(connection).ok_or_else(no_place)?;
        call.charge(bytes).map_err(|_| no_room())?;
        Ok(call)
    }

    /// Counts bytes of a call's request. An error if there is no room for them.
    pub(super) fn charge(self: &Arc<Self>, call: &Arc<Call>, bytes: usize) -> Result<(), Verdict> {
        let mine = call.add(bytes);
        let all = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        if mine <= SMALL_BYTES || all <= self.limits.max_call_bytes {
            return Ok(());
        }
        while self.bytes.load(Relaxed) > self.limits.max_call_bytes {
            if !self.give_one_up(Some(call)) && !self.cut_stalled() {
                self.tell("bytes of their messages", self.limits.max_call_bytes);
                call.discharge();
                return Err(Verdict::NoRoom);
            }
        }
        Ok(())
    }

    /// Makes room after an answer was handed to the connection. An answer can't be refused any more, so unlike for a
    /// request the connection with the largest part is cut even if it has not stalled.
    pub(super) fn make_room_for_answers(&self) {
        while self.bytes.load(Relaxed) > self.limits.max_call_bytes {
            if !self.give_one_up(None) && !self.cut_stalled() && !self.cut_greedy() {
                return;
            }
        }
    }

    /// Aborts the oldest call whose request is arriving, except `but`. False: there is none.
    fn give_one_up(&self, but: Option<&Arc<Call>>) -> bool {
        let now = self.ticks.load(Relaxed);
        let mut arriving = self.arriving.lock();
        let others = |call: &Arc<Call>| but.is_none_or(|but| !Arc::ptr_eq(call, but));
        let oldest = arriving.calls.iter().find(|(_, (_, call))| others(call));
        let Some(number) = oldest.filter(|(_, (since, _))| since + 1 < now).map(|(number, _)| *number) else {
            return false;
        };
        let gone = arriving.calls.remove(&number);
        // Waking a task may end it, and that takes the lock.
        drop(arriving);
        if let Some((_, call)) = gone {
            call.give_up(Verdict::NoRoom);
        }
        true
    }

    /// Cuts the stalled connection with the most unread bytes. False: none is stalled.
    fn cut_stalled(&self) -> bool {
        let Some(moment) = self.ticks.load(Relaxed).checked_sub(STALLED_TICKS) else { return false };
        let connections = self.connections.live();
        let stalled = connections.iter().filter(|connection| connection.unread_bytes_since(moment) > 0);
        let Some(worst) = stalled.max_by_key(|connection| connection.unread_bytes()) else { return false };
        self.cut(worst, "it has stalled, and what it leaves unread takes the room of others");
        true
    }

    /// Cuts the connection with the most unread bytes, if that is more than its share.
    fn cut_greedy(&self) -> bool {
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

    fn tell(&self, what: &'static str, max: usize) {
        if !self.told.swap(true, Relaxed) {
            warn!(max, "too many {what}; further calls are refused until some end (max_calls, max_call_bytes)");
        }
    }

    /// Aborts requests and cuts connections whose timeouts are over. Never returns.
    pub(in crate::serve) async fn watch_time(self: Arc<Self>) {
        let request = in_ticks(self.limits.request_timeout);
        let answer = in_ticks(self.limits.answer_timeout);
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.ticks.fetch_add(1, Relaxed) + 1;
            // One more tick, so that a request that began within a tick gets its full time.
            for call in self.arriving_since(now.saturating_sub(request + 1)) {
                call.give_up(Verdict::Late);
            }
            if now > answer {
                for connection in self
                    .connections
                    .live()
                    .iter()
                    .filter(|connection| connection.unread_answers_since(now - answer - 1) > 0)
                {
                    self.cut(connection, "it takes no answers (answer_timeout)");
                }
            }
            if self.calls.load(Relaxed) < self.limits.max_calls / 4 * 3
                && self.bytes.load(Relaxed) < self.limits.max_call_bytes / 4 * 3
            {
                self.told.store(false, Relaxed);
            }
        }
    }

    /// Takes out the calls whose requests have been arriving since `tick` or longer.
    fn arriving_since(&self, tick: u64) -> Vec<Arc<Call>> {
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

/// The error at `max_calls`.
pub(in crate::serve) fn no_place() -> Problem {
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
    fn who_was_given_up_takes_no_place() {
        let (request_timeout, answer_timeout) = (Duration::from_secs(2), Duration::from_secs(2));
        let limits =
            CallLimits { request_timeout, answer_timeout, max_message_bytes: 1, max_calls: 40, max_call_bytes: 1 };
        let ledger = Ledger::new(limits, Connections::default());
        let flood: Vec<_> = (0..40).map(|_| ledger.begin(None).unwrap()).collect();
        let arriving: Vec<_> = flood[..30].iter().map(Call::arriving).collect();
        ledger.ticks.store(5, Relaxed);
        let mut newer: Vec<_> = (0..30).map(|_| ledger.begin(None).expect("an older one goes for it")).collect();
        assert!(ledger.begin(None).is_none(), "nobody is left who could go");
        newer.truncate(25);
        let honest: Vec<_> = (0..6).map_while(|_| ledger.begin(None)).collect();
        assert_eq!(honest.len(), 5, "places of those that ended");
        drop((arriving, flood, newer, honest));
        assert_eq!(ledger.calls.load(Relaxed), 0);
    }
}
