//! A queued change, and the caller that waits for its outcome.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    coordinator::{Call, CallOutcome, Caller, CallerKey},
    domain::{principal::Requester, time::Timestamp},
    metrics::WriteStage,
};

use super::{CallOrigin, reply::Reply, shared_state::SharedState};

/// A queued change.
pub(super) type Submission = Call<WaitingCaller>;

/// The caller that waits for the outcome of a change.
pub(super) struct WaitingCaller {
    pub(super) reply: Reply,
    pub(super) origin: CallOrigin,
    pub(super) shared: Arc<SharedState>,
}

impl WaitingCaller {
    /// Sends one outcome directly.
    pub(super) fn send(self, outcome: CallOutcome) {
        self.reply.send(outcome);
    }

    /// Records that the change reached a stage.
    pub(super) fn reached(&self, step: WriteStage, now: Timestamp) {
        if let Some(timing) = &self.origin.timing {
            timing.reached(step, now);
        }
    }

    fn reached_now(&self, step: WriteStage) {
        if let Some(timing) = &self.origin.timing {
            timing.reached(step, self.shared.clock.now());
        }
    }
}

impl Caller for WaitingCaller {
    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }

    fn is_revoked(&self) -> bool {
        self.origin.credentials.as_ref().is_some_and(|shown| shown.are_invalid(&*self.shared.clock))
    }

    fn share(&self, by: Option<&Requester>) -> Option<CallerKey> {
        CallerKey::of_caller(by.map(|by| by.actor.as_str()), self.origin.connection)
    }

    fn on_taken(&self) {
        self.reached_now(WriteStage::Taken);
    }

    fn on_judged(&self) {
        self.reached_now(WriteStage::Judged);
    }

    fn on_held(&self) {
        self.reply.memory.release();
    }

    fn on_hold_refused(&self) {
        self.shared.metrics.refused.too_many_waiting.fetch_add(1, Ordering::Relaxed);
    }

    fn on_answered(&self, bytes: usize) {
        self.reply.memory.add(bytes);
    }
}
