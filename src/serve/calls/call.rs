//! [`CallPermit`]: one call's permit and its counted bytes.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

use futures::task::AtomicWaker;

use super::{CallLimits, Ledger};
use crate::listen::ConnectionState;

/// Why a call is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its request did not arrive within `request_timeout`.
    Late,
    /// Other calls need its room.
    NoRoom,
}

/// One call, from its headers until its answer has been read. Its slot is free when the permit is dropped or the call
/// aborted.
pub(in crate::serve) struct Call {
    ledger: Arc<Ledger>,
    connection: Option<Arc<ConnectionState>>,
    /// Whether it still counts towards `max_calls`.
    has_place: AtomicBool,
    bytes: AtomicUsize,
    verdict: OnceLock<Verdict>,
    /// Wakes the task that waits for the request.
    waker: AtomicWaker,
}

impl Call {
    /// A call that has just been counted.
    pub(super) fn of(ledger: Arc<Ledger>, connection: Option<Arc<ConnectionState>>) -> Arc<Self> {
        let (bytes, verdict, waker) = (AtomicUsize::new(0), OnceLock::new(), AtomicWaker::new());
        Arc::new(Call { ledger, connection, has_place: AtomicBool::new(true), bytes, verdict, waker })
    }

    /// Adds to the call's bytes. Returns their new sum.
    pub(super) fn add(&self, bytes: usize) -> usize {
        self.bytes.fetch_add(bytes, Relaxed) + bytes
    }

    /// Counts bytes of the request.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Result<(), Verdict> {
        self.ledger.charge(self, bytes)
    }

    /// Forgets the counted bytes: a stream's message was handed to its handler.
    pub(super) fn discharge(&self) {
        self.ledger.bytes.fetch_sub(self.bytes.swap(0, Relaxed), Relaxed);
    }

    /// The request waits for its client, until the result is dropped.
    pub(super) fn arriving(self: &Arc<Self>) -> Wait {
        let tick = self.ledger.ticks.load(Relaxed);
        let mut arriving = self.ledger.arriving.lock();
        let number = arriving.next;
        arriving.next += 1;
        arriving.calls.insert(number, (tick, self.clone()));
        Wait { ledger: self.ledger.clone(), number }
    }

    /// Why the call was aborted; if it was not, `waker` is woken when it is.
    pub(super) fn verdict(&self, waker: &Waker) -> Option<Verdict> {
        self.waker.register(waker);
        self.verdict.get().copied()
    }

    pub(super) fn limits(&self) -> &CallLimits {
        &self.ledger.limits
    }

    /// Aborts the call while its request arrives. Its slot and bytes are free at once: its task may have to wait behind the
    /// flood that caused the abort, and until then other calls would be refused for lack of room.
    pub(super) fn give_up(&self, verdict: Verdict) {
        // The first reason stands.
        let _ = self.verdict.set(verdict);
        self.discharge();
        self.leave();
        self.waker.wake();
    }

    /// Frees the call's slot, once.
    fn leave(&self) {
        if self.has_place.swap(false, Relaxed) {
            self.ledger.calls.fetch_sub(1, Relaxed);
        }
    }

    /// Counts bytes of an answer that are handed to the connection, until the result is dropped.
    pub(super) fn give(self: &Arc<Self>, bytes: usize, answer: bool) -> Given {
        let tick = self.ledger.ticks.load(Relaxed);
        if let Some(connection) = &self.connection {
            connection.add_unread(bytes, answer, tick);
            self.ledger.bytes.fetch_add(bytes, Relaxed);
            // The connection that is cut for room may be this one.
            self.ledger.make_room_for_answers();
        }
        Given { call: self.clone(), bytes, answer }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.discharge();
        self.leave();
        if let Some(connection) = &self.connection {
            connection.end_call();
        }
    }
}

/// A request that is arriving, until this is dropped.
pub(super) struct Wait {
    ledger: Arc<Ledger>,
    number: u64,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let gone = self.ledger.arriving.lock().calls.remove(&self.number);
        // After the lock is released: this may be the last reference to the call, and dropping that takes locks.
        drop(gone);
    }
}

/// A part of an answer that the peer has not read.
pub(super) struct Given {
    call: Arc<Call>,
    bytes: usize,
    answer: bool,
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(connection) = &self.call.connection {
            let held = connection.remove_unread(self.bytes, self.answer, self.call.ledger.ticks.load(Relaxed));
            self.call.ledger.bytes.fetch_sub(held, Relaxed);
        }
    }
}
