//! [`StoreMetrics`]: the counters that the writer and the handles update.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use crate::domain::{
    command::{ClaimNext, Command},
    event::EventType,
    lease::LeasePurpose,
    time::{Span, Timestamp},
};

use super::{
    BatchEvents, CheckpointKind, CheckpointOutcome, ClockVitals, LogVitals, Refusals, Vitals,
    histogram::{BATCH_SIZES, Histogram, MICROS},
    last_minute::SlidingWindow,
    queues::QueueCounters,
    timing::NEVER,
    watches::Watches,
};

/// By how much, in microseconds, the wall clock must move against the coordinator's within [`STEP_LOOK`] to count as
/// stepped. A slewed clock moves by half a millisecond a second.
const STEP: i64 = 250_000;
/// How often the clocks are compared.
const STEP_LOOK: Span = Span::from_secs(1);

/// The store's metrics.
#[derive(Debug)]
pub(crate) struct StoreMetrics {
    changes: AtomicU64,
    batch_sizes: Histogram,
    batch_micros: Histogram,
    commit_micros: Histogram,
    batch_minute: SlidingWindow,
    commit_minute: SlidingWindow,
    disk_full: AtomicBool,
    pub(crate) refused: RefusalCounters,
    events: [AtomicU64; EventType::ALL.len()],
    queues: QueueCounters,
    writer_ran_at: AtomicI64,
    clocks: Mutex<ClockComparison>,
    pub(crate) watches: Arc<Watches>,
    log: Arc<LogMetrics>,
    log_begun_seen: AtomicU64,
    log_begun_at: AtomicI64,
}

/// Requests that were refused for lack of room.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounters {
    pub(crate) queue_full: AtomicU64,
    pub(crate) no_room: AtomicU64,
    pub(crate) too_many_waiting: AtomicU64,
    pub(crate) disk_full: AtomicU64,
}

/// The clock metrics, and when the clocks were last compared.
#[derive(Debug, Default)]
struct ClockComparison {
    vitals: ClockVitals,
    compared_at: Option<Timestamp>,
}

/// Metrics of a backend's log and checkpoints.
#[derive(Debug, Default)]
pub struct LogMetrics {
    /// Bytes in the log that are not free for reuse.
    pub(crate) bytes: AtomicU64,
    /// How often the log was restarted.
    pub(crate) begun: AtomicU64,
    /// By kind and outcome.
    pub(crate) checkpoints: [[AtomicU64; 3]; 2],
}

impl LogMetrics {
    /// Records a checkpoint.
    pub(crate) fn checkpointed(&self, kind: CheckpointKind, outcome: CheckpointOutcome) {
        self.checkpoints[kind as usize][outcome as usize].fetch_add(1, Relaxed);
    }
}

/// The times of a committed batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchTimes {
    pub(crate) changes: usize,
    pub(crate) begun: Timestamp,
    pub(crate) commit_begun: Timestamp,
    pub(crate) committed: Timestamp,
    pub(crate) answered: Timestamp,
}

impl StoreMetrics {
    /// Starts at `now`.
    pub(crate) fn new(now: Timestamp) -> Self {
        StoreMetrics {
            changes: AtomicU64::new(0),
            batch_sizes: Histogram::new(BATCH_SIZES),
            batch_micros: Histogram::new(MICROS),
            commit_micros: Histogram::new(MICROS),
            batch_minute: SlidingWindow::default(),
            commit_minute: SlidingWindow::default(),
            disk_full: AtomicBool::new(false),
            refused: RefusalCounters::default(),
            events: Default::default(),
            queues: QueueCounters::default(),
            writer_ran_at: AtomicI64::new(now.micros()),
            clocks: Mutex::default(),
            watches: Arc::default(),
            log: Arc::default(),
            log_begun_seen: AtomicU64::new(0),
            log_begun_at: AtomicI64::new(NEVER),
        }
    }

    /// With the metrics of the backend's log.
    pub(crate) fn with_log(self, log: Arc<LogMetrics>) -> Self {
        StoreMetrics { log, ..self }
    }

    /// Records that the writer's loop ran.
    pub(crate) fn record_writer_run(&self, now: Timestamp) {
        self.writer_ran_at.store(now.micros(), Relaxed);
    }

    /// The time since the writer's loop last ran.
    pub(crate) fn writer_silence(&self, now: Timestamp) -> Span {
        now.since(Timestamp::from_micros(self.writer_ran_at.load(Relaxed)))
    }

    /// Records a batch that is committed and answered.
    pub(crate) fn batch(&self, batch: BatchTimes, events: BatchEvents) {
        let micros = |span: Span| u64::try_from(span.micros()).unwrap_or(0);
        let whole = micros(batch.answered.since(batch.begun));
        let commit = micros(batch.committed.since(batch.commit_begun));
        self.changes.fetch_add(batch.changes as u64, Relaxed);
        self.batch_sizes.record(batch.changes as u64);
        self.batch_micros.record(whole);
        self.commit_micros.record(commit);
        self.batch_minute.record(batch.answered, whole);
        self.commit_minute.record(batch.answered, commit);
        for (counter, count) in self.events.iter().zip(events.kinds).filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Relaxed);
        }
        for (queue, what) in events.queue_events {
            self.queues.count(&queue, what);
        }
        let begun = self.log.begun.load(Relaxed);
        if self.log_begun_seen.swap(begun, Relaxed) != begun {
            self.log_begun_at.store(batch.answered.micros(), Relaxed);
        }
    }

    /// Records that the disk is full, or has room again.
    pub(crate) fn disk_is_full(&self, full: bool) {
        self.disk_full.store(full, Relaxed);
    }

    /// Records an absence of the coordinator.
    pub(crate) fn record_absence(&self, away: Span, now: Timestamp) {
        let clock = &mut self.clocks.lock().vitals;
        clock.absences += 1;
        (clock.last_absence, clock.last_absence_at) = (away, Some(now));
        clock.longest_absence = clock.longest_absence.max(away);
    }

    /// True if it is time to compare the clocks.
    pub(crate) fn clock_comparison_is_due(&self, now: Timestamp) -> bool {
        self.clocks.lock().compared_at.is_none_or(|last| now.since(last) >= STEP_LOOK)
    }

    /// Compares the wall clock with the coordinator's; returns by how many microseconds it was stepped since the last
    /// comparison, if it was.
    pub(crate) fn compare_clocks(&self, now: Timestamp, utc: Timestamp) -> Option<i64> {
        let ClockComparison { vitals: clock, compared_at } = &mut *self.clocks.lock();
        let distance = utc.micros().saturating_sub(now.micros());
        let is_first = compared_at.replace(now).is_none();
        let step = distance.saturating_sub(std::mem::replace(&mut clock.distance, distance));
        if is_first || step.abs() < STEP {
            return None;
        }
        clock.steps += 1;
        (clock.last_step, clock.last_step_at) = (step, Some(now));
        Some(step)
    }

    /// Records which kinds a claim for compensation asks for, and so which kinds somebody handles.
    pub(crate) fn record_claim(&self, command: &Command, now: Timestamp) {
        if let Command::ClaimNext(claim @ ClaimNext { purpose: LeasePurpose::Compensate, .. }) = command {
            self.queues.asked(claim, now);
        }
    }

    /// Reads all metrics.
    pub(crate) fn read(&self, now: Timestamp, utc: Timestamp) -> Vitals {
        let time = |at: &AtomicI64| Some(at.load(Relaxed)).filter(|at| *at != NEVER).map(Timestamp::from_micros);
        let (queues, other_queues, handled_kinds) = self.queues.read();
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        Vitals {
            time: now,
            changes: count(&self.changes),
            batch_sizes: self.batch_sizes.read(),
            batch_micros: self.batch_micros.read(),
            commit_micros: self.commit_micros.read(),
            batch_minute: self.batch_minute.read(now),
            commit_minute: self.commit_minute.read(now),
            disk_full: self.disk_full.load(Relaxed),
            refusals: Refusals {
                queue_full: count(&self.refused.queue_full),
                no_room: count(&self.refused.no_room),
                too_many_waiting: count(&self.refused.too_many_waiting),
                disk_full: count(&self.refused.disk_full),
            },
            events: EventType::ALL.into_iter().zip(self.events.iter().map(count)).collect(),
            queues,
            other_queues,
            handled_kinds,
            writer_ran_at: Timestamp::from_micros(self.writer_ran_at.load(Relaxed)),
            clock: ClockVitals { distance: utc.micros().saturating_sub(now.micros()), ..self.clocks.lock().vitals },
            log: LogVitals {
                bytes: count(&self.log.bytes),
                begun: count(&self.log.begun),
                begun_at: time(&self.log_begun_at),
                checkpoints: CheckpointKind::ALL
                    .into_iter()
                    .flat_map(|kind| CheckpointOutcome::ALL.map(|outcome| (kind, outcome)))
                    .map(|(kind, outcome)| {
                        (kind, outcome, count(&self.log.checkpoints[kind as usize][outcome as usize]))
                    })
                    .collect(),
            },
            watches: self.watches.read(),
            waiting: 0,
            writer_queue_depth: 0,
            writer_queue_max: 0,
            head: Default::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn every_kind_of_event_has_its_own_counter() {
        for (place, kind) in EventType::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }

    #[test]
    fn a_clock_step_is_distinguished_from_a_slew() {
        let metrics = StoreMetrics::new(at(0));
        assert!(metrics.clock_comparison_is_due(at(0)));
        assert_eq!(metrics.compare_clocks(at(0), at(7_000_000)), None, "the first look knows no other");
        assert!(!metrics.clock_comparison_is_due(at(999_999)));
        assert!(metrics.clock_comparison_is_due(at(1_000_000)));
        assert_eq!(metrics.compare_clocks(at(1_000_000), at(8_100_000)), None, "slewed by a tenth of a second");
        assert_eq!(metrics.compare_clocks(at(2_000_000), at(-90_900_000)), Some(-100_000_000));
        assert_eq!(metrics.compare_clocks(at(3_000_000), at(-89_900_000)), None, "once");
        let clock = metrics.read(at(3_000_000), at(-89_900_000)).clock;
        assert_eq!((clock.steps, clock.last_step, clock.last_step_at), (1, -100_000_000, Some(at(2_000_000))));
        assert_eq!(clock.distance, -92_900_000);
    }

    #[test]
    fn absences_and_turns_are_measured() {
        let metrics = StoreMetrics::new(at(0));
        metrics.record_absence(Span::from_secs(9), at(10));
        metrics.record_absence(Span::from_secs(4), at(20));
        metrics.record_writer_run(at(30));
        let vitals = metrics.read(at(50), at(50));
        let clock = &vitals.clock;
        assert_eq!((clock.absences, clock.last_absence_at), (2, Some(at(20))));
        assert_eq!((clock.last_absence, clock.longest_absence), (Span::from_secs(4), Span::from_secs(9)));
        assert_eq!((metrics.writer_silence(at(50)).micros(), vitals.writer_ran_at), (20, at(30)));
    }
}
