//! FLOOR 2: following the history. A snapshot, or a revision to resume from; then the tail, without end.
//!
//! A watcher misses nothing and sees nothing twice, because there is one order, that of revisions, and one position in
//! it: everything up to there was sent, or is none of the watcher's concern. What comes next is read from the ring of
//! the newest events, or from the store when the ring has moved on; so a slow watcher costs reads and no memory.
//! (etcd `server/storage/mvcc/watchable_store.go`: synced and unsynced watchers; here each watcher pulls for itself.)

mod events;
mod follower;
mod stale;

pub use events::{EventItem, watch_events};
pub use stale::{StaleItem, watch_stale};

#[cfg(test)]
mod tests;
