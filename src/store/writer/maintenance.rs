//! What the writer does between transactions: it notices absences and runs the backend's maintenance.

use crate::{
    coordinator::{Backend, BackendError, MaintenanceBudget},
    domain::{bounds::ABSENCE_WITHOUT_GRACE, lease::RestartGrace, time::Span},
    mutants::{self, Mutant},
};

use super::Writer;

/// How often the backend may do a step of work that can wait, if none was left …
const STEP_EVERY: Span = Span::from_secs(1);
/// … and the least pause between steps, if some was.
const STEP_REST: Span = Span::from_millis(5);

impl<B: Backend> Writer<B> {
    /// Runs the backend's maintenance. Work that can wait takes at most a tenth of the writer's time.
    pub(super) fn maintain(&mut self) -> Result<(), BackendError> {
        // The start of this turn is precise enough.
        let step = self.last_able >= self.step_at && !self.disk_was_full;
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
            Err(BackendError::Full) => {
                self.disk_is_full(true);
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
        if away > ABSENCE_WITHOUT_GRACE && !self.disk_was_full {
            metrics.record_absence(away, now);
            let grace = RestartGrace { returned_at: now, length: self.options.restart_grace };
            tracing::warn!(away = %away, grace = %grace.length, "the coordinator was away; leases get their grace");
            *self.shared.grace.write() = grace;
            self.coordinator.returned(grace);
        }
        if !self.disk_was_full {
            self.last_able = now;
        }
    }

    /// True if the disk, once full, takes a write again.
    pub(super) fn has_room(&mut self) -> Result<bool, BackendError> {
        if mutants::on(Mutant::FullForEver) {
            return Ok(false);
        }
        match self.backend.maintain(MaintenanceBudget::default()) {
            Ok(_) => {
                tracing::info!("the disk has room again");
                self.disk_is_full(false);
                self.notice_absence();
                Ok(true)
            }
            Err(BackendError::Full) => Ok(false),
            Err(other) => Err(other),
        }
    }

    pub(super) fn disk_is_full(&mut self, full: bool) {
        self.disk_was_full = full;
        self.shared.metrics.disk_is_full(full);
    }
}
