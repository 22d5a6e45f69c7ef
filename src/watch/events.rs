//! Watching events.

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

/// An item of an event watch.
#[derive(Clone, Debug)]
pub enum EventItem {
    /// Consecutive events, as far as they are wanted.
    Events(EventSelection),
    /// Up to here nothing else is wanted.
    Bookmark(Revision),
}

enum At {
    Begin { feed: Feed, wanted: EventQuery, after: Option<Revision>, watching: Watching },
    Tail(Follower),
}

/// Watches the events of a saga, of some queues, or of all queues: first a bookmark with the start, then the events
/// after it, and bookmarks while there are none. `after` absent: from now on.
///
/// Fails at once if `after` is no longer in the history, or never was. Never ends.
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
