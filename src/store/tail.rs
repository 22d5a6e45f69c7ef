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
}

impl Tail {
    /// A tail that begins behind the newest event of a store.
    pub fn starting_at(head: Revision) -> Self {
        Tail { ring: RwLock::new(Ring { floor: head, events: VecDeque::new() }), head: watch::Sender::new(head) }
    }

    /// Adds committed events, in order, and wakes the followers. Called by the writer after each commit.
    pub fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let mut ring = self.ring.write();
        let mut newest = None;
        for event in events {
            newest = Some(event.revision);
            ring.events.push_back(Arc::new(event));
        }
        while ring.events.len() > EVENTS_KEPT {
            if let Some(event) = ring.events.pop_front() {
                ring.floor = event.revision;
            }
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
