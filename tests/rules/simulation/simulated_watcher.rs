//! [`SimulatedWatcher`]: a watcher that is disconnected and resumes after its last revision. It compares what it receives with
//! the history (P7).

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use sagad::{
    domain::{
        event::{Event, StaleMark},
        ids::{QueueName, Revision},
    },
    store::{
        Store, StoreError,
        memory::{Memory, StoredData},
    },
    watch::{EventItem, StaleItem, watch_events, watch_stale},
};
use tokio::runtime::Runtime;

use super::promise_checker::PromiseChecker;

enum WatchItem {
    /// A selected event; complete if the watch sends complete events.
    Event(Revision, Option<Box<Event>>),
    /// Everything up to here was sent; true: by a snapshot.
    Through(Revision, bool),
}

type WatchItems = Pin<Box<dyn Stream<Item = Result<WatchItem, StoreError>>>>;

/// A watcher and its position.
pub struct SimulatedWatcher {
    queues: Vec<QueueName>,
    stale: bool,
    items: Option<WatchItems>,
    position: Option<Revision>,
    /// A snapshot contains only sagas that are stale now.
    in_snapshot: bool,
    snapshot: Vec<Revision>,
    pub seen: u64,
    /// How often its position was compacted.
    pub compacted: u64,
}

/// The stored data and the whole history.
pub type KnownData<'a> = (&'a Memory, &'a PromiseChecker);

impl SimulatedWatcher {
    pub fn new(queues: Vec<QueueName>, stale: bool) -> Self {
        SimulatedWatcher {
            queues,
            stale,
            items: None,
            position: None,
            in_snapshot: false,
            snapshot: Vec::new(),
            seen: 0,
            compacted: 0,
        }
    }

    pub fn disconnect(&mut self) {
        self.items = None;
    }

    fn begin(&mut self, store: &Store, skip: bool) -> WatchItems {
        let mut after = self.position;
        if let (Some(after), true) = (&mut after, skip) {
            *after = store.event_feed().head();
        }
        if self.stale {
            self.in_snapshot = after.is_none();
            self.snapshot.clear();
            Box::pin(watch_stale(store.clone(), self.queues.clone(), after, false).map(|item| {
                Ok(match item? {
                    StaleItem::Stale { revision, .. } | StaleItem::Resolved { revision, .. } => {
                        WatchItem::Event(revision, None)
                    }
                    StaleItem::Bookmark { revision, snapshot_end } => WatchItem::Through(revision, snapshot_end),
                })
            }))
        } else {
            let after = after.or(Some(Revision::ZERO));
            Box::pin(watch_events(store.clone(), None, self.queues.clone(), after).flat_map(|item| {
                let event =
                    |event: &Arc<Event>| Ok(WatchItem::Event(event.revision, Some(Box::new(Event::clone(event)))));
                stream::iter(match item {
                    Ok(EventItem::Events(wanted)) => wanted.events().map(event).collect(),
                    Ok(EventItem::Bookmark(revision)) => vec![Ok(WatchItem::Through(revision, false))],
                    Err(error) => vec![Err(error)],
                })
            }))
        }
    }

    /// Takes at most `limit` items, and compares them with the history.
    pub fn watch(
        &mut self,
        runtime: &Runtime,
        store: &Store,
        (disk, checker): KnownData<'_>,
        limit: usize,
        skip: bool,
    ) {
        let mut items = match self.items.take() {
            Some(items) => items,
            None => self.begin(store, skip),
        };
        let (taken, compacted) = runtime.block_on(async {
            let mut taken = Vec::new();
            while taken.len() < limit {
                match tokio::time::timeout(Duration::from_millis(1), items.next()).await {
                    Ok(item) => match item.expect("a watch has no end") {
                        Ok(item) => taken.push(item),
                        Err(StoreError::Compacted { oldest }) => return (taken, Some(oldest)),
                        Err(other) => panic!("a watch fails: {other:?}"),
                    },
                    Err(_) => return (taken, None),
                }
            }
            (taken, Some(Revision::ZERO))
        });
        self.items = Some(items);
        let facts = disk.data();
        for item in taken {
            self.compare(item, &facts, checker);
        }
        if let Some(oldest) = compacted.filter(|oldest| *oldest > Revision::ZERO) {
            assert!(
                self.position.is_none_or(|position| position < oldest),
                "P7: the position was refused although its revisions are stored"
            );
            self.compacted += 1;
            // It starts again: with a snapshot, or from the oldest stored event.
            (self.items, self.position) = (None, Some(oldest).filter(|_| !self.stale));
        } else if compacted.is_none()
            && let Some(position) = self.position
        {
            let missed = self.wanted(checker, position, facts.head());
            assert!(missed.is_none(), "P7: a watcher at {position} was not sent {missed:?}");
        }
    }

    /// The first selected event after a revision.
    fn wanted<'a>(&self, checker: &'a PromiseChecker, after: Revision, through: Revision) -> Option<&'a Event> {
        let until = checker.after(after).iter().take_while(|event| event.revision <= through);
        let mut wanted = until.filter(|event| self.queues.is_empty() || self.queues.contains(&event.queue));
        wanted.find(|event| !self.stale || event.mark.is_some())
    }

    /// A saga that has been stale since before the snapshot must be in it.
    fn complete(&self, through: Revision, facts: &StoredData) {
        for saga in facts.sagas() {
            if let Some(revision) = saga.reported_stale().filter(|revision| *revision <= through)
                && (self.queues.is_empty() || self.queues.contains(&saga.spec.queue))
            {
                assert!(self.snapshot.contains(&revision), "P7: a snapshot lacks {:?}", saga.task_id());
            }
        }
    }

    fn compare(&mut self, item: WatchItem, facts: &StoredData, checker: &PromiseChecker) {
        let position = self.position.unwrap_or(Revision::ZERO);
        match item {
            WatchItem::Event(revision, event) if self.in_snapshot => {
                assert!(event.is_none() && revision > position, "P7: a snapshot is in order");
                let there = checker.after(Revision(revision.0 - 1)).first().expect("it happened");
                assert!(there.revision == revision && matches!(there.mark, Some(StaleMark::Stale { .. })), "{there:?}");
                self.snapshot.push(revision);
                self.position = Some(revision);
            }
            WatchItem::Event(revision, event) => {
                self.seen += 1;
                let next = self.wanted(checker, position, revision).expect("P7: it happened");
                assert_eq!(next.revision, revision, "P7: a watcher at {position} missed {next:?}");
                if let Some(event) = event {
                    assert_eq!(*event, *next, "P7: sent as it happened");
                }
                self.position = Some(revision);
            }
            WatchItem::Through(revision, snapshot_end) => {
                assert!(revision >= position && revision <= facts.head(), "P7: bookmarks never go back");
                if !self.in_snapshot {
                    let missed = self.wanted(checker, position, revision);
                    assert!(missed.is_none(), "P7: a bookmark at {revision} passes over {missed:?}");
                }
                if snapshot_end {
                    self.complete(revision, facts);
                }
                self.in_snapshot &= !snapshot_end;
                self.position = Some(revision);
            }
        }
    }
}
