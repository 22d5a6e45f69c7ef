//! [`Rates`]: events per second by queue.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{client::time::Moment, proto::EventType};

/// Counts of events in a queue: sagas created, leases given, sagas completed, failures (those that are retried, too), leases
/// that ran out.
pub type EventCounts = [u64; 5];

/// The place of an event in [`EventCounts`]; none if it isn't counted.
pub fn place(event: EventType) -> Option<usize> {
    match event {
        EventType::Created => Some(0),
        EventType::Claimed => Some(1),
        EventType::Completed => Some(2),
        EventType::Failed | EventType::RetryScheduled => Some(3),
        EventType::LeaseExpired => Some(4),
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
        | EventType::Annotated => None,
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

    /// Events per second in a queue, in the order of [`EventCounts`]. `None` if not known, or not current.
    pub fn of(&self, queue: &str, now: Moment) -> Option<[f64; 5]> {
        let last = self.intervals.back()?;
        if now.since(last.end) > FRESH {
            return None;
        }
        let mut totals = EventCounts::default();
        for counts in self.intervals.iter().filter_map(|interval| interval.counts.get(queue)) {
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
        let seconds: f64 = self.intervals.iter().map(|interval| interval.length.as_secs_f64()).sum();
        (seconds > 0.0).then(|| totals.map(|count| count as f64 / seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::time;

    #[test]
    fn rates_cover_the_latest_intervals_and_expire() {
        let mut rates = Rates::default();
        let begun = time::now();
        assert_eq!(rates.of("q", begun), None);
        for second in 1..=8 {
            let mut counts = EventCounts::default();
            counts[place(EventType::Completed).expect("it is counted")] = second * 2;
            let (end, length) = (begun + Duration::from_secs(second), Duration::from_secs(1));
            rates.add(CountsInterval { end, length, counts: [("q".to_owned(), counts)].into() });
        }
        let now = begun + Duration::from_secs(9);
        // The seconds 4 to 8 have the counts 8, 10, 12, 14 and 16; their mean is 12.
        assert_eq!(rates.of("q", now), Some([0.0, 0.0, 12.0, 0.0, 0.0]));
        assert_eq!(rates.of("other", now), Some([0.0; 5]));
        assert_eq!(rates.of("q", begun + Duration::from_secs(19)), None);
    }
}
