//! Counts sagas by queue and state without reading their rows.
//!
//! The writer keeps the counts in memory. A transaction's changes are collected and added once it is durable, so a
//! failed one leaves no trace and readers never see what may still be undone. Now and then the counts are stored by a
//! transaction that is written anyway, with the revision up to which they hold; the next start adds the events after
//! that revision. A transaction that removes events stores the counts itself, since those events can't be added later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    sync::Arc,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use crate::domain::{
    ids::Revision,
    saga::{Saga, State},
};

use super::{
    super::columns::{Quantity, codes::Coded},
    error::SqliteError,
    load::each,
    sql,
    values::column,
};

/// After how many events the counts are stored again: a start reads that many in about 30 ms.
const STORE_EVERY: usize = 20_000;
/// The number of states; counts are in the order of the codes, which start with 1.
const STATES: usize = 8;

/// The counts of one queue, or a change of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStates {
    states: [i64; STATES],
    stale: i64,
}

impl QueueStates {
    fn add(&mut self, other: &QueueStates) {
        for (mine, more) in self.states.iter_mut().zip(other.states) {
            *mine += more;
        }
        self.stale += other.stale;
    }

    /// Adds to a state by its code; an unknown code changes nothing.
    fn add_to(&mut self, code: i64, more: i64) {
        if let Some(count) = usize::try_from(code.wrapping_sub(1)).ok().and_then(|place| self.states.get_mut(place)) {
            *count += more;
        }
    }

    fn holds_none(&self) -> bool {
        *self == QueueStates::default()
    }

    /// How many sagas are in each state; states without any are left out.
    pub fn states(&self) -> Vec<(State, u64)> {
        let counted = (1..).zip(self.states).filter(|(_, count)| *count > 0);
        counted.filter_map(|(code, count)| Some((State::decode(code)?, count.unsigned_abs()))).collect()
    }

    /// How many are reported stale.
    pub fn stale(&self) -> u64 {
        self.stale.max(0).unsigned_abs()
    }
}

impl fmt::Display for QueueStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = (1..).zip(self.states).filter(|(_, count)| *count != 0);
        let told: Vec<_> =
            counted.filter_map(|(code, count)| Some(format!("{} {count}", State::decode(code)?.name()))).collect();
        if told.is_empty() { f.write_str("nothing") } else { f.write_str(&told.join(", ")) }
    }
}

/// Counts by the number of the queue.
pub type CountsByQueue = BTreeMap<i64, QueueStates>;

/// The committed counts, shared with readers.
pub type SharedCounts = Arc<Mutex<CountsByQueue>>;

/// The writer's counts.
#[derive(Default)]
pub struct StateCounts {
    committed: SharedCounts,
    /// The changes of the current transaction. They concern few queues, so a linear search is enough.
    changes: Vec<(i64, QueueStates)>,
    /// Queues whose stored counts are out of date.
    unstored: BTreeSet<i64>,
    /// Events since the counts were stored; from [`STORE_EVERY`] on, they must be stored again.
    events: usize,
    /// The newest event, including the current transaction.
    newest: Revision,
    /// True if this transaction stores the counts.
    stores: bool,
    /// To undo the current transaction.
    began_at: (usize, Revision),
}

impl StateCounts {
    /// Starts with these counts, which hold up to `head`, the newest event.
    pub fn new(counted: CountsByQueue, head: Revision) -> Self {
        // All are stored again the first time, so that an earlier error is not kept.
        let unstored = counted.keys().copied().collect();
        let committed = Arc::new(Mutex::new(counted));
        StateCounts { committed, unstored, newest: head, began_at: (0, head), ..StateCounts::default() }
    }

    /// The counts that readers see.
    pub fn committed(&self) -> SharedCounts {
        self.committed.clone()
    }

    fn of(&mut self, queue: i64) -> &mut QueueStates {
        let at = self.changes.iter().position(|(known, _)| *known == queue).unwrap_or_else(|| {
            self.changes.push((queue, QueueStates::default()));
            self.changes.len() - 1
        });
        &mut self.changes[at].1
    }

    /// Counts a new saga.
    pub fn added(&mut self, queue: i64, saga: &Saga) {
        self.of(queue).add_to(saga.state.code(), 1);
    }

    /// True if a change of a saga changes the counts.
    pub fn is_moved(before: &Saga, after: &Saga) -> bool {
        before.state != after.state || before.reported_stale().is_some() != after.reported_stale().is_some()
    }

    /// Counts a changed saga.
    pub fn moved(&mut self, queue: i64, before: &Saga, after: &Saga) {
        let count = self.of(queue);
        count.add_to(before.state.code(), -1);
        count.add_to(after.state.code(), 1);
        count.stale += i64::from(after.reported_stale().is_some()) - i64::from(before.reported_stale().is_some());
    }

    /// Counts a removed saga, by the code of its terminal state.
    pub fn removed(&mut self, queue: i64, state: i64) {
        self.of(queue).add_to(state, -1);
        self.events = self.events.max(STORE_EVERY);
    }

    /// Records that an event was appended.
    pub fn told(&mut self, revision: Revision) {
        self.events += 1;
        self.newest = revision;
    }

    /// Starts a transaction.
    pub fn begin(&mut self) {
        self.began_at = (self.events, self.newest);
    }

    /// Stores the counts within the transaction if it is time to. Call it before the commit.
    pub fn store_if_due(&mut self, connection: &Connection) -> Result<(), SqliteError> {
        if self.events >= STORE_EVERY { self.store(connection) } else { Ok(()) }
    }

    /// Stores the counts within the transaction.
    pub fn store(&mut self, connection: &Connection) -> Result<(), SqliteError> {
        let mut wanted = self.unstored.clone();
        wanted.extend(self.changes.iter().map(|(queue, _)| queue));
        let committed = self.committed.lock();
        for queue in wanted {
            let mut count = committed.get(&queue).copied().unwrap_or_default();
            self.changes.iter().filter(|(changed, _)| *changed == queue).for_each(|(_, change)| count.add(change));
            put(connection, queue, &count)?;
        }
        set_counted(connection, self.newest)?;
        self.stores = true;
        Ok(())
    }

    /// Applies the transaction's changes. Call it after the commit.
    pub fn commit(&mut self) {
        if mem::take(&mut self.stores) {
            self.unstored.clear();
            self.events = 0;
        } else {
            self.unstored.extend(self.changes.iter().map(|(queue, _)| queue));
        }
        if !self.changes.is_empty() {
            let mut committed = self.committed.lock();
            for (queue, change) in self.changes.drain(..) {
                committed.entry(queue).or_default().add(&change);
            }
        }
    }

    /// Drops the transaction's changes.
    pub fn rollback(&mut self) {
        self.changes.clear();
        (self.events, self.newest) = self.began_at;
        self.stores = false;
    }
}

/// Reads the stored counts and adds the events since; counts all rows if that was never done, and stores the result.
/// Call it within a transaction that may write.
pub fn open(connection: &Connection) -> Result<CountsByQueue, rusqlite::Error> {
    if let Some(counted) = stored(connection)? {
        return with_stale(connection, counted);
    }
    let counted = scan(connection)?;
    for (queue, count) in &counted {
        put(connection, *queue, count)?;
    }
    let head = connection.query_row(sql::HEAD, [], |row| row.get(0))?;
    set_counted(connection, head)?;
    with_stale(connection, counted)
}

/// The stored counts plus the events after them; none: the rows were never counted.
pub fn stored(connection: &Connection) -> Result<Option<CountsByQueue>, rusqlite::Error> {
    // An older schema has none.
    let through = connection.query_row(sql::META, ["counted"], |row| row.get::<_, i64>(0)).optional()?;
    let Some(through) = through.filter(|through| *through >= 0) else { return Ok(None) };
    let mut counted = CountsByQueue::new();
    each(connection, sql::STORED_COUNTS, [], |row| {
        let count: &mut QueueStates = counted.entry(row.get(0)?).or_default();
        for (index, count) in count.states.iter_mut().enumerate() {
            *count = column::<Quantity>(row, index + 1)?.0;
        }
        Ok(())
    })?;
    each(connection, sql::MOVES_BEHIND, [through], |row| {
        let count = counted.entry(row.get(0)?).or_default();
        let sagas: i64 = row.get(3)?;
        if let Some(from) = row.get::<_, Option<i64>>(1)? {
            count.add_to(from, -sagas);
        }
        count.add_to(row.get(2)?, sagas);
        Ok(())
    })?;
    counted.retain(|_, count| !count.holds_none());
    Ok(Some(counted))
}

/// Counts the rows.
pub fn scan(connection: &Connection) -> Result<CountsByQueue, rusqlite::Error> {
    let mut counted = CountsByQueue::new();
    each(connection, sql::SCANNED_COUNTS, [], |row| {
        counted.entry(row.get(0)?).or_default().add_to(row.get(1)?, row.get(2)?);
        Ok(())
    })?;
    Ok(counted)
}

/// Adds the stale sagas, which have an index of their own.
fn with_stale(connection: &Connection, mut counted: CountsByQueue) -> Result<CountsByQueue, rusqlite::Error> {
    each(connection, sql::STALE_COUNTS, [], |row| {
        counted.entry(row.get(0)?).or_default().stale = row.get(1)?;
        Ok(())
    })?;
    Ok(counted)
}

fn put(connection: &Connection, queue: i64, count: &QueueStates) -> Result<(), rusqlite::Error> {
    let columns = params_from_iter([queue].into_iter().chain(count.states));
    connection.prepare_cached(sql::PUT_COUNT)?.execute(columns).map(drop)
}

fn set_counted(connection: &Connection, through: Revision) -> Result<(), rusqlite::Error> {
    connection.prepare_cached(sql::SET_META)?.execute(params!["counted", through.0]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::{migrate, open_error::FoundDatabase};
    use super::*;

    fn states(counted: &CountsByQueue, queue: i64) -> Vec<(State, u64)> {
        counted.get(&queue).copied().unwrap_or_default().states()
    }

    /// A store with one running saga, whose schema has this version.
    fn healthy(version: usize) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate::migrate(&mut connection, FoundDatabase::Nothing, &migrate::MIGRATIONS[..version]).unwrap();
        let healthy = if version < 3 { include_str!("healthy_2.sql") } else { include_str!("healthy.sql") };
        connection.execute_batch(healthy).unwrap();
        connection
    }

    #[test]
    fn a_store_without_counts_is_counted_once() {
        let mut connection = healthy(1);
        assert_eq!(stored(&connection), Ok(None), "there are no counts to verify");
        migrate::migrate(&mut connection, FoundDatabase::Ours(1), migrate::MIGRATIONS).unwrap();
        assert_eq!(stored(&connection), Ok(None));
        let counted = open(&connection).unwrap();
        assert_eq!(states(&counted, 1), [(State::Running, 1)]);
        // Changes without an event are not noticed: the rows are not counted again.
        connection.execute_batch("DELETE FROM event; DELETE FROM compensation; DELETE FROM work;").unwrap();
        assert_eq!(open(&connection).unwrap(), counted);
    }

    #[test]
    fn counts_are_stored_after_enough_revisions() {
        let connection = healthy(migrate::MIGRATIONS.len());
        let mut state_counts = StateCounts::new(open(&connection).unwrap(), Revision(2));
        let through = || connection.query_row(sql::META, ["counted"], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(through(), 2);
        for revision in 1..=STORE_EVERY as i64 {
            state_counts.begin();
            state_counts.told(Revision(2 + revision));
            state_counts.of(1).add_to(State::Failed.code(), 1);
            state_counts.store_if_due(&connection).unwrap();
            let now = revision == STORE_EVERY as i64;
            assert_eq!(through(), if now { 2 + revision } else { 2 });
            state_counts.commit();
        }
        let expected = [(State::Running, 1), (State::Failed, STORE_EVERY as u64)];
        assert_eq!(states(&stored(&connection).unwrap().unwrap(), 1), expected);
        assert_eq!(states(&state_counts.committed().lock(), 1), expected);

        state_counts.begin();
        state_counts.removed(1, State::Failed.code());
        state_counts.rollback();
        state_counts.begin();
        state_counts.store_if_due(&connection).unwrap();
        state_counts.commit();
        assert_eq!(states(&state_counts.committed().lock(), 1), expected, "a rollback discards the changes");
    }
}
