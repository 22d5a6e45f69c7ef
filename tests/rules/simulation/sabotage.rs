//! Faults that are built in on purpose, to see that the judges notice.

/// What is wrong in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// Answers leave before the commit, which a crash then prevents.
    AnswerBeforeCommit,
    /// Leases get no grace after an absence.
    NoGrace,
    /// Workers don't keep to their deadlines.
    WorkersOverstay,
    /// A watcher that resumes is given a position that is too late.
    WatchSkips,
}
