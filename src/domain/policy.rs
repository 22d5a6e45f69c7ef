//! A saga's policy, set when it is created: what happens without a caller's decision.

use super::time::Span;

/// What happens when an execution lease runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaleAction {
    /// The saga is reported as stale. A claim by id or a decision moves it on.
    #[default]
    Hold,
    /// The saga is planned again, until `max_expirations`.
    Requeue,
    /// Its compensations are run.
    Compensate,
    /// Parked for a person.
    Quarantine,
}

/// What `Fail` does when no retry is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureAction {
    /// Terminal: failed.
    #[default]
    Fail,
    /// Its compensations are run.
    Compensate,
}

/// A saga's policy. Counts are at least 1; durations are at most [`super::bounds::DELAY_MAX`]; timeouts are longer
/// than zero, so that a lease never ends when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What an expiry leads to.
    pub on_stale: StaleAction,
    /// With [`StaleAction::Requeue`], the expiry that reaches this count compensates instead.
    pub max_expirations: u32,
    /// What the last failure leads to.
    pub on_failure: FailureAction,
    /// A retryable failure is retried as long as there are fewer failures than this, including it.
    pub max_attempts: u32,
    /// Wait before the first retry; it doubles with each.
    pub retry_backoff: Span,
    /// The longest wait before a retry.
    pub retry_backoff_max: Span,
    /// The longest that one execution lease may last.
    pub execution_timeout: Option<Span>,
    /// The longest that an execution lease may last without a change of progress.
    pub progress_timeout: Option<Span>,
    /// How long claims for compensation wait after a lease ran out.
    pub settle: Span,
    /// A compensating saga is quarantined after this time without a lease and without a settled compensation.
    pub compensation_timeout: Span,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            on_stale: StaleAction::Hold,
            max_expirations: 3,
            on_failure: FailureAction::Fail,
            max_attempts: 1,
            retry_backoff: Span::from_secs(1),
            retry_backoff_max: Span::from_secs(300),
            execution_timeout: None,
            progress_timeout: None,
            settle: Span::ZERO,
            compensation_timeout: Span::from_secs(24 * 3600),
        }
    }
}

impl Policy {
    /// The wait before the retry that follows the `failures`-th retryable failure.
    pub fn backoff(&self, failures: u32) -> Span {
        let mut wait = self.retry_backoff;
        // 64 doublings exceed every maximum; a wait of zero stays zero.
        for _ in 1..failures.min(64) {
            wait = wait.doubled().min(self.retry_backoff_max);
        }
        wait.min(self.retry_backoff_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let policy = Policy::default();
        let seconds = |n| policy.backoff(n).micros() / 1_000_000;
        assert_eq!(
            [seconds(1), seconds(2), seconds(3), seconds(9), seconds(10), seconds(1000)],
            [1, 2, 4, 256, 300, 300]
        );
    }
}
