//! Renders what watchers are sent.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::{
    domain::event::Event,
    proto,
    store::{Moment, recent_events::EncodedRun},
    watch::{EventItem, SelectionBytes, StaleItem},
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

/// An item of `WatchEvents` as one or more framed messages.
pub fn event_frames(item: &EventItem) -> Bytes {
    match item {
        EventItem::Events(events) => match events.encoded(encode_run) {
            SelectionBytes::All(bytes) => bytes.clone(),
            SelectionBytes::Parts(parts) => parts.concat().into(),
        },
        EventItem::Bookmark(revision) => {
            let bookmark = proto::watch_events_response::Item::Bookmark(proto::Bookmark { snapshot_end: false });
            frames(&[proto::WatchEventsResponse { revision: revision.0, item: Some(bookmark) }]).bytes
        }
    }
}

/// Events as framed messages. All watchers that may see them get the same bytes.
pub(in crate::grpc) fn encode_run(events: &[Arc<Event>]) -> EncodedRun {
    let message = |one: &Arc<Event>| proto::WatchEventsResponse {
        revision: one.revision.0,
        item: Some(proto::watch_events_response::Item::Event(event(one))),
    };
    frames(&events.iter().map(message).collect::<Vec<_>>())
}

/// Size of a message's prefix: a compression flag and the length. (gRPC over HTTP/2, Length-Prefixed-Message)
const PREFIX_BYTES: usize = 5;

/// Frames messages, not compressed, one after the other.
fn frames<M: Message>(messages: &[M]) -> EncodedRun {
    let lengths: Vec<usize> = messages.iter().map(Message::encoded_len).collect();
    // Allocates exactly what is needed: the buffer may be kept as long as the events.
    let mut bytes = BytesMut::with_capacity(lengths.iter().map(|length| PREFIX_BYTES + length).sum());
    let mut ends = Vec::with_capacity(messages.len());
    for (message, length) in messages.iter().zip(lengths) {
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(length).expect("an event is bounded to some KiB"));
        message.encode(&mut bytes).expect("such a buffer grows");
        ends.push(bytes.len());
    }
    EncodedRun { bytes: bytes.freeze(), ends }
}
