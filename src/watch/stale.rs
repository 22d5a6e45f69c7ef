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
    metrics::{OpenWatch, WatchKind},
    mutants::{self, Mutant},
    store::{EventQuery, PageBounds, SagaKey, ScanPage, Store, StoreError},
};

use super::{
    PAGE_BYTES,
    follower::{FollowStep, Follower},
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
enum StaleWatch {
    Begin { store: Store, queues: Vec<QueueName>, after: Option<Revision>, snapshot_only: bool, open_watch: OpenWatch },
    Snapshot(StaleSnapshot),
    Tail(Store, Follower),
    End,
}

struct StaleSnapshot {
    store: Store,
    queues: Vec<QueueName>,
    /// Sagas reported stale later come from the history.
    through: Revision,
    /// Everything up to here was returned or is in the page.
    position: Revision,
    page: VecDeque<(Revision, Saga)>,
    only: bool,
    open_watch: OpenWatch,
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
    let from = after.unwrap_or_else(|| store.event_feed().head());
    let open_watch = store.open_watch(WatchKind::Stale, queues.clone(), false, from);
    stream::try_unfold(StaleWatch::Begin { store, queues, after, snapshot_only, open_watch }, step)
}

async fn step(mut at: StaleWatch) -> Result<Option<(StaleItem, StaleWatch)>, StoreError> {
    loop {
        at = match at {
            StaleWatch::Begin { store, queues, after: Some(after), snapshot_only: _, open_watch } => {
                let follower = Follower::resume(store.event_feed(), marks(queues), after, open_watch).await?;
                StaleWatch::Tail(store, follower)
            }
            StaleWatch::Begin { store, queues, after: None, snapshot_only, open_watch } => {
                // The head is read first: what happens while the snapshot is read comes after it, from the history.
                let through = store.event_feed().head();
                StaleWatch::Snapshot(StaleSnapshot {
                    store,
                    queues,
                    through,
                    position: Revision::ZERO,
                    page: VecDeque::new(),
                    only: snapshot_only,
                    open_watch,
                })
            }
            StaleWatch::Snapshot(mut snapshot) => match snapshot.next().await? {
                Some(item) => return Ok(Some((item, StaleWatch::Snapshot(snapshot)))),
                None => {
                    let item = StaleItem::Bookmark { revision: snapshot.through, snapshot_end: true };
                    return Ok(Some((item, snapshot.into_tail())));
                }
            },
            StaleWatch::Tail(store, mut follower) => {
                let item = match follower.next_event().await? {
                    FollowStep::Quiet(revision) => StaleItem::Bookmark { revision, snapshot_end: false },
                    FollowStep::Next(event) => match tail_item(&store, &event).await? {
                        Some(item) => item,
                        None => {
                            at = StaleWatch::Tail(store, follower);
                            continue;
                        }
                    },
                };
                return Ok(Some((item, StaleWatch::Tail(store, follower))));
            }
            StaleWatch::End => return Ok(None),
        };
    }
}

impl StaleSnapshot {
    async fn next(&mut self) -> Result<Option<StaleItem>, StoreError> {
        while self.page.is_empty() && self.position < self.through {
            let mut bounds = SNAPSHOT_PAGE;
            if mutants::on(Mutant::WatchPagesUnbounded) {
                bounds.bytes = usize::MAX;
            }
            let ScanPage { found, through } =
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
    fn into_tail(self) -> StaleWatch {
        if self.only {
            return StaleWatch::End;
        }
        let follower =
            Follower::starting_after(self.store.event_feed(), marks(self.queues), self.through, self.open_watch);
        StaleWatch::Tail(self.store, follower)
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
