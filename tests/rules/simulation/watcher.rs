//! Watchers that are cut off and resume from the last revision they saw: their record must equal the history (P7).

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

use super::judge::Judge;

enum Item {
    /// A wanted event, whole if the watch sends it whole.
    Event(Revision, Option<Box<Event>>),
    /// Everything up to here was sent; true: as a snapshot.
    Through(Revision, bool),
}

type Items = Pin<Box<dyn Stream<Item = Result<Item, StoreError>>>>;

/// One watcher, and how far its record goes.
pub struct Watcher {
    queues: Vec<QueueName>,
    stale: bool,
    items: Option<Items>,
    position: Option<Revision>,
    /// In a snapshot only what is stale now is sent.
    in_snapshot: bool,
    snapshot: Vec<Revision>,
    pub seen: u64,
    /// How often it was told that what it wants is compacted.
    pub compacted: u64,
}

/// What is stored, and what ever happened.
pub type Known<'a> = (&'a Memory, &'a Judge);

impl Watcher {
    pub fn new(queues: Vec<QueueName>, stale: bool) -> Self {
        Watcher {
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

    pub fn cut_off(&mut self) {
        self.items = None;
    }

    fn begin(&mut self, store: &Store, skip: bool) -> Items {
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
                        Item::Event(revision, None)
                    }
                    StaleItem::Bookmark { revision, snapshot_end } => Item::Through(revision, snapshot_end),
                })
            }))
        } else {
            let after = after.or(Some(Revision::ZERO));
            Box::pin(watch_events(store.clone(), None, self.queues.clone(), after).flat_map(|item| {
                let event = |event: &Arc<Event>| Ok(Item::Event(event.revision, Some(Box::new(Event::clone(event)))));
                stream::iter(match item {
                    Ok(EventItem::Events(wanted)) => wanted.events().map(event).collect(),
                    Ok(EventItem::Bookmark(revision)) => vec![Ok(Item::Through(revision, false))],
                    Err(error) => vec![Err(error)],
                })
            }))
        }
    }

    /// Takes at most `limit` items, and compares them with the history.
    pub fn watch(&mut self, runtime: &Runtime, store: &Store, (disk, judge): Known<'_>, limit: usize, skip: bool) {
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
            self.compare(item, &facts, judge);
        }
        if let Some(oldest) = compacted.filter(|oldest| *oldest > Revision::ZERO) {
            assert!(self.position.is_none_or(|position| position < oldest), "P7: what follows a position was there");
            self.compacted += 1;
            // It begins anew: with a snapshot, or with what there is.
            (self.items, self.position) = (None, Some(oldest).filter(|_| !self.stale));
        } else if compacted.is_none()
            && let Some(position) = self.position
        {
            let missed = self.wanted(judge, position, facts.head());
            assert!(missed.is_none(), "P7: a watcher at {position} was not sent {missed:?}");
        }
    }

    /// The first event of its concern behind a revision.
    fn wanted<'a>(&self, judge: &'a Judge, after: Revision, through: Revision) -> Option<&'a Event> {
        let until = judge.after(after).iter().take_while(|event| event.revision <= through);
        let mut wanted = until.filter(|event| self.queues.is_empty() || self.queues.contains(&event.queue));
        wanted.find(|event| !self.stale || event.mark.is_some())
    }

    /// What is still stale, and was when the snapshot began, must have been in it.
    fn complete(&self, through: Revision, facts: &StoredData) {
        for saga in facts.sagas() {
            if let Some(revision) = saga.reported_stale().filter(|revision| *revision <= through)
                && (self.queues.is_empty() || self.queues.contains(&saga.spec.queue))
            {
                assert!(self.snapshot.contains(&revision), "P7: a snapshot lacks {:?}", saga.task_id());
            }
        }
    }

    fn compare(&mut self, item: Item, facts: &StoredData, judge: &Judge) {
        let position = self.position.unwrap_or(Revision::ZERO);
        match item {
            Item::Event(revision, event) if self.in_snapshot => {
                assert!(event.is_none() && revision > position, "P7: a snapshot is in order");
                let there = judge.after(Revision(revision.0 - 1)).first().expect("it happened");
                assert!(there.revision == revision && matches!(there.mark, Some(StaleMark::Stale { .. })), "{there:?}");
                self.snapshot.push(revision);
                self.position = Some(revision);
            }
            Item::Event(revision, event) => {
                self.seen += 1;
                let next = self.wanted(judge, position, revision).expect("P7: it happened");
                assert_eq!(next.revision, revision, "P7: a watcher at {position} missed {next:?}");
                if let Some(event) = event {
                    assert_eq!(*event, *next, "P7: sent as it happened");
                }
                self.position = Some(revision);
            }
            Item::Through(revision, snapshot_end) => {
                assert!(revision >= position && revision <= facts.head(), "P7: bookmarks never go back");
                if !self.in_snapshot {
                    let missed = self.wanted(judge, position, revision);
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
