//! [`HealthWatchLimiter`]: how many streams may watch the daemon's health, per connection and per address. Anyone may open
//! them, so some are reserved for authenticated connections.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::listen::{ConnectionHolder, ConnectionState};

/// Most health watches on one connection. There are three names to watch, and a client needs one of them per connection.
const PER_CONNECTION: usize = 4;
/// The share of an address without an authenticated call; and of a principal once three quarters of all are open: an
/// eighth, 64 with the defaults, and at least what one connection may have.
const SHARE: usize = 8;

/// The limit on health watches.
pub(super) struct HealthWatchLimiter {
    max: usize,
    open: Mutex<OpenWatches>,
}

#[derive(Default)]
struct OpenWatches {
    next: u64,
    /// The connection of each watch.
    connections: HashMap<u64, Option<Arc<ConnectionState>>>,
}

/// Permission for one health watch, until it is dropped.
pub(in crate::serve) struct HealthWatchPermit {
    all: Arc<HealthWatchLimiter>,
    number: u64,
}

impl Drop for HealthWatchPermit {
    fn drop(&mut self) {
        self.all.open.lock().connections.remove(&self.number);
    }
}

impl HealthWatchLimiter {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(HealthWatchLimiter { max, open: Mutex::default() })
    }

    /// A permit for one more on this connection, or why there is none.
    pub(super) fn take(
        self: &Arc<Self>,
        connection: Option<&Arc<ConnectionState>>,
    ) -> Result<HealthWatchPermit, &'static str> {
        let mut open = self.open.lock();
        self.check(&open, connection)?;
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, connection.cloned());
        Ok(HealthWatchPermit { all: self.clone(), number })
    }

    /// Goes through all of them, some hundreds. A connection may become authenticated after its watch began, so running
    /// counts would become wrong.
    fn check(&self, open: &OpenWatches, connection: Option<&Arc<ConnectionState>>) -> Result<(), &'static str> {
        let connections = || open.connections.values().flatten();
        if let Some(connection) = connection
            && connections().filter(|other| Arc::ptr_eq(other, connection)).count() >= PER_CONNECTION
        {
            return Err("this connection has 4 health watches open already, which is the most");
        }
        let reserve_from = (self.max / 4 * 3).max(1);
        let share = (self.max / SHARE).max(PER_CONNECTION);
        let is_shared = open.connections.len() >= reserve_from;
        let refused = connection.is_some_and(|connection| {
            let own = belongs_to(connection);
            let has_share = connections().filter(|other| belongs_to(other) == own).count() >= share;
            let without_call: Vec<_> = connections().filter(|other| other.holder().is_none()).collect();
            let own_without_call = without_call.iter().filter(|other| belongs_to(other) == own).count();
            (is_shared && has_share)
                || (connection.holder().is_none() && (without_call.len() >= reserve_from || own_without_call >= share))
        });
        if refused || open.connections.len() >= self.max {
            return Err(
                "too many health watches are open: close some, or try again. Some are reserved for connections on which an \
                 authenticated call was made (max_watches)",
            );
        }
        Ok(())
    }
}

/// Whom a connection belongs to: its address, until a call on it has passed authentication.
fn belongs_to(connection: &ConnectionState) -> ConnectionHolder {
    connection.holder().unwrap_or_else(|| ConnectionHolder::Network(connection.peer().network()))
}
