//! Watching stale sagas.

use std::{collections::VecDeque, sync::Arc};

use futures::{Stream, stream};

use crate::{
    domain::{
        event::{Event, Resolution, StaleMark},
        ids::{FencingToken, OwnerId, QueueName, Revision, TaskId},
        lease::StaleCause,
        saga::Saga,
        time::Timestamp,
    },
    mutants::{self, Mutant},
    store::{
        EventQuery, PageBounds, SagaKey, Store, StoreError, Stretch,
        vitals::{WatchKind, Watching},
    },
};

use super::{
    PAGE_BYTES,
    follower::{Follower, Step},
};

/// How much of a snapshot is read at once: a saga can be over a MiB, and each watcher holds a page.
const SNAPSHOT_PAGE: PageBounds = PageBounds { sagas: 16, bytes: PAGE_BYTES };

/// An item of a stale watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaleItem {
    /// A saga became stale.
    Stale {
        /// The revision of its `lease_expired` event.
        revision: Revision,
        /// As it is now; none if it was purged.
        saga: Option<Box<Saga>>,
        /// Which.
        task_id: TaskId,
        /// Whose lease ran out.
        owner: OwnerId,
        /// The lease's token.
        token: FencingToken,
        /// When the lease ended.
        expire_time: Timestamp,
        /// What bounded it.
        cause: StaleCause,
    },
    /// A saga is no longer stale.
    Resolved {
        /// The revision of the event that resolved it.
        revision: Revision,
        /// Which.
        task_id: TaskId,
        /// What became of it.
        resolution: Resolution,
    },
    /// Up to here nothing else happened.
    Bookmark {
        /// Up to where.
        revision: Revision,
        /// Whether the snapshot is complete with it.
        snapshot_end: bool,
    },
}

/// The state of a watch. Each step returns one item.
enum At {
    Begin { store: Store, queues: Vec<QueueName>, after: Option<Revision>, snapshot_only: bool, watching: Watching },
    Snapshot(Snapshot),
    Tail(Store, Follower),
    End,
}

struct Snapshot {
    store: Store,
    queues: Vec<QueueName>,
    /// Sagas reported stale later come from the history.
    through: Revision,
    /// Everything up to here was returned or is in the page.
    position: Revision,
    page: VecDeque<(Revision, Saga)>,
    only: bool,
    watching: Watching,
}

/// Watches which sagas of some queues are stale; no queues: all. Without `after`: first all that are stale now, each
/// with the revision of its `lease_expired` event and in that order, then a bookmark with `snapshot_end`; then, unless
/// `snapshot_only`, what happens next. With `after`: what happened after that revision, then what happens next.
///
/// A watcher can resume from every revision it received, even in the middle of a snapshot: what was stale up to it was
/// sent, and what happened after it is in the history.
pub fn watch_stale(
    store: Store,
    queues: Vec<QueueName>,
    after: Option<Revision>,
    snapshot_only: bool,
) -> impl Stream<Item = Result<StaleItem, StoreError>> + Send + 'static {
    // For the metrics, a snapshot is at the head that it shows.
    let from = after.unwrap_or_else(|| store.feed().head());
    let watching = store.watching(WatchKind::Stale, queues.clone(), false, from);
    stream::try_unfold(At::Begin { store, queues, after, snapshot_only, watching }, step)
}

async fn step(mut at: At) -> Result<Option<(StaleItem, At)>, StoreError> {
    loop {
        at = match at {
            At::Begin { store, queues, after: Some(after), snapshot_only: _, watching } => {
                let follower = Follower::resume(store.feed(), marks(queues), after, watching).await?;
                At::Tail(store, follower)
            }
            At::Begin { store, queues, after: None, snapshot_only, watching } => {
                // The head is read first: what happens while the snapshot is read comes after it, from the history.
                let through = store.feed().head();
                At::Snapshot(Snapshot {
                    store,
                    queues,
                    through,
                    position: Revision::ZERO,
                    page: VecDeque::new(),
                    only: snapshot_only,
                    watching,
                })
            }
            At::Snapshot(mut snapshot) => match snapshot.next().await? {
                Some(item) => return Ok(Some((item, At::Snapshot(snapshot)))),
                None => {
                    let item = StaleItem::Bookmark { revision: snapshot.through, snapshot_end: true };
                    return Ok(Some((item, snapshot.behind())));
                }
            },
            At::Tail(store, mut follower) => {
                let item = match follower.next_event().await? {
                    Step::Quiet(revision) => StaleItem::Bookmark { revision, snapshot_end: false },
                    Step::Next(event) => match tail_item(&store, &event).await? {
                        Some(item) => item,
                        None => {
                            at = At::Tail(store, follower);
                            continue;
                        }
                    },
                };
                return Ok(Some((item, At::Tail(store, follower))));
            }
            At::End => return Ok(None),
        };
    }
}

impl Snapshot {
    async fn next(&mut self) -> Result<Option<StaleItem>, StoreError> {
        while self.page.is_empty() && self.position < self.through {
            let mut bounds = SNAPSHOT_PAGE;
            if mutants::on(Mutant::WatchPagesUnbounded) {
                bounds.bytes = usize::MAX;
            }
            let Stretch { found, through } =
                self.store.stale(self.queues.clone(), self.position, self.through, bounds).await?;
            (self.page, self.position) = (found.into(), through);
        }
        let Some((revision, saga)) = self.page.pop_front() else { return Ok(None) };
        let Some(lease) = &saga.lease else {
            return Err(StoreError::Corrupt(format!("{} is reported stale without a lease", saga.task_id())));
        };
        let (expire_time, cause) = lease.end();
        Ok(Some(StaleItem::Stale {
            revision,
            task_id: saga.task_id().clone(),
            owner: lease.owner.clone(),
            token: lease.token,
            expire_time,
            cause,
            saga: Some(Box::new(saga)),
        }))
    }

    /// The state after the snapshot.
    fn behind(self) -> At {
        if self.only {
            return At::End;
        }
        let follower = Follower::behind(self.store.feed(), marks(self.queues), self.through, self.watching);
        At::Tail(self.store, follower)
    }
}

fn marks(queues: Vec<QueueName>) -> EventQuery {
    EventQuery { queues, marked_only: true, ..EventQuery::default() }
}

/// The item for an event; none if it has no mark.
async fn tail_item(store: &Store, event: &Arc<Event>) -> Result<Option<StaleItem>, StoreError> {
    let (revision, task_id) = (event.revision, event.task_id.clone());
    match &event.mark {
        None => Ok(None),
        Some(StaleMark::Resolved(resolution)) => {
            Ok(Some(StaleItem::Resolved { revision, task_id, resolution: *resolution }))
        }
        Some(StaleMark::Stale { owner, token, expire_time, cause }) => {
            // Loaded by saga_id: if the saga was purged, its task_id may belong to another one in another queue by
            // now.
            let saga = store.get(SagaKey::Saga(event.saga_id.clone())).await?;
            Ok(Some(StaleItem::Stale {
                revision,
                saga: saga.map(Box::new),
                task_id,
                owner: owner.clone(),
                token: *token,
                expire_time: *expire_time,
                cause: *cause,
            }))
        }
    }
}
