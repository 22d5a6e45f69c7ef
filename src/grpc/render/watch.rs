//! What watchers are sent.

use crate::{
    proto,
    store::Moment,
    watch::{EventItem, StaleItem},
};

use super::{
    enums::{resolution, stale_cause},
    event::event,
    saga::saga,
    time,
};

/// An item of `WatchStale`.
pub fn stale_item(item: StaleItem, moment: &Moment) -> proto::WatchStaleResponse {
    use proto::watch_stale_response::Item;
    let (revision, item) = match item {
        StaleItem::Stale { revision, saga: found, task_id, owner, token, expire_time, cause } => {
            let stale = proto::StaleSaga {
                saga: found.map(|found| saga(&found, moment)),
                task_id: task_id.to_string(),
                owner_id: owner.to_string(),
                fencing_token: token.0,
                expire_time: Some(time(expire_time)),
                cause: stale_cause(cause).into(),
            };
            (revision, Item::Stale(stale))
        }
        StaleItem::Resolved { revision, task_id, resolution: became } => {
            let resolution = resolution(became).into();
            (revision, Item::Resolved(proto::ResolvedSaga { task_id: task_id.to_string(), resolution }))
        }
        StaleItem::Bookmark { revision, snapshot_end } => (revision, Item::Bookmark(proto::Bookmark { snapshot_end })),
    };
    proto::WatchStaleResponse { revision: revision.0, item: Some(item) }
}

/// An item of `WatchEvents`.
pub fn event_item(item: EventItem) -> proto::WatchEventsResponse {
    use proto::watch_events_response::Item;
    let (revision, item) = match item {
        EventItem::Event(one) => (one.revision, Item::Event(event(&one))),
        EventItem::Bookmark(revision) => (revision, Item::Bookmark(proto::Bookmark { snapshot_end: false })),
    };
    proto::WatchEventsResponse { revision: revision.0, item: Some(item) }
}
