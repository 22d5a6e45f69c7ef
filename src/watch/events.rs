//! Watching events.

use futures::{Stream, stream};

use crate::{
    domain::ids::{QueueName, Revision, TaskId},
    metrics::{OpenWatch, WatchKind},
    store::{EventFeed, EventQuery, Store, StoreError},
};

use super::{
    event_selection::EventSelection,
    follower::{FollowStep, Follower},
};

/// An item of an event watch.
#[derive(Clone, Debug)]
pub enum EventItem {
    /// Consecutive events, as far as they are wanted.
    Events(EventSelection),
    /// Up to here nothing else is wanted.
    Bookmark(Revision),
}

enum EventWatch {
    Begin { feed: EventFeed, wanted: EventQuery, after: Option<Revision>, open_watch: OpenWatch },
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
    let feed = store.event_feed();
    let from = after.unwrap_or_else(|| feed.head());
    let open_watch = store.open_watch(WatchKind::Events, queues.clone(), task_id.is_some(), from);
    let wanted = EventQuery { task_id, queues, ..EventQuery::default() };
    stream::try_unfold(EventWatch::Begin { feed, wanted, after, open_watch }, async |at| match at {
        EventWatch::Begin { feed, wanted, after, open_watch } => {
            let follower = match after {
                Some(after) => Follower::resume(feed, wanted, after, open_watch).await?,
                None => {
                    let head = feed.head();
                    Follower::starting_after(feed, wanted, head, open_watch)
                }
            };
            Ok(Some((EventItem::Bookmark(follower.position()), EventWatch::Tail(follower))))
        }
        EventWatch::Tail(mut follower) => {
            let item = match follower.next_events().await? {
                FollowStep::Next(events) => EventItem::Events(events),
                FollowStep::Quiet(revision) => EventItem::Bookmark(revision),
            };
            Ok(Some((item, EventWatch::Tail(follower))))
        }
    })
}
