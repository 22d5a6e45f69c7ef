//! Counts ready sagas, and since when the oldest is ready, from the index that `ClaimNext` uses.
//!
//! The index is counted entry by entry: about 30 ms per million. So if many are ready, the result is reused for a
//! while, in proportion to its cost; if few are, it is always that of the snapshot.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension};

use crate::domain::time::{Span, Timestamp};

use super::{decode::corrupt_value, error::SqliteError, rare_fields::RareFields, sql};

/// For each this many entries the result is reused for a millisecond: counting then takes about 3 % of the time.
const ENTRIES_PER_MILLISECOND: u64 = 1000;
/// The cost of a row in entries: three lookups instead of one step.
const ENTRIES_PER_ROW: u64 = 30;
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
    at: Timestamp,
    entries: u64,
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

/// Counts ready sagas.
pub fn count_ready(connection: &Connection, at: Timestamp) -> Result<ReadySnapshot, SqliteError> {
    let mut look = ReadySnapshot { at, ..ReadySnapshot::default() };
    let mut statement = connection.prepare_cached(sql::READY_COUNTS)?;
    let counted = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).and_then(Iterator::collect);
    let counted: Vec<(i64, u64)> = counted?;
    for (queue, sagas) in counted {
        let (since, rows) = oldest(connection, queue)?;
        look.entries += sagas + rows * ENTRIES_PER_ROW;
        look.by_queue.insert(queue, ReadyCount { sagas, since });
    }
    Ok(look)
}

/// Since when the oldest ready saga of a queue is ready, and how many rows were read: a few for each priority, unless
/// many were delayed for longer than it took to create the rest.
fn oldest(connection: &Connection, queue: i64) -> Result<(Option<Timestamp>, u64), rusqlite::Error> {
    let mut priorities = connection.prepare_cached(sql::READY_PRIORITY)?;
    let mut statement = connection.prepare_cached(sql::READY_SINCE)?;
    let (mut oldest, mut looked_at, mut below) = (None, 0, i64::MAX);
    while let Some(priority) = priorities.query_row([queue, below], |row| row.get::<_, i64>(0)).optional()? {
        let mut rows = statement.query([queue, priority])?;
        while let Some(row) = rows.next()? {
            looked_at += 1;
            let created: i64 = row.get(1)?;
            let more = RareFields::parse(row.get_ref(2)?.as_str_or_null()?).map_err(corrupt_value)?;
            let since = more.not_before.map_or(created, |time| created.max(time.micros()));
            // A saga is never ready before its creation, and those that follow were created later.
            if oldest.is_some_and(|oldest| oldest <= created) {
                break;
            }
            oldest = Some(oldest.map_or(since, |oldest| since.min(oldest)));
        }
        below = priority;
    }
    Ok((oldest.map(Timestamp::from_micros), looked_at))
}
