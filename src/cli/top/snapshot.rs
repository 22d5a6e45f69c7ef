//! [`Snapshot`]: what was fetched from the coordinator at one time, and its clock.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    client::time::Moment,
    proto::{EventType, GetServerInfoResponse, GetStatsResponse, GetVitalsResponse, Queue, Saga, SagaEvent},
};

/// The coordinator's clock, set by its last answer and continued on this machine's monotonic clock; this machine's
/// wall clock may be wrong and is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerClock {
    /// The coordinator's time in microseconds since 1970 …
    micros: i64,
    /// … at this local moment.
    at: Moment,
}

impl ServerClock {
    /// Set from an answer to a call that was made at `asked` and answered at `answered`; its time is taken to be
    /// halfway between.
    pub fn told(time: &prost_types::Timestamp, asked: Moment, answered: Moment) -> Self {
        ServerClock { micros: micros(time), at: asked + answered.since(asked) / 2 }
    }

    /// Its time at a moment, in microseconds since 1970.
    pub fn at(&self, moment: Moment) -> i64 {
        let since = i64::try_from(moment.since(self.at).as_micros()).unwrap_or(i64::MAX);
        self.micros.saturating_add(since)
    }
}

/// The largest distance from 1970, in microseconds, that is shown, so that two times can be subtracted. No calendar
/// goes as far.
const FARTHEST: i64 = 1 << 61;

/// A time as microseconds since 1970.
pub fn micros(time: &prost_types::Timestamp) -> i64 {
    let micros = time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1000);
    micros.clamp(-FARTHEST, FARTHEST)
}

/// One page of sagas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the coordinator's order.
    pub sagas: Vec<Saga>,
    /// Where the next page begins; empty: this is the last.
    pub next_page_token: String,
}

/// The detail view: one saga and the end of its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    /// The whole saga; none if it doesn't exist (any more).
    pub saga: Option<Saga>,
    /// Its events in order; only a part of a long history.
    pub events: Vec<SagaEvent>,
    /// True if the history has more events.
    pub cut: bool,
}

/// What was fetched at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The query that it answers.
    pub number: u64,
    /// The coordinator.
    pub info: GetServerInfoResponse,
    /// The counts.
    pub stats: GetStatsResponse,
    /// The paused queues, with who paused them.
    pub queues: Vec<Queue>,
    /// The coordinator's vitals; none if it is too old for the rpc, or doesn't permit it to this caller.
    pub vitals: Option<GetVitalsResponse>,
    /// The sagas.
    pub page: Page,
    /// The detail view, if open.
    pub detail: Option<Detail>,
    /// The coordinator's clock.
    pub clock: ServerClock,
    /// When the last answer arrived.
    pub seen: Moment,
}

/// Counts of events in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Sagas created.
    pub created: u64,
    /// Leases given.
    pub claimed: u64,
    /// Sagas completed.
    pub completed: u64,
    /// Failures, those that are retried included.
    pub failed: u64,
    /// Leases that ran out.
    pub expired: u64,
}

impl EventCounts {
    /// Counts an event.
    pub fn count(&mut self, event: EventType) {
        match event {
            EventType::Created => self.created += 1,
            EventType::Claimed => self.claimed += 1,
            EventType::Completed => self.completed += 1,
            EventType::Failed | EventType::RetryScheduled => self.failed += 1,
            EventType::LeaseExpired => self.expired += 1,
            EventType::Unspecified
            | EventType::Dispatched
            | EventType::Released
            | EventType::Requeued
            | EventType::RecoveryDecided
            | EventType::CancelRequested
            | EventType::CompensationRegistered
            | EventType::CompensationSettled
            | EventType::Compensating
            | EventType::Compensated
            | EventType::Quarantined
            | EventType::Annotated => {}
        }
    }

    fn add(&mut self, other: &EventCounts) {
        self.created += other.created;
        self.claimed += other.claimed;
        self.completed += other.completed;
        self.failed += other.failed;
        self.expired += other.expired;
    }
}

/// Counts of events in an interval of time, by queue.
#[derive(Clone, Debug, PartialEq)]
pub struct CountsInterval {
    /// When it ended.
    pub end: Moment,
    /// How long it was.
    pub length: Duration,
    /// By queue; queues without events are left out.
    pub counts: BTreeMap<String, EventCounts>,
}

/// Rates by queue, over the last few intervals.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    intervals: VecDeque<CountsInterval>,
}

/// Intervals over which a rate is averaged: at a second each, long enough to be readable and short enough to be
/// current.
const RATE_INTERVALS: usize = 5;
/// An older rate is not shown.
const FRESH: Duration = Duration::from_secs(10);

impl Rates {
    /// Adds an interval.
    pub fn add(&mut self, interval: CountsInterval) {
        self.intervals.push_back(interval);
        while self.intervals.len() > RATE_INTERVALS {
            self.intervals.pop_front();
        }
    }

    /// Events per second in a queue: created, claimed, completed, failed, expired. `None` if not known, or not
    /// current.
    pub fn of(&self, queue: &str, now: Moment) -> Option<[f64; 5]> {
        let last = self.intervals.back()?;
        if now.since(last.end) > FRESH {
            return None;
        }
        let mut total = EventCounts::default();
        for interval in &self.intervals {
            total.add(interval.counts.get(queue).unwrap_or(&EventCounts::default()));
        }
        let seconds: f64 = self.intervals.iter().map(|interval| interval.length.as_secs_f64()).sum();
        let EventCounts { created, claimed, completed, failed, expired } = total;
        (seconds > 0.0).then(|| [created, claimed, completed, failed, expired].map(|count| count as f64 / seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::time;

    #[test]
    fn the_coordinators_time_goes_on_by_our_monotonic_clock() {
        let asked = time::now();
        let answered = asked + Duration::from_millis(20);
        // A coordinator whose clock is years away from ours.
        let clock = ServerClock::told(&prost_types::Timestamp { seconds: 100, nanos: 500_000 }, asked, answered);
        assert_eq!(clock.at(asked + Duration::from_millis(10)), 100_000_500);
        assert_eq!(clock.at(asked + Duration::from_millis(1_010)), 101_000_500);
        assert_eq!(clock.at(asked), 100_000_500, "it never goes back behind what was told");
    }

    #[test]
    fn rates_are_of_the_last_stretches_and_then_none() {
        let mut rates = Rates::default();
        let begun = time::now();
        assert_eq!(rates.of("q", begun), None);
        for second in 1..=8 {
            let mut counts = EventCounts::default();
            (0..second * 2).for_each(|_| counts.count(EventType::Completed));
            let (end, length) = (begun + Duration::from_secs(second), Duration::from_secs(1));
            rates.add(CountsInterval { end, length, counts: [("q".to_owned(), counts)].into() });
        }
        let now = begun + Duration::from_secs(9);
        // Of the seconds 4 to 8: 8, 10, 12, 14, 16.
        assert_eq!(rates.of("q", now), Some([0.0, 0.0, 12.0, 0.0, 0.0]));
        assert_eq!(rates.of("other", now), Some([0.0; 5]));
        assert_eq!(rates.of("q", begun + Duration::from_secs(19)), None);
    }
}
