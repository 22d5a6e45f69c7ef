//! What one look at the coordinator brought, and what time it is there.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    client::time::Moment,
    proto::{EventType, GetServerInfoResponse, GetStatsResponse, GetVitalsResponse, Queue, Saga, SagaEvent},
};

/// The coordinator's clock, told by its last answer and continued on this machine's monotonic one: this machine's wall
/// clock may be off, and is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerClock {
    /// Its time in microseconds since 1970 …
    micros: i64,
    /// … at this moment here.
    at: Moment,
}

impl ServerClock {
    /// From an answer to a call that was made at `asked` and answered at `answered`: it told its time in between.
    pub fn told(time: &prost_types::Timestamp, asked: Moment, answered: Moment) -> Self {
        ServerClock { micros: micros(time), at: asked + answered.since(asked) / 2 }
    }

    /// Its time at a moment, in microseconds since 1970.
    pub fn at(&self, moment: Moment) -> i64 {
        let since = i64::try_from(moment.since(self.at).as_micros()).unwrap_or(i64::MAX);
        self.micros.saturating_add(since)
    }
}

/// Farthest from 1970, in microseconds, that a time is shown: two such times can be subtracted. No calendar goes as far.
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

/// One saga and the end of its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    /// The saga in full; none: there is none (any more).
    pub saga: Option<Saga>,
    /// In order: of a long history a part.
    pub events: Vec<SagaEvent>,
    /// Whether the history has more events than are here.
    pub cut: bool,
}

/// What one look brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// The query that it answers.
    pub number: u64,
    /// The coordinator.
    pub info: GetServerInfoResponse,
    /// The counts.
    pub stats: GetStatsResponse,
    /// Who paused what.
    pub queues: Vec<Queue>,
    /// How it fares; none: it is older than the question, or does not tell this caller.
    pub vitals: Option<GetVitalsResponse>,
    /// The sagas.
    pub page: Page,
    /// The one that is looked at closely.
    pub detail: Option<Detail>,
    /// What time it is there.
    pub clock: ServerClock,
    /// When the last of it was here.
    pub seen: Moment,
}

/// How many things happened in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
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

impl Counts {
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

    fn add(&mut self, other: &Counts) {
        self.created += other.created;
        self.claimed += other.claimed;
        self.completed += other.completed;
        self.failed += other.failed;
        self.expired += other.expired;
    }
}

/// What happened in a stretch of time, by queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// When it ended.
    pub end: Moment,
    /// How long it was.
    pub length: Duration,
    /// By queue; a queue in which nothing happened is left out.
    pub counts: BTreeMap<String, Counts>,
}

/// Rates by queue, over the last few stretches.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    stretches: VecDeque<Stretch>,
}

/// Stretches that a rate is taken over: with those of a second, long enough to be read and short enough to be of now.
const STRETCHES: usize = 5;
/// A rate that is older than this is none.
const FRESH: Duration = Duration::from_secs(10);

impl Rates {
    /// Takes in what happened.
    pub fn add(&mut self, stretch: Stretch) {
        self.stretches.push_back(stretch);
        while self.stretches.len() > STRETCHES {
            self.stretches.pop_front();
        }
    }

    /// How often things happen in a queue, in each second: created, claimed, completed, failed, expired. `None`: not
    /// known, or not of now.
    pub fn of(&self, queue: &str, now: Moment) -> Option<[f64; 5]> {
        let last = self.stretches.back()?;
        if now.since(last.end) > FRESH {
            return None;
        }
        let mut total = Counts::default();
        for stretch in &self.stretches {
            total.add(stretch.counts.get(queue).unwrap_or(&Counts::default()));
        }
        let seconds: f64 = self.stretches.iter().map(|stretch| stretch.length.as_secs_f64()).sum();
        let Counts { created, claimed, completed, failed, expired } = total;
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
            let mut counts = Counts::default();
            (0..second * 2).for_each(|_| counts.count(EventType::Completed));
            let (end, length) = (begun + Duration::from_secs(second), Duration::from_secs(1));
            rates.add(Stretch { end, length, counts: [("q".to_owned(), counts)].into() });
        }
        let now = begun + Duration::from_secs(9);
        // Of the seconds 4 to 8: 8, 10, 12, 14, 16.
        assert_eq!(rates.of("q", now), Some([0.0, 0.0, 12.0, 0.0, 0.0]));
        assert_eq!(rates.of("other", now), Some([0.0; 5]));
        assert_eq!(rates.of("q", begun + Duration::from_secs(19)), None);
    }
}
