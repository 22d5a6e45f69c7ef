//! [`RecentEvents`]: the newest events, in memory.
//!
//! Events are kept in runs: what was committed together, split if it is large. Followers that keep up get the same
//! runs and share their encoding ([`EventRun::encoded`]). Followers that fall behind read from the store. So the
//! memory is bounded by this one ring, whatever the number and speed of followers.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    domain::{event::Event, ids::Revision},
    mutants::{self, Mutant},
};

/// Most events kept: enough for a follower that is a few busy seconds behind.
const EVENTS_KEPT: usize = 8192;
/// Most memory of the events and their encodings: 2 KiB for each event. Usually one takes less than 1 KiB; the largest
/// takes over 50 KiB.
pub(crate) const RECENT_EVENTS_BYTES: usize = 16 << 20;
/// Most memory of a run's events: a few dozen of the usual size; a larger event is a run of its own. A follower sends
/// one run at a time, so this is what it holds. The encoding of a run fits into one HTTP/2 frame.
pub(crate) const RUN_BYTES: usize = 16 << 10;

/// The newest committed events, and a signal when there are more. Whoever learns first what is committed adds them.
#[derive(Debug)]
pub struct RecentEvents {
    ring: RwLock<Ring>,
    head: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Ring {
    /// All events after this one are in `runs`.
    floor: Revision,
    runs: VecDeque<Arc<EventRun>>,
    /// The number of events in `runs`.
    events: usize,
    /// The memory of the events and their encodings, including encodings that were not made yet.
    bytes: usize,
}

/// Consecutive events of the history; at least one.
#[derive(Debug)]
pub struct EventRun {
    events: Vec<Arc<Event>>,
    /// The memory of the events.
    bytes: usize,
    encoded: OnceLock<EncodedRun>,
}

/// The concatenated encodings of a run's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedRun {
    /// All of them.
    pub bytes: Bytes,
    /// Where each of them ends.
    pub ends: Vec<usize>,
}

impl EventRun {
    /// A run of these events, which are in order of revision; `None` if there are none.
    fn of(events: Vec<Arc<Event>>) -> Option<Self> {
        let bytes = events.iter().map(|event| event.weight()).sum();
        (!events.is_empty()).then(|| EventRun { events, bytes, encoded: OnceLock::new() })
    }

    /// The events, in order of revision.
    pub fn events(&self) -> &[Arc<Event>] {
        &self.events
    }

    /// The revision of the last one.
    pub fn end(&self) -> Revision {
        self.events.last().map_or(Revision::ZERO, |event| event.revision)
    }

    /// Their encoding, made by the first follower that needs it and shared by all that hold the run. It must be the
    /// same whoever makes it, and no larger than the memory of the events.
    pub fn encoded(&self, encode: impl FnOnce(&[Arc<Event>]) -> EncodedRun) -> &EncodedRun {
        self.encoded.get_or_init(|| encode(&self.events))
    }

    /// The run's part of [`RECENT_EVENTS_BYTES`]: its events, and an encoding of at most the same size.
    fn weight(&self) -> usize {
        2 * self.bytes
    }
}

/// What follows a revision.
#[derive(Clone, Debug)]
pub(super) enum NextRun {
    /// A run that ends after it. It may begin before it.
    Run(Arc<EventRun>),
    /// Nothing was committed since.
    UpToDate,
    /// Some of it is no longer in memory.
    NotKept,
}

impl RecentEvents {
    /// Starts empty after the newest event of a store.
    pub fn starting_at(head: Revision) -> Self {
        RecentEvents {
            ring: RwLock::new(Ring { floor: head, runs: VecDeque::new(), events: 0, bytes: 0 }),
            head: watch::Sender::new(head),
        }
    }

    /// Adds committed events, in order, and wakes the followers. Called after each commit.
    pub fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let runs = runs(events);
        let Some(newest) = runs.last().map(EventRun::end) else { return };
        let mut ring = self.ring.write();
        for run in runs {
            ring.events += run.events.len();
            ring.bytes += run.weight();
            ring.runs.push_back(Arc::new(run));
        }
        while ring.events > EVENTS_KEPT || ring.bytes > RECENT_EVENTS_BYTES {
            let Some(run) = ring.runs.pop_front() else { break };
            ring.events -= run.events.len();
            ring.bytes -= run.weight();
            ring.floor = run.end();
        }
        drop(ring);
        self.head.send_replace(newest);
    }

    /// The newest durable revision.
    pub(super) fn head(&self) -> Revision {
        *self.head.borrow()
    }

    /// A signal that carries the newest durable revision.
    pub(super) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.head.subscribe()
    }

    /// The run that contains the first event after a revision.
    pub(super) fn next_run(&self, after: Revision) -> NextRun {
        let ring = self.ring.read();
        if after < ring.floor {
            return NextRun::NotKept;
        }
        // Fast path: a follower that keeps up needs the newest run.
        let newest = ring.runs.len().saturating_sub(1);
        let place = match ring.runs.get(newest.wrapping_sub(1)) {
            Some(before) if before.end() == after => newest,
            Some(_) | None => ring.runs.partition_point(|run| run.end() <= after),
        };
        ring.runs.get(place).map_or(NextRun::UpToDate, |run| NextRun::Run(run.clone()))
    }
}

/// Splits consecutive events into runs.
pub(super) fn runs(events: impl IntoIterator<Item = Event>) -> Vec<EventRun> {
    let (mut runs, mut run, mut bytes) = (Vec::new(), Vec::new(), 0);
    for event in events {
        let weight = event.weight();
        if bytes + weight > RUN_BYTES && !mutants::on(Mutant::WatchPagesUnbounded) {
            runs.extend(EventRun::of(std::mem::take(&mut run)));
            bytes = 0;
        }
        bytes += weight;
        run.push(Arc::new(event));
    }
    runs.extend(EventRun::of(run));
    runs
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{
        event::EventType,
        ids::{QueueName, TaskId},
        saga::State,
        time::Timestamp,
    };

    pub(in super::super) fn event(revision: i64, bytes: usize) -> Event {
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

    /// The revisions of all events after this one; none if they are no longer kept.
    fn after(recent: &RecentEvents, mut revision: Revision) -> Option<Vec<i64>> {
        let mut found = Vec::new();
        loop {
            match recent.next_run(revision) {
                NextRun::Run(run) => {
                    assert!(run.end() > revision);
                    found
                        .extend(run.events().iter().map(|event| event.revision).filter(|r| *r > revision).map(|r| r.0));
                    revision = run.end();
                }
                NextRun::UpToDate => return Some(found),
                NextRun::NotKept => return None,
            }
        }
    }

    #[test]
    fn p10_kept_events_are_bounded_by_number_and_bytes() {
        const LARGE: usize = 25 << 10;
        for (bytes, kept) in [(1, EVENTS_KEPT), (LARGE, RECENT_EVENTS_BYTES / 2 / event(1, LARGE).weight())] {
            let recent = RecentEvents::starting_at(Revision::ZERO);
            let last = EVENTS_KEPT as i64 + 10;
            (1..=last).for_each(|revision| recent.publish([event(revision, bytes)]));
            let floor = Revision(last - kept as i64);
            assert_eq!(after(&recent, floor).map(|events| events.len()), Some(kept));
            assert_eq!(after(&recent, Revision(floor.0 - 1)), None, "older events are not kept");
        }
    }

    #[test]
    fn a_large_commit_is_split_into_runs() {
        let recent = RecentEvents::starting_at(Revision(7));
        assert!(matches!(recent.next_run(Revision(7)), NextRun::UpToDate));
        let fit = RUN_BYTES / event(1, 100).weight();
        let small = 3 * fit as i64 + 1;
        recent.publish((10..10 + small).map(|revision| event(revision, 100)));
        recent.publish([event(1000, 100), event(1001, RUN_BYTES), event(1003, 100), event(1004, 100)]);
        let mut lengths = Vec::new();
        let mut position = Revision(7);
        while let NextRun::Run(run) = recent.next_run(position) {
            lengths.push(run.events().len());
            position = run.end();
        }
        assert_eq!(lengths, [fit, fit, fit, 1, 1, 1, 2]);
        let all: Vec<i64> = (10..10 + small).chain([1000, 1001, 1003, 1004]).collect();
        for from in 7..=1005 {
            let expected: Vec<i64> = all.iter().copied().filter(|revision| *revision > from).collect();
            assert_eq!(after(&recent, Revision(from)), Some(expected), "from {from}");
        }
        assert_eq!(after(&recent, Revision(6)), None);
    }

    #[test]
    fn a_run_is_encoded_once() {
        let recent = RecentEvents::starting_at(Revision::ZERO);
        recent.publish([event(1, 1), event(2, 1)]);
        let mut made = 0;
        for _ in 0..3 {
            let NextRun::Run(run) = recent.next_run(Revision::ZERO) else { panic!("it is kept") };
            let encoded = run.encoded(|events| {
                made += 1;
                EncodedRun { bytes: Bytes::from_static(b"12"), ends: (1..=events.len()).collect() }
            });
            assert_eq!((&encoded.bytes[..], &encoded.ends[..]), (&b"12"[..], &[1, 2][..]));
        }
        assert_eq!(made, 1);
    }
}
