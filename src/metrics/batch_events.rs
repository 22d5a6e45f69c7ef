//! [`BatchEvents`]: the events of one batch, counted.

use crate::domain::{
    event::{Event, EventType},
    ids::QueueName,
    saga::State,
};

/// An event that is counted by queue. These are rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueEvent {
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
    pub(crate) queue_events: Vec<(QueueName, QueueEvent)>,
}

impl BatchEvents {
    /// Counts events.
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut batch_events = BatchEvents::default();
        for event in events {
            batch_events.kinds[event.kind as usize] += 1;
            if let Some(queue_event) = queue_event(event) {
                batch_events.queue_events.push((event.queue.clone(), queue_event));
            }
        }
        batch_events
    }
}

fn queue_event(event: &Event) -> Option<QueueEvent> {
    if event.kind == EventType::Quarantined {
        Some(QueueEvent::Quarantined)
    } else if event.kind != EventType::LeaseExpired {
        None
    } else if event.from_state == Some(State::Compensating) {
        Some(QueueEvent::CompensationExpired)
    } else {
        Some(QueueEvent::ExecutionExpired)
    }
}
