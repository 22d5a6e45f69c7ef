//! Following all events.

use futures::{Stream, stream};

use crate::{
    domain::ids::{QueueName, Revision, TaskId},
    store::{
        EventQuery, Feed, Store, StoreError,
        vitals::{WatchKind, Watching},
    },
};

use super::{
    event_selection::EventSelection,
    follower::{Follower, Step},
};

/// What a watcher of events sees.
#[derive(Clone, Debug)]
pub enum EventItem {
    /// Events that follow each other, as far as they are wanted.
    Events(EventSelection),
    /// Nothing more happened up to here that is wanted.
    Bookmark(Revision),
}

enum At {
    Begin { feed: Feed, wanted: EventQuery, after: Option<Revision>, watching: Watching },
    Tail(Follower),
}

/// Follows the history of a saga, of some queues, or of all: first a bookmark where it begins, then what comes after
/// that, then bookmarks while nothing does. `after` absent: from now on.
///
/// Fails at once when `after` is not in the history any more, or never was; ends never.
pub fn watch_events(
    store: Store,
    task_id: Option<TaskId>,
    queues: Vec<QueueName>,
    after: Option<Revision>,
) -> impl Stream<Item = Result<EventItem, StoreError>> + Send + 'static {
    let feed = store.feed();
    let from = after.unwrap_or_else(|| feed.head());
    let watching = store.watching(WatchKind::Events, queues.clone(), task_id.is_some(), from);
    let wanted = EventQuery { task_id, queues, ..EventQuery::default() };
    stream::try_unfold(At::Begin { feed, wanted, after, watching }, async |at| match at {
        At::Begin { feed, wanted, after, watching } => {
            let follower = match after {
                Some(after) => Follower::resume(feed, wanted, after, watching).await?,
                None => {
                    let head = feed.head();
                    Follower::behind(feed, wanted, head, watching)
                }
            };
            Ok(Some((EventItem::Bookmark(follower.position()), At::Tail(follower))))
        }
        At::Tail(mut follower) => {
            let item = match follower.next_events().await? {
                Step::Next(events) => EventItem::Events(events),
                Step::Quiet(revision) => EventItem::Bookmark(revision),
            };
            Ok(Some((item, At::Tail(follower))))
        }
    })
}
