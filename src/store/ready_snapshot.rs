//! [`ReadySnapshot`]: how many sagas are ready in each queue, as counted a moment ago.
//!
//! Counting goes through an index entry by entry: about 30 ms per million. So if many are ready, the result is reused for
//! a while, in proportion to its cost; if few are, it is counted anew each time.

use std::collections::BTreeMap;

use crate::domain::time::{Span, Timestamp};

/// For each this many entries the result is reused for a millisecond: counting then takes about 3 % of the time.
const ENTRIES_PER_MILLISECOND: u64 = 1000;
/// The longest that a result is reused.
const KEPT: Span = Span::from_secs(60);

/// The ready sagas of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyCount {
    /// How many sagas.
    pub sagas: u64,
    /// Since when the oldest is ready.
    pub since: Option<Timestamp>,
}

/// A result, when it was made, and its cost.
#[derive(Clone, Debug, Default)]
pub struct ReadySnapshot {
    /// When it was made.
    pub at: Timestamp,
    /// Index entries that were counted, or what cost as much.
    pub entries: u64,
    /// By the number of the queue; queues without any are left out.
    pub by_queue: BTreeMap<i64, ReadyCount>,
}

impl ReadySnapshot {
    /// True if the result may still be used.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        let kept = u32::try_from(self.entries / ENTRIES_PER_MILLISECOND).map_or(KEPT, Span::from_millis).min(KEPT);
        self.at <= now && now.since(self.at) < kept
    }
}
