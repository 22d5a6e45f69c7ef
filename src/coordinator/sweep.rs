//! Applies what is due, a slice at a time.
//!
//! Any number of leases and delays can be due at one instant: after an absence all leases have the same deadline. So a
//! turn spends a bounded amount of work and time on what is due, whoever asks for it, and leaves the rest to the next
//! turns, with calls in between.

use crate::domain::{command::ClaimNext, saga::Saga, time::Timestamp};

use super::{Backend, BackendError, Caller, DueIndex, RowId, Turn, sweep_budget::SweepReason};

/// Rewriting a saga costs 1 more for each database page of its contents.
const PAGE_BYTES: usize = 4096;

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    /// Applies what is due by `now`, as far as the turn's budget goes; returns true if that was all.
    pub(super) fn sweep(&mut self, now: Timestamp) -> Result<bool, BackendError> {
        self.sweep_while(SweepReason::Anyone, now, |due_index| due_index.due_by(now))
    }

    /// Applies what is due before a claim, as far as the budget of claims goes: first what may make something ready
    /// for it.
    pub(super) fn sweep_for(&mut self, claim: &ClaimNext, now: Timestamp) -> Result<(), BackendError> {
        if self.coordinator.due_index.due_by(now).is_none() {
            return Ok(());
        }
        for queue in claim.queues.iter().filter(|queue| !self.is_paused(queue)).cloned().collect::<Vec<_>>() {
            self.sweep_while(SweepReason::Claim, now, |due_index| due_index.due_for(claim.purpose, &queue, now))?;
        }
        self.sweep_while(SweepReason::Claim, now, |due_index| due_index.due_by(now)).map(drop)
    }

    /// True if something is due by `time` that may make something ready for a claim.
    pub(super) fn is_due_for(&self, claim: &ClaimNext, time: Timestamp) -> bool {
        let mut queues = claim.queues.iter().filter(|queue| !self.is_paused(queue));
        queues.any(|queue| self.coordinator.due_index.due_for(claim.purpose, queue, time).is_some())
    }

    fn sweep_while(
        &mut self,
        reason: SweepReason,
        now: Timestamp,
        next: impl Fn(&DueIndex) -> Option<RowId>,
    ) -> Result<bool, BackendError> {
        let clock = self.limits.time;
        let time = || clock.map_or(Timestamp::ZERO, |time| time());
        // Usually nothing is due, and the clock need not be read.
        let Some(mut id) = next(&self.coordinator.due_index) else { return Ok(true) };
        let mut begun = time();
        while !self.limits.sweep.is_spent(reason) {
            let cost = self.sweep_one(id, now)?;
            let done = time();
            self.limits.sweep.spend(reason, cost, done.since(begun));
            begun = done;
            match next(&self.coordinator.due_index) {
                Some(next) => id = next,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Applies what is due to a saga; returns the cost.
    pub(super) fn sweep_one(&mut self, id: RowId, now: Timestamp) -> Result<usize, BackendError> {
        let Some(before) = self.load_readable(id)? else {
            self.coordinator.due_index.set(id, None, &self.coordinator.grace);
            return Ok(1);
        };
        let draft = self.draft(&before, now);
        let (events, pages) = (draft.events.len(), pages(&before));
        if *before == draft.saga {
            self.derive_anew(id, before, now);
        } else {
            self.save(id, before, draft);
        }
        Ok(1 + events + pages)
    }
}

/// How many pages a saga's contents take in its row.
fn pages(saga: &Saga) -> usize {
    let bytes = [&saga.spec.payload, &saga.progress, &saga.result].map(|blob| blob.bytes().len());
    bytes.iter().sum::<usize>() / PAGE_BYTES
}
