//! [`Ledger`]: the accounts of all calls, and who has to go when they are full.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::CallLimits;
use crate::listen::{Line, Lines};

/// Calls on one connection that are its fair share: once three quarters of all places are taken, those who have more get
/// none of the last quarter. A worker has a few; a flood has as many as it can.
const FAIR_CALLS: usize = 64;
/// Bytes of a call that are counted and never refused: heartbeats have to get through whatever else is going on.
const SMALL_BYTES: usize = 4 << 10;
/// How often time is looked at. A request younger than that is nobody's victim: what is honest has arrived by then.
const TICK: Duration = Duration::from_millis(100);
/// After so many ticks without taking anything a peer is stalled, and may be cut when there is no room.
const STALLED_TICKS: u64 = 10;

/// Why a call is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its request did not arrive in time.
    Late,
    /// Its room is needed by others.
    NoRoom,
}

/// The accounts of all calls.
pub(in crate::serve) struct Ledger {
    limits: CallLimits,
    lines: Lines,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    ticks: AtomicU64,
    /// Calls whose requests have begun to arrive, the oldest first.
    arriving: Mutex<Arriving>,
    /// Whether the present shortage was told.
    told: AtomicBool,
}

#[derive(Default)]
struct Arriving {
    next: u64,
    calls: BTreeMap<u64, (u64, Arc<Call>)>,
}

impl Ledger {
    pub(in crate::serve) fn new(limits: CallLimits, lines: Lines) -> Arc<Self> {
        Arc::new(Ledger {
            limits,
            lines,
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            ticks: AtomicU64::new(0),
            arriving: Mutex::default(),
            told: AtomicBool::new(false),
        })
    }

    /// A call begins on a line. None: there is no place, and nobody who has to give his up.
    pub(super) fn begin(self: &Arc<Self>, line: Option<&Arc<Line>>) -> Option<Arc<Call>> {
        let mine = line.map_or(0, |line| line.begin_call());
        let all = self.calls.fetch_add(1, Relaxed) + 1;
        let call = Arc::new(Call {
            ledger: self.clone(),
            line: line.cloned(),
            bytes: AtomicUsize::new(0),
            verdict: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        let max = self.limits.max_calls;
        let greedy = all > max / 4 * 3 && mine > FAIR_CALLS;
        if (all > max || greedy) && !self.give_one_up(None) && !self.cut_one(false) {
            self.tell("calls", max);
            return None;
        }
        Some(call)
    }

    /// Takes bytes onto a call's account. The verdict, if there is no room.
    fn charge(self: &Arc<Self>, call: &Arc<Call>, bytes: usize) -> Result<(), Verdict> {
        let mine = call.bytes.fetch_add(bytes, Relaxed) + bytes;
        let all = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        if mine > SMALL_BYTES && all > self.limits.max_call_bytes { self.make_room(Some(call)) } else { Ok(()) }
    }

    fn make_room(&self, but: Option<&Arc<Call>>) -> Result<(), Verdict> {
        while self.bytes.load(Relaxed) > self.limits.max_call_bytes {
            if !self.give_one_up(but) && !self.cut_one(true) {
                self.tell("bytes of their messages", self.limits.max_call_bytes);
                return Err(Verdict::NoRoom);
            }
        }
        Ok(())
    }

    /// Gives up the oldest call whose request is arriving, though not the one that needs the room; false: there is none.
    fn give_one_up(&self, but: Option<&Arc<Call>>) -> bool {
        let now = self.ticks.load(Relaxed);
        let mut arriving = self.arriving.lock();
        let others = |call: &Arc<Call>| but.is_none_or(|but| !Arc::ptr_eq(call, but));
        let oldest = arriving.calls.iter().find(|(_, (_, call))| others(call));
        let Some(number) = oldest.filter(|(_, (since, _))| since + 1 < now).map(|(number, _)| *number) else {
            return false;
        };
        let gone = arriving.calls.remove(&number);
        // Waking a task may end it, which takes the lock.
        drop(arriving);
        if let Some((_, call)) = gone {
            call.give_up(Verdict::NoRoom);
        }
        true
    }

    /// Cuts the connection that leaves the most unread, of those that have stalled; if need be, of all. False: there is
    /// none.
    fn cut_one(&self, if_need_be: bool) -> bool {
        let moment = self.ticks.load(Relaxed).saturating_sub(STALLED_TICKS);
        let lines = self.lines.whole();
        let stalled =
            lines.iter().filter(|line| line.untaken_since(moment) > 0).max_by_key(|line| line.untaken_since(moment));
        let most = || lines.iter().filter(|line| line.bytes() > 0).max_by_key(|line| line.bytes());
        let Some(worst) = stalled.or_else(|| most().filter(|_| if_need_be)) else { return false };
        self.cut(worst, "what it leaves unread takes the room of others");
        true
    }

    fn cut(&self, line: &Line, why: &'static str) {
        debug!(peer = %line.peer(), bytes = line.bytes(), why, "cut a connection");
        line.cut();
        self.bytes.fetch_sub(line.write_off(), Relaxed);
    }

    fn tell(&self, what: &'static str, max: usize) {
        if !self.told.swap(true, Relaxed) {
            warn!(max, "too many {what}; further calls are refused until some end (max_calls, max_call_bytes)");
        }
    }

    /// Gives up what is late, for ever.
    pub(in crate::serve) async fn watch_time(self: Arc<Self>) {
        let request = in_ticks(self.limits.request_timeout);
        let answer = in_ticks(self.limits.answer_timeout);
        loop {
            tokio::time::sleep(TICK).await;
            let now = self.ticks.fetch_add(1, Relaxed) + 1;
            // What began in the middle of a tick gets the whole of its time.
            for call in self.arriving_since(now.saturating_sub(request + 1)) {
                call.give_up(Verdict::Late);
            }
            if now > answer {
                for line in self.lines.whole().iter().filter(|line| line.answers_since(now - answer - 1) > 0) {
                    self.cut(line, "it takes no answers (answer_timeout)");
                }
            }
            if self.calls.load(Relaxed) < self.limits.max_calls / 4 * 3
                && self.bytes.load(Relaxed) < self.limits.max_call_bytes / 4 * 3
            {
                self.told.store(false, Relaxed);
            }
        }
    }

    /// Takes out those that have been arriving since a tick, or longer.
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

fn in_ticks(length: Duration) -> u64 {
    length.as_micros().div_ceil(TICK.as_micros()).try_into().unwrap_or(u64::MAX / 2)
}

/// One call, from its headers until its answer is taken. Its place is free when it is dropped.
pub(super) struct Call {
    ledger: Arc<Ledger>,
    line: Option<Arc<Line>>,
    bytes: AtomicUsize,
    verdict: OnceLock<Verdict>,
    /// The task that waits for the request.
    waker: AtomicWaker,
}

impl Call {
    /// Takes bytes of the request onto the account.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Result<(), Verdict> {
        self.ledger.charge(self, bytes)
    }

    /// A message of a stream has been handed on.
    pub(super) fn discharge(&self) {
        self.ledger.bytes.fetch_sub(self.bytes.swap(0, Relaxed), Relaxed);
    }

    /// The request has begun and waits for its client, until what this returns is dropped.
    pub(super) fn arriving(self: &Arc<Self>) -> Wait {
        let tick = self.ledger.ticks.load(Relaxed);
        let mut arriving = self.ledger.arriving.lock();
        let number = arriving.next;
        arriving.next += 1;
        arriving.calls.insert(number, (tick, self.clone()));
        Wait { ledger: self.ledger.clone(), number }
    }

    /// Whether it was given up; if not, `waker` is woken when it is.
    pub(super) fn verdict(&self, waker: &std::task::Waker) -> Option<Verdict> {
        self.waker.register(waker);
        self.verdict.get().copied()
    }

    /// How long a request may take.
    pub(super) fn request_timeout(&self) -> Duration {
        self.ledger.limits.request_timeout
    }

    fn give_up(&self, verdict: Verdict) {
        // The first verdict stands.
        let _ = self.verdict.set(verdict);
        self.discharge();
        self.waker.wake();
    }

    /// Bytes of an answer are handed to the connection; on the account until what this returns is dropped.
    pub(super) fn give(self: &Arc<Self>, bytes: usize, answer: bool) -> Given {
        let tick = self.ledger.ticks.load(Relaxed);
        if let Some(line) = &self.line {
            line.give(bytes, answer, tick);
            self.ledger.bytes.fetch_add(bytes, Relaxed);
            if self.ledger.bytes.load(Relaxed) > self.ledger.limits.max_call_bytes {
                // The connection that is cut for it may be this one.
                let _ = self.ledger.make_room(None);
            }
        }
        Given { call: self.clone(), bytes, answer }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.discharge();
        self.ledger.calls.fetch_sub(1, Relaxed);
        if let Some(line) = &self.line {
            line.end_call();
        }
    }
}

/// A request that is arriving.
pub(super) struct Wait {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let gone = self.ledger.arriving.lock().calls.remove(&self.number);
        // Behind the lock: it may be the last that holds the call.
        drop(gone);
    }
}

/// A part of an answer that the peer has not taken.
pub(super) struct Given {
    call: Arc<Call>,
    bytes: usize,
    answer: bool,
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(line) = &self.call.line {
            let held = line.take(self.bytes, self.answer, self.call.ledger.ticks.load(Relaxed));
            self.call.ledger.bytes.fetch_sub(held, Relaxed);
        }
    }
}
