//! [`HealthWatches`]: how many watches of the daemon's health there may be, and whose. Everybody may open them, so there are
//! bounds for a connection and for an address, and a part is left for connections on which a call was let in.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::listen::{ConnectionHolder, Line};

/// Watches of one connection. There are three names to ask for, and a client needs one of them for each connection.
const PER_CONNECTION: usize = 4;
/// The part of all that one address has without a call that was let in, and that a principal has at most once three quarters of all
/// are open: an eighth, 64 with the defaults, and at least what one connection may have.
const SHARE: usize = 8;

/// All of them.
pub(super) struct HealthWatches {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// The connection of each.
    lines: HashMap<u64, Option<Arc<Line>>>,
}

/// A watch's place, until it is dropped.
pub(in crate::serve) struct HealthWatch {
    all: Arc<HealthWatches>,
    number: u64,
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        self.all.open.lock().lines.remove(&self.number);
    }
}

impl HealthWatches {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(HealthWatches { max, open: Mutex::default() })
    }

    /// A place for one more on this connection; or why there is none.
    pub(super) fn take(self: &Arc<Self>, line: Option<&Arc<Line>>) -> Result<HealthWatch, &'static str> {
        let mut open = self.open.lock();
        self.look(&open, line)?;
        let number = open.next;
        open.next += 1;
        open.lines.insert(number, line.cloned());
        Ok(HealthWatch { all: self.clone(), number })
    }

    /// Goes over all of them, some hundreds: a connection changes sides with its first call, so no count of them would stay right.
    fn look(&self, open: &Open, line: Option<&Arc<Line>>) -> Result<(), &'static str> {
        let lines = || open.lines.values().flatten();
        if let Some(line) = line
            && lines().filter(|other| Arc::ptr_eq(other, line)).count() >= PER_CONNECTION
        {
            return Err("this connection watches the daemon's health often enough: 4 times");
        }
        let few = (self.max / 4 * 3).max(1);
        let share = (self.max / SHARE).max(PER_CONNECTION);
        let is_shared = open.lines.len() >= few;
        let refused = line.is_some_and(|line| {
            let mine = belongs_to(line);
            let has_share = lines().filter(|other| belongs_to(other) == mine).count() >= share;
            let without_call: Vec<_> = lines().filter(|other| other.holder().is_none()).collect();
            let mine_without_call = without_call.iter().filter(|other| belongs_to(other) == mine).count();
            (is_shared && has_share)
                || (line.holder().is_none() && (without_call.len() >= few || mine_without_call >= share))
        });
        if refused || open.lines.len() >= self.max {
            return Err(
                "too many health watches are open: close some, or try again. A connection on which a call was let in may have \
                        one while others may not (max_watches)",
            );
        }
        Ok(())
    }
}

/// Whose a connection is: an address's, as long as nothing better is known.
fn belongs_to(line: &Line) -> ConnectionHolder {
    line.holder().unwrap_or_else(|| ConnectionHolder::Network(line.peer().network()))
}
