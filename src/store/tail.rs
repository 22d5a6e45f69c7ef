//! The end of the history, in memory: what was committed lately, for those who follow it.
//!
//! Followers that fall behind what is kept here read the store instead; so the memory is bounded by this one ring,
//! whatever the number and the pace of its readers.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::domain::{event::Event, ids::Revision};

/// Events kept: enough for a follower that is a few busy seconds behind.
const EVENTS_KEPT: usize = 8192;
/// Most memory of them: 2 KiB for each, where one of a few hundred bytes is usual and the largest takes over 25 KiB.
pub(crate) const TAIL_BYTES: usize = 16 << 20;

/// The newest committed events, and a signal when there are more.
#[derive(Debug)]
pub struct Tail {
    ring: RwLock<Ring>,
    head: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Ring {
    /// All events after this one are in `events`.
    floor: Revision,
    events: VecDeque<Arc<Event>>,
    /// What they weigh.
    bytes: usize,
}

impl Tail {
    /// A tail that begins behind the newest event of a store.
    pub fn starting_at(head: Revision) -> Self {
        Tail {
            ring: RwLock::new(Ring { floor: head, events: VecDeque::new(), bytes: 0 }),
            head: watch::Sender::new(head),
        }
    }

    /// Adds committed events, in order, and wakes the followers. Called by the writer after each commit.
    pub fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let mut ring = self.ring.write();
        let mut newest = None;
        for event in events {
            newest = Some(event.revision);
            ring.bytes += event.weight();
            ring.events.push_back(Arc::new(event));
        }
        while ring.events.len() > EVENTS_KEPT || ring.bytes > TAIL_BYTES {
            let Some(event) = ring.events.pop_front() else { break };
            ring.bytes -= event.weight();
            ring.floor = event.revision;
        }
        drop(ring);
        if let Some(revision) = newest {
            self.head.send_replace(revision);
        }
    }

    /// The newest durable revision.
    pub fn head(&self) -> Revision {
        *self.head.borrow()
    }

    /// A signal that carries the newest durable revision.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }

    /// At most `limit` events after a revision, in order; `None` if some of them are not kept any more.
    pub fn after(&self, revision: Revision, limit: usize) -> Option<Vec<Arc<Event>>> {
        let ring = self.ring.read();
        if revision < ring.floor {
            return None;
        }
        let start = ring.events.partition_point(|event| event.revision <= revision);
        Some(ring.events.iter().skip(start).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        event::EventType,
        ids::{QueueName, TaskId},
        saga::State,
        time::Timestamp,
    };

    fn event(revision: i64, bytes: usize) -> Event {
        let task_id = TaskId::parse("t").unwrap();
        Event {
            revision: Revision(revision),
            saga_id: task_id.to_saga_id(),
            task_id,
            queue: QueueName::parse("q").unwrap(),
            time: Timestamp::ZERO,
            kind: EventType::Annotated,
            actor: None,
            reason: "r".repeat(bytes).into(),
            from_state: None,
            to_state: State::Planned,
            token: None,
            details: Default::default(),
            mark: None,
        }
    }

    #[test]
    fn p10_what_is_kept_is_bounded_by_number_and_by_bytes() {
        const LARGE: usize = 25 << 10;
        for (bytes, kept) in [(1, EVENTS_KEPT), (LARGE, TAIL_BYTES / event(1, LARGE).weight())] {
            let tail = Tail::starting_at(Revision::ZERO);
            let last = EVENTS_KEPT as i64 + 10;
            (1..=last).for_each(|revision| tail.publish([event(revision, bytes)]));
            let floor = Revision(last - kept as i64);
            assert_eq!(tail.after(floor, usize::MAX).map(|events| events.len()), Some(kept));
            assert_eq!(tail.after(Revision(floor.0 - 1), usize::MAX), None, "what is older is read from the store");
        }
    }
}
