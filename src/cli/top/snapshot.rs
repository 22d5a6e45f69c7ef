//! [`Snapshot`]: what was fetched from the coordinator at one time, and its clock.

use crate::{
    cli::text::micros,
    client::time::Moment,
    proto::{GetServerInfoResponse, GetStatsResponse, GetVitalsResponse, ListSagasResponse, Queue, Saga, SagaEvent},
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
    pub fn from_answer(time: &prost_types::Timestamp, asked: Moment, answered: Moment) -> Self {
        ServerClock { micros: micros(time), at: asked + answered.since(asked) / 2 }
    }

    /// Its time at a moment, in microseconds since 1970.
    pub fn at(&self, moment: Moment) -> i64 {
        let since = i64::try_from(moment.since(self.at).as_micros()).unwrap_or(i64::MAX);
        self.micros.saturating_add(since)
    }
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
    /// One page of sagas, in the coordinator's order.
    pub page: ListSagasResponse,
    /// The detail view, if open.
    pub detail: Option<Detail>,
    /// The coordinator's clock.
    pub clock: ServerClock,
    /// When the last answer arrived.
    pub seen: Moment,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::time;

    #[test]
    fn the_coordinators_time_advances_with_the_local_monotonic_clock() {
        let asked = time::now();
        let answered = asked + Duration::from_millis(20);
        // The coordinator's clock is years away from the local one.
        let clock = ServerClock::from_answer(&prost_types::Timestamp { seconds: 100, nanos: 500_000 }, asked, answered);
        assert_eq!(clock.at(asked + Duration::from_millis(10)), 100_000_500);
        assert_eq!(clock.at(asked + Duration::from_millis(1_010)), 101_000_500);
        assert_eq!(clock.at(asked), 100_000_500, "it is never before the time in the answer");
    }
}
