//! A change on its way to the writer, and whoever waits for its outcome.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    coordinator::{Call, Caller, Outcome, Share},
    domain::{principal::Behalf, time::Timestamp},
};

use super::{
    CallOrigin, Credentials,
    handle::Shared,
    post::Reply,
    vitals::{Step, Timing},
};

/// A change on its way to the writer.
pub(super) type Submission = Call<WaitingCaller>;

/// Whoever waits for the outcome of a change.
pub(super) struct WaitingCaller {
    pub(super) reply: Reply,
    /// What it showed, where callers are known.
    credentials: Option<Credentials>,
    connection: Option<u64>,
    /// Where it is noted how far its change is, if somebody asked for that.
    timing: Option<Arc<Timing>>,
    shared: Arc<Shared>,
}

impl WaitingCaller {
    pub(super) fn new(reply: Reply, origin: CallOrigin, timing: Option<Arc<Timing>>, shared: &Arc<Shared>) -> Self {
        let CallOrigin { credentials, connection } = origin;
        WaitingCaller { reply, credentials, connection, timing, shared: shared.clone() }
    }

    /// Answers by itself.
    pub(super) fn send(self, outcome: Outcome) {
        self.reply.send(outcome);
    }

    /// Its change is so far.
    pub(super) fn reached(&self, step: Step, now: Timestamp) {
        if let Some(timing) = &self.timing {
            timing.reached(step, now);
        }
    }

    fn reached_now(&self, step: Step) {
        if let Some(timing) = &self.timing {
            timing.reached(step, self.shared.clock.now());
        }
    }
}

impl Caller for WaitingCaller {
    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }

    fn is_revoked(&self) -> bool {
        self.credentials.as_ref().is_some_and(|shown| shown.are_over(&*self.shared.clock))
    }

    fn share(&self, by: Option<&Behalf>) -> Option<Share> {
        Share::of_caller(by.map(|by| by.actor.as_str()), self.connection)
    }

    fn taken(&self) {
        self.reached_now(Step::Taken);
    }

    fn judged(&self) {
        self.reached_now(Step::Judged);
    }

    fn held(&self) {
        self.reply.release_bytes();
    }

    fn turned_away(&self) {
        self.shared.meter.refused.too_many_waiting.fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self, bytes: usize) {
        self.reply.add_bytes(bytes);
    }
}
