//! [`PlantedFault`]: a fault of the simulated system that the checkers must detect.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedFault {
    None,
    /// Answers are sent before the commit, which a crash may prevent.
    AnswerBeforeCommit,
    /// Leases get no grace after an absence.
    NoGrace,
    /// Workers work past their deadlines.
    WorkersExceedDeadlines,
    /// A watcher resumes from a position that is too late.
    WatchSkips,
}
