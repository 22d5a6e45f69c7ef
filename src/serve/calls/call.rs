//! [`Call`]: one call's account.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

use futures::task::AtomicWaker;

use super::{CallLimits, Ledger};
use crate::listen::Line;

/// Why a call is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its request did not arrive in time.
    Late,
    /// Its room is needed by others.
    NoRoom,
}

/// One call, from its headers until its answer is taken. Its place is free when it is dropped, or given up.
pub(in crate::serve) struct Call {
    ledger: Arc<Ledger>,
    line: Option<Arc<Line>>,
    /// Whether it is counted among all calls.
    has_place: AtomicBool,
    bytes: AtomicUsize,
    verdict: OnceLock<Verdict>,
    /// The task that waits for the request.
    waker: AtomicWaker,
}

impl Call {
    /// A call that has begun, and has its place.
    pub(super) fn of(ledger: Arc<Ledger>, line: Option<Arc<Line>>) -> Arc<Self> {
        let (bytes, verdict, waker) = (AtomicUsize::new(0), OnceLock::new(), AtomicWaker::new());
        Arc::new(Call { ledger, line, has_place: AtomicBool::new(true), bytes, verdict, waker })
    }

    /// Adds to what it holds; returns how much that is.
    pub(super) fn add(&self, bytes: usize) -> usize {
        self.bytes.fetch_add(bytes, Relaxed) + bytes
    }

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
    pub(super) fn verdict(&self, waker: &Waker) -> Option<Verdict> {
        self.waker.register(waker);
        self.verdict.get().copied()
    }

    /// What it goes by.
    pub(super) fn limits(&self) -> &CallLimits {
        &self.ledger.limits
    }

    /// Tells whoever waits for the request that it has to end. What it held is free at once: its task may have to wait for its turn
    /// behind the very flood that drove it out, and meanwhile others would be refused for want of its place.
    pub(super) fn give_up(&self, verdict: Verdict) {
        // The first verdict stands.
        let _ = self.verdict.set(verdict);
        self.discharge();
        self.leave();
        self.waker.wake();
    }

    /// Gives its place back, if it has it.
    fn leave(&self) {
        if self.has_place.swap(false, Relaxed) {
            self.ledger.calls.fetch_sub(1, Relaxed);
        }
    }

    /// Bytes of an answer are handed to the connection; on the account until what this returns is dropped.
    pub(super) fn give(self: &Arc<Self>, bytes: usize, answer: bool) -> Given {
        let tick = self.ledger.ticks.load(Relaxed);
        if let Some(line) = &self.line {
            line.give(bytes, answer, tick);
            self.ledger.bytes.fetch_add(bytes, Relaxed);
            // The connection that is cut for it may be this one.
            self.ledger.make_room_for_answers();
        }
        Given { call: self.clone(), bytes, answer }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.discharge();
        self.leave();
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
