//! Faults to test the tests with: each promise has at least one fault, and a test that must fail with it
//! (`.ci/mutants`; the table is in `docs/maintainers/evidence.md`).
//!
//! They exist only with the feature `mutants`, which no release has; the variable `SAGAD_MUTANT` chooses one. Without
//! the feature [`on`] is a constant, and the places that call it compile to nothing.

macro_rules! mutants {
    ($($(#[$what:meta])+ $mutant:ident = $name:literal,)+) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$what])+ $mutant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$mutant),+];

            /// Its name in `SAGAD_MUTANT`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Mutant::$mutant => $name,)+
                }
            }
        }
    };
}

mutants! {
    /// Answers leave before the commit.
    AnswerBeforeCommit = "answer-before-commit",
    /// What was answered is not kept for the same request again.
    AnswersNotKept = "answers-not-kept",
    /// Commits are not synced.
    SynchronousNormal = "synchronous-normal",
    /// A failing disk is taken for a full one.
    FailingDiskIsFull = "failing-disk-is-full",
    /// It is not looked whether the store's files are still there.
    StoreGoneUnnoticed = "store-gone-unnoticed",
    /// A disk that was full stays so.
    FullForEver = "full-for-ever",
    /// `Complete` is accepted under any lease that the saga ever had.
    CompleteIgnoresToken = "complete-ignores-token",
    /// A claim takes a lease that is live.
    ClaimIgnoresExpiry = "claim-ignores-expiry",
    /// The outcome of an undo is accepted under any lease that the saga ever had.
    RecordIgnoresToken = "record-ignores-token",
    /// A heartbeat is accepted under any lease that the saga ever had.
    HeartbeatIgnoresToken = "heartbeat-ignores-token",
    /// `ClaimNext` gives out what is being undone under a live lease.
    ClaimNextIgnoresLease = "claim-next-ignores-lease",
    /// The coordinator's clock is the wall clock.
    WallClock = "wall-clock",
    /// The coordinator does not notice that it was away.
    AbsenceUnnoticed = "absence-unnoticed",
    /// It notices at the beginning of a turn only, and takes its time until it has drained the queue.
    AbsenceUnnoticedWhileDraining = "absence-unnoticed-while-draining",
    /// A restart is no absence.
    RestartWithoutGrace = "restart-without-grace",
    /// A watcher that resumes misses what happened while it was away.
    WatchSkipsAtResume = "watch-skips-at-resume",
    /// A database of another program is taken for one of ours.
    ForeignFileTaken = "foreign-file-taken",
    /// The lock of the data directory is not taken.
    LockNotTaken = "lock-not-taken",
    /// A coordinator that was replaced goes on writing.
    EpochUnchecked = "epoch-unchecked",
    /// Revisions are given without being reserved.
    RevisionsNotReserved = "revisions-not-reserved",
    /// Connections that say nothing are kept.
    SilentConnectionsKept = "silent-connections-kept",
    /// A watch holds as many items as it reads at once, however large.
    WatchPagesUnbounded = "watch-pages-unbounded",
    /// Streams end without an error when the coordinator does.
    StreamsEndUnsaid = "streams-end-unsaid",
    /// Violations don't name their field.
    ViolationsUnnamed = "violations-unnamed",
    /// Whoever logs waits until it is written.
    LogWaits = "log-waits",
    /// A transaction does all that is due.
    SweepsUnbounded = "sweeps-unbounded",
    /// Queues that a principal may not see are open to it.
    ScopesIgnored = "scopes-ignored",
    /// Streams of a principal that was taken away go on.
    RevokedStreamsGoOn = "revoked-streams-go-on",
    /// A watcher of some queues is sent all events of a run in which it wants any.
    WatchSelectionsIgnored = "watch-selections-ignored",
    /// What a worker's command started goes on without the worker.
    CommandOutlivesWorker = "command-outlives-worker",
    /// A worker claims before it knows whether its program can be run.
    ClaimsWithoutProgram = "claims-without-program",
    /// A terminal saga can be claimed.
    TerminalSagasChange = "terminal-sagas-change",
    /// A saga is compensated whatever is still to be undone.
    CompensatedTooEarly = "compensated-too-early",
    /// What is due is done when somebody asks, and not otherwise.
    SweepsOnlyWhenAsked = "sweeps-only-when-asked",
    /// The history does not tell who decided.
    DecisionsUnsigned = "decisions-unsigned",
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
