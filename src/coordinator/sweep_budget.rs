//! [`SweepBudget`]: how much work and time a turn may spend on what is due.

use crate::{
    domain::time::Span,
    mutants::{self, Mutant},
};

/// The cost that one turn may spend on what is due: about 10 ms of work, and as much again for its commit. The end of
/// a delay costs 1, an expired lease 2 to 4, depending on its policy.
const SWEEP_COST: usize = 512;

/// The most time that it may take before the commit if sagas have to be read from a slow disk: callers wait for two
/// turns at most, no longer than 50 ms.
const SWEEP_TIME: Span = Span::from_millis(10);

/// Why a sweep runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SweepReason {
    /// For a claim, which may find something ready then.
    Claim,
    /// For no particular call.
    Anyone,
}

/// What a turn may still spend on what is due. Claims get half of it, so that the rest is done as well.
#[derive(Clone, Copy, Debug)]
pub struct SweepBudget {
    claims: BudgetShare,
    all: BudgetShare,
}

#[derive(Clone, Copy, Debug)]
struct BudgetShare {
    cost: usize,
    time: Span,
}

impl BudgetShare {
    fn spend(&mut self, cost: usize, time: Span) {
        self.cost = self.cost.saturating_sub(cost);
        self.time = Span::from_micros(self.time.micros() - time.micros()).unwrap_or(Span::ZERO);
    }
}

impl Default for SweepBudget {
    fn default() -> Self {
        Self::of_cost(SWEEP_COST)
    }
}

impl SweepBudget {
    /// A budget of a given cost.
    pub fn of_cost(cost: usize) -> Self {
        let all = BudgetShare { cost, time: SWEEP_TIME };
        let half = Span::from_micros(SWEEP_TIME.micros() / 2).unwrap_or(Span::ZERO);
        SweepBudget { claims: BudgetShare { cost: cost / 2, time: half }, all }
    }

    pub(super) fn is_spent(&self, reason: SweepReason) -> bool {
        if mutants::on(Mutant::SweepsUnbounded) {
            return false;
        }
        let share = match reason {
            SweepReason::Claim => self.claims,
            SweepReason::Anyone => self.all,
        };
        share.cost == 0 || share.time == Span::ZERO
    }

    pub(super) fn spend(&mut self, reason: SweepReason, cost: usize, time: Span) {
        self.all.spend(cost, time);
        match reason {
            SweepReason::Claim => self.claims.spend(cost, time),
            SweepReason::Anyone => {}
        }
    }
}
