//! What the writer does between transactions: it notices absences and runs the backend's maintenance.

use crate::{
    coordinator::{Backend, BackendError, MaintenanceBudget, StoreError},
    domain::{bounds::ABSENCE_WITHOUT_GRACE, lease::RestartGrace, time::Span},
    mutants::{self, Mutant},
};

use super::{FULL_RETRY, Writer};

/// How often the backend may do a step of work that can wait, if none was left …
const STEP_EVERY: Span = Span::from_secs(1);
/// … and the least pause between steps, if some was.
const STEP_REST: Span = Span::from_millis(5);

impl<B: Backend> Writer<B> {
    /// Runs the backend's maintenance. Work that can wait takes at most a tenth of the writer's time.
    pub(super) fn maintain(&mut self) -> Result<(), BackendError> {
        // The start of this turn is precise enough.
        let step = self.last_able >= self.step_at && self.refusal.is_none();
        let begun = if step { self.shared.clock.now() } else { self.last_able };
        match self.backend.maintain(MaintenanceBudget { no_calls_waiting: self.command_queue.is_empty(), step }) {
            Ok(_) if !step => Ok(()),
            Ok(left) => {
                self.steps_left = left;
                let done = self.shared.clock.now();
                let rest = Span::from_micros(done.since(begun).micros().saturating_mul(9)).filter(|_| left);
                self.step_at = done.plus(rest.unwrap_or(STEP_EVERY).max(STEP_REST));
                Ok(())
            }
            Err(error @ (BackendError::Full | BackendError::Away(_))) => {
                self.refuse_from_now_on(&error);
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// Records that the writer runs, and checks whether the wall clock was stepped.
    pub(super) fn begin_turn(&mut self) {
        let now = self.shared.clock.now();
        let metrics = &self.shared.metrics;
        metrics.record_writer_run(now);
        if metrics.clock_comparison_is_due(now)
            && let Some(step) = metrics.compare_clocks(now, self.shared.clock.utc())
        {
            tracing::warn!(step_ms = step / 1000, "the machine's wall clock was stepped; leases don't depend on it");
        }
        self.notice_absence();
    }

    /// If the coordinator was away, gives the grace to live leases.
    pub(super) fn notice_absence(&mut self) {
        let now = self.shared.clock.now();
        let metrics = &self.shared.metrics;
        if mutants::on(Mutant::AbsenceUnnoticed) {
            self.last_able = now;
        }
        let away = now.since(self.last_able);
        if away > ABSENCE_WITHOUT_GRACE && self.refusal.is_none() {
            metrics.record_absence(away, now);
            let grace = RestartGrace { returned_at: now, length: self.options.restart_grace };
            tracing::warn!(away = %away, grace = %grace.length, "the coordinator was away; leases get their grace");
            *self.shared.grace.write() = grace;
            self.coordinator.returned(grace);
        }
        if self.refusal.is_none() {
            self.last_able = now;
        }
    }

    /// True if the backend takes changes; one that took none is asked whether it does again.
    pub(super) fn takes_changes(&mut self) -> Result<bool, BackendError> {
        if self.refusal.is_none() {
            return Ok(true);
        }
        if mutants::on(Mutant::FullForEver) {
            return Ok(false);
        }
        match self.backend.maintain(MaintenanceBudget::default()) {
            Ok(_) => {
                tracing::info!("the store takes changes again");
                self.refusal = None;
                self.shared.metrics.disk_is_full(false);
                self.notice_absence();
                Ok(true)
            }
            Err(BackendError::Full | BackendError::Away(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Refuses changes until the backend takes them again; returns what callers are told.
    pub(super) fn refuse_from_now_on(&mut self, error: &BackendError) -> StoreError {
        let refusal = if let BackendError::Away(what) = error {
            StoreError::Unavailable(what.clone())
        } else {
            StoreError::Full { retry_after: FULL_RETRY }
        };
        self.shared.metrics.disk_is_full(matches!(refusal, StoreError::Full { .. }));
        self.refusal = Some(refusal.clone());
        refusal
    }
}
