//! [`BatchEvents`]: the events of one batch, counted.

use crate::domain::{
    event::{Event, EventType},
    ids::QueueName,
    saga::State,
};

/// A rare event that is counted by queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueCount {
    /// A lease for execution ran out.
    ExecutionExpired,
    /// A lease for compensation ran out.
    CompensationExpired,
    /// A saga was quarantined.
    Quarantined,
}

/// The events of one batch, counted by type.
#[derive(Debug, Default)]
pub(crate) struct BatchEvents {
    pub(crate) kinds: [u64; EventType::ALL.len()],
    pub(crate) queue_counts: Vec<(QueueName, QueueCount)>,
}

impl BatchEvents {
    /// Counts events.
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut batch_events = BatchEvents::default();
        for event in events {
            batch_events.kinds[event.kind as usize] += 1;
            if let Some(queue_count) = queue_count(event) {
                batch_events.queue_counts.push((event.queue.clone(), queue_count));
            }
        }
        batch_events
    }
}

fn queue_count(event: &Event) -> Option<QueueCount> {
    if event.kind == EventType::Quarantined {
        Some(QueueCount::Quarantined)
    } else if event.kind != EventType::LeaseExpired {
        None
    } else if event.from_state == Some(State::Compensating) {
        Some(QueueCount::CompensationExpired)
    } else {
        Some(QueueCount::ExecutionExpired)
    }
}
