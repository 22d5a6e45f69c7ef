//! FLOOR 3: following the history. A snapshot, or a revision to resume from; then the tail, without end.
//!
//! A watcher misses nothing and sees nothing twice, because there is one order, that of revisions, and one position in
//! it: everything up to there was sent, or is none of the watcher's concern. What comes next it asks
//! the store's feed, which has the newest events in memory and reads older ones; so a slow watcher costs reads, and memory for
//! one page of [`PAGE_BYTES`]. Watchers that are in step are handed the same runs of events, and share their encoding.
//! (etcd `server/storage/mvcc/watchable_store.go`: synced and unsynced watchers; here each watcher pulls for itself.)

mod event_selection;
mod events;
mod follower;
mod stale;

use crate::store::recent_events::RUN_BYTES;

pub use event_selection::{EventSelection, SelectionBytes};
pub use events::{EventItem, watch_events};
pub use stale::{StaleItem, watch_stale};

/// Most memory that a watch holds of what it has read and not handed out: some dozens of events or sagas of the usual size.
/// What is larger is read one at a time and handed out at once, after which the limits on calls and connections count it.
pub(crate) const PAGE_BYTES: usize = 16 << 10;
const _: () = assert!(RUN_BYTES <= PAGE_BYTES, "a run is handed out as a page");

#[cfg(test)]
mod tests;
