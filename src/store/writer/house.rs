//! What the writer does between transactions: it notices that it was away, keeps the log and the file small, and reserves
//! revisions.

use crate::{
    coordinator::{Backend, Fault},
    domain::{bounds::ABSENCE, lease::Absence, time::Span},
    mutants::{self, Mutant},
};

use super::{RESERVE, Writer};

/// How often it looks whether there is room to be given back to the file system …
const SHRINK_EVERY: Span = Span::from_secs(1);
/// … and how long it rests at least between two steps of that.
const SHRINK_REST: Span = Span::from_millis(5);
/// After how many revisions a reservation that a read was in the way of is tried again.
const RESERVE_RETRY: usize = 1 << 16;

impl<B: Backend> Writer<B> {
    /// What is to be done between transactions.
    pub(super) fn keep_house(&mut self) -> Result<(), Fault> {
        let done = self.backend.maintain(self.inbox.is_empty()).and_then(|()| self.reserve_more());
        if done == Err(Fault::Full) {
            self.disk_is_full(true);
            return Ok(());
        }
        done
    }

    /// Gives room back to the file system, a little at a time and for a tenth of the writer's time at most.
    pub(super) fn shrink(&mut self) -> Result<(), Fault> {
        // The time of this turn's beginning will do.
        if self.last_able < self.shrink_at || self.disk_was_full {
            return Ok(());
        }
        let begun = self.shared.clock.now();
        self.shrinks = self.backend.shrink()?;
        let done = self.shared.clock.now();
        let took = done.since(begun).micros();
        let rest =
            if self.shrinks { Span::from_micros(took.saturating_mul(9)).unwrap_or(SHRINK_EVERY) } else { SHRINK_EVERY };
        self.shrink_at = done.plus(rest.max(SHRINK_REST));
        Ok(())
    }

    /// Reserves the next block of revisions when half of this one is used up. A long read that is in the way has until
    /// the block's end.
    fn reserve_more(&mut self) -> Result<(), Fault> {
        let next = self.coordinator.next_revision();
        if next < self.reserve_at {
            return Ok(());
        }
        let through = next.after(RESERVE);
        if self.backend.reserve_revisions(through)? {
            self.reserved = through;
            self.reserve_at = next.after(RESERVE / 2);
        } else if next.after(RESERVE_RETRY) > self.reserved {
            return Err(Fault::Unavailable(
                "no revisions can be reserved: a read has been in the way for millions".into(),
            ));
        } else {
            self.reserve_at = next.after(RESERVE_RETRY);
        }
        Ok(())
    }

    /// Tells that the writer is there, and looks whether the wall clock was stepped.
    pub(super) fn begin_turn(&mut self) {
        let now = self.shared.clock.now();
        let meter = &self.shared.meter;
        meter.turned(now);
        if meter.is_to_compare_clocks(now)
            && let Some(step) = meter.compare_clocks(now, self.shared.clock.utc())
        {
            tracing::warn!(step_ms = step / 1000, "the machine's wall clock was stepped; leases don't depend on it");
        }
        self.notice_absence();
    }

    /// After the coordinator was away, leases that wait for their heartbeat get their grace.
    pub(super) fn notice_absence(&mut self) {
        let now = self.shared.clock.now();
        let meter = &self.shared.meter;
        if mutants::on(Mutant::AbsenceUnnoticed) {
            self.last_able = now;
        }
        let away = now.since(self.last_able);
        if away > ABSENCE && !self.disk_was_full {
            meter.absent(away, now);
            let absence = Absence { returned_at: now, grace: self.bounds.restart_grace };
            tracing::warn!(away = %away, grace = %absence.grace, "the coordinator was away; leases get their grace");
            *self.shared.absence.write() = absence;
            self.coordinator.returned(absence);
        }
        if !self.disk_was_full {
            self.last_able = now;
        }
    }

    /// Whether the disk, once full, takes a write again.
    pub(super) fn has_room(&mut self) -> Result<bool, Fault> {
        if mutants::on(Mutant::FullForEver) {
            return Ok(false);
        }
        match self.backend.reserve_revisions(self.reserved) {
            Ok(_) => {
                tracing::info!("the disk has room again");
                self.disk_is_full(false);
                self.notice_absence();
                Ok(true)
            }
            Err(Fault::Full) => Ok(false),
            Err(other) => Err(other),
        }
    }

    pub(super) fn disk_is_full(&mut self, full: bool) {
        self.disk_was_full = full;
        self.shared.meter.disk_is_full(full);
    }
}
