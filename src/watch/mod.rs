//! Watches: follow the history from a snapshot or a revision on, without end.
//!
//! A watcher misses nothing and gets nothing twice, because all events have one order, that of revisions, and a
//! watcher has one position in it: everything up to there was sent or is not wanted. It reads what follows from the
//! store's feed, which has the newest events in memory and reads older ones from the store. So a slow watcher costs
//! reads, and one page of memory ([`PAGE_BYTES`]). Watchers that keep up get the same runs of events and share their
//! encoding. (etcd `server/storage/mvcc/watchable_store.go` has synced and unsynced watchers; here each watcher pulls
//! for itself.)

mod event_selection;
mod events;
mod follower;
mod stale;

use crate::store::recent_events::RUN_BYTES;

pub use event_selection::{EventSelection, SelectionBytes};
pub use events::{EventItem, watch_events};
pub use stale::{StaleItem, watch_stale};

/// Most memory that a watch holds of what it has read and not sent: a few dozen events or sagas of the usual size.
/// Larger ones are read one at a time and sent at once; then the limits on calls and connections count them.
pub(crate) const PAGE_BYTES: usize = 16 << 10;
const _: () = assert!(RUN_BYTES <= PAGE_BYTES, "a run is handed out as a page");

#[cfg(test)]
mod tests;
