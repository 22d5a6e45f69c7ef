//! Faults that the history checker is tried on: it has to find each of them in a daemon that has it.
//!
//! They exist only with the feature `mutants`, which no release has, and there the variable `SAGAD_MUTANT` chooses one.
//! Without the feature [`on`] is a constant, and nothing is left of the places that ask it.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Answers leave before the commit.
    AnswerBeforeCommit,
    /// `Complete` is accepted under any lease that the saga ever had.
    CompleteIgnoresToken,
    /// A claim takes a lease that is live.
    ClaimIgnoresExpiry,
    /// The outcome of an undo is accepted under any lease that the saga ever had.
    RecordIgnoresToken,
    /// `ClaimNext` gives out what is being undone under a live lease.
    ClaimNextIgnoresLease,
    /// Commits are not synced.
    SynchronousNormal,
    /// A watcher that resumes misses what happened while it was away.
    WatchSkipsAtResume,
}

impl Mutant {
    /// Its name in `SAGAD_MUTANT`.
    pub const fn name(self) -> &'static str {
        match self {
            Mutant::AnswerBeforeCommit => "answer-before-commit",
            Mutant::CompleteIgnoresToken => "complete-ignores-token",
            Mutant::ClaimIgnoresExpiry => "claim-ignores-expiry",
            Mutant::RecordIgnoresToken => "record-ignores-token",
            Mutant::ClaimNextIgnoresLease => "claim-next-ignores-lease",
            Mutant::SynchronousNormal => "synchronous-normal",
            Mutant::WatchSkipsAtResume => "watch-skips-at-resume",
        }
    }
}

/// Whether this process has the fault.
#[cfg(not(feature = "mutants"))]
pub const fn on(_: Mutant) -> bool {
    false
}

/// Whether this process has the fault.
#[cfg(feature = "mutants")]
pub fn on(mutant: Mutant) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("SAGAD_MUTANT").ok());
    CHOSEN.as_deref() == Some(mutant.name())
}
