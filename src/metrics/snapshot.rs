//! [`Vitals`]: the values of the store's metrics.

use crate::domain::{
    event::EventType,
    ids::{QueueName, Revision},
    time::{Span, Timestamp},
};

use super::{HandledKind, HistogramSnapshot, LastMinute, QueueEventCounts, WatchVitals};

/// The values of all metrics. Counts start with the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// When this was read, on the coordinator's clock.
    pub time: Timestamp,
    /// Changes that were executed or refused by the rules, in committed batches.
    pub changes: u64,
    /// Changes per committed batch; its count is the number of batches. A batch that only applied what was due has
    /// none.
    pub batch_sizes: HistogramSnapshot,
    /// From the start of a batch to its answers, in microseconds.
    pub batch_micros: HistogramSnapshot,
    /// The commit alone, in microseconds: writing and syncing the log, which SQLite doesn't report separately.
    pub commit_micros: HistogramSnapshot,
    /// [`Self::batch_micros`] of the last minute.
    pub batch_minute: LastMinute,
    /// [`Self::commit_micros`] of the last minute.
    pub commit_minute: LastMinute,
    /// True while changes are refused because the disk is full.
    pub disk_full: bool,
    /// Requests that were refused for lack of room.
    pub refusals: Refusals,
    /// Events that were committed, by type.
    pub events: Vec<(EventType, u64)>,
    /// Counters of the first 200 queues in which something happened, by name.
    pub queues: Vec<(QueueName, QueueEventCounts)>,
    /// Counters of all other queues.
    pub other_queues: QueueEventCounts,
    /// Kinds that `ClaimNext` calls for compensation asked for, by queue and kind.
    pub handled_kinds: Vec<HandledKind>,
    /// When the writer's loop last ran. It runs four times a second when idle.
    pub writer_ran_at: Timestamp,
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
    /// The capacity of the writer's queue.
    pub writer_queue_max: u64,
    /// The newest durable revision.
    pub head: Revision,
}

/// Requests that were refused for lack of room and may be sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The writer's queue was full.
    pub queue_full: u64,
    /// Pending changes held too much memory.
    pub no_room: u64,
    /// Too many claims are held.
    pub too_many_waiting: u64,
    /// The disk is full.
    pub disk_full: u64,
}

/// Metrics of the clocks and of the coordinator's absences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockVitals {
    /// How far the wall clock is ahead of the coordinator's, in microseconds.
    pub distance: i64,
    /// How often the wall clock was stepped.
    pub steps: u64,
    /// The last step, in microseconds.
    pub last_step: i64,
    /// When that was.
    pub last_step_at: Option<Timestamp>,
    /// How often the coordinator was away while it ran: stopped, starved of CPU, or blocked in a write.
    pub absences: u64,
    /// The length of the last absence.
    pub last_absence: Span,
    /// The length of the longest absence.
    pub longest_absence: Span,
    /// When the last absence ended.
    pub last_absence_at: Option<Timestamp>,
}

/// A way to copy the log into the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckpointKind {
    /// Copies what it can without waiting.
    Passive,
    /// Copies everything, so that the log is restarted.
    Restart,
}

impl CheckpointKind {
    /// All of them.
    pub const ALL: [CheckpointKind; 2] = [CheckpointKind::Passive, CheckpointKind::Restart];
}

/// How a checkpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckpointOutcome {
    /// Well.
    Done,
    /// A read prevented it.
    Busy,
    /// With an error.
    Failed,
}

impl CheckpointOutcome {
    /// All of them.
    pub const ALL: [CheckpointOutcome; 3] =
        [CheckpointOutcome::Done, CheckpointOutcome::Busy, CheckpointOutcome::Failed];
}

/// The write-ahead log. All zero where the backend has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogVitals {
    /// Bytes of pages written since the log was last restarted, as of the last commit.
    pub bytes: u64,
    /// How often it was restarted.
    pub begun: u64,
    /// When it was last restarted, as noticed by the next batch.
    pub begun_at: Option<Timestamp>,
    /// Checkpoints, by kind and outcome.
    pub checkpoints: Vec<(CheckpointKind, CheckpointOutcome, u64)>,
}
