//! What the store measured of itself, at one glance.

use crate::domain::{
    event::EventType,
    ids::{QueueName, Revision},
    time::{Span, Timestamp},
};

use super::{Asking, Buckets, Minute, QueueVitals, WatchKind};

/// All that the store measures. Counts begin with the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// When this was read, on the coordinator's clock.
    pub time: Timestamp,
    /// Requests to change something that were carried out or refused by the rules, in batches that were committed.
    pub changes: u64,
    /// Requests in each committed batch; how many batches there were is its count. One that only applied what was due has
    /// none.
    pub batch_sizes: Buckets,
    /// From the beginning of a batch to its answers, in microseconds.
    pub batch_micros: Buckets,
    /// The commit alone, in microseconds: the writing of the log and its sync, which SQLite does not tell apart.
    pub commit_micros: Buckets,
    /// [`Self::batch_micros`] of the last minute.
    pub batch_minute: Minute,
    /// [`Self::commit_micros`] of the last minute.
    pub commit_minute: Minute,
    /// Changes are refused, because the disk is full.
    pub disk_full: bool,
    /// Requests that were turned away.
    pub refusals: Refusals,
    /// Events that were committed, by type.
    pub events: Vec<(EventType, u64)>,
    /// What happened in queues, in order of name: of the first 200 in which something did.
    pub queues: Vec<(QueueName, QueueVitals)>,
    /// What happened in all others.
    pub other_queues: QueueVitals,
    /// What `ClaimNext` calls for compensation asked for, in order of queue and kind.
    pub asking: Vec<Asking>,
    /// When the writer last turned. Idle it does so four times a second.
    pub turned_at: Timestamp,
    /// Clocks and absences.
    pub clock: ClockVitals,
    /// The write-ahead log.
    pub log: LogVitals,
    /// Open watches, in the order in which they were opened.
    pub watches: Vec<WatchVitals>,
    /// Held `ClaimNext` calls.
    pub waiting: u64,
    /// Requests that wait for the writer.
    pub writer_queue_depth: u64,
    /// Most that may.
    pub writer_queue_max: u64,
    /// The newest durable revision.
    pub head: Revision,
}

/// Requests that were turned away, and may come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The writer's queue was full.
    pub queue_full: u64,
    /// What waits for the writer holds too much memory.
    pub no_room: u64,
    /// Too many claims are held.
    pub too_many_waiting: u64,
    /// The disk is full.
    pub disk_full: u64,
}

/// What happened to clocks, and to the coordinator as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockVitals {
    /// By how much the wall clock is ahead of the coordinator's, in microseconds.
    pub distance: i64,
    /// How often the wall clock was stepped.
    pub steps: u64,
    /// By how much it was the last time, in microseconds.
    pub last_step: i64,
    /// When that was.
    pub last_step_at: Option<Timestamp>,
    /// How often the coordinator was away while it ran: stopped, starved, or stuck in a write.
    pub absences: u64,
    /// For how long it was the last time.
    pub last_absence: Span,
    /// For how long it was at most.
    pub longest_absence: Span,
    /// When it came back.
    pub last_absence_at: Option<Timestamp>,
}

/// A way to copy the log into the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checkpoint {
    /// What can be copied without waiting for anyone.
    Passive,
    /// All of it, so that the log begins anew.
    Restart,
}

impl Checkpoint {
    /// All of them.
    pub const ALL: [Checkpoint; 2] = [Checkpoint::Passive, Checkpoint::Restart];
}

/// How a checkpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Well.
    Done,
    /// A read was in the way.
    Busy,
    /// With an error.
    Failed,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 3] = [Outcome::Done, Outcome::Busy, Outcome::Failed];
}

/// The write-ahead log. All zero where the backend has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogVitals {
    /// Bytes of pages in it, as of the last commit: since it was last started anew.
    pub bytes: u64,
    /// How often it was started anew.
    pub begun: u64,
    /// When it was last, as of the batch behind it.
    pub begun_at: Option<Timestamp>,
    /// Checkpoints, by kind and outcome.
    pub checkpoints: Vec<(Checkpoint, Outcome, u64)>,
}

/// An open watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchVitals {
    /// Of what.
    pub kind: WatchKind,
    /// In which queues; none: in all.
    pub queues: Vec<QueueName>,
    /// Of one saga alone.
    pub one_task: bool,
    /// Everything up to here was handed out, or is not wanted.
    pub position: Revision,
}
