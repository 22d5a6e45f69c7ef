//! [`Places`]: how many connections there may be, and which of them makes room for the next one.
//!
//! A connection costs its peer next to nothing until a call on it has been let in. So whoever reaches the port could take all
//! places, and everybody else would wait for as long as that peer likes. Four rules keep that from happening:
//!
//! - A connection on which no call was let in within `auth_timeout` is closed.
//! - When all places are taken, the connection that has waited longest for its first call is closed for the new one.
//! - Addresses from which no call was let in lately get seven eighths of the places at most, and are closed before others.
//! - Connections on which a call was let in have seven eighths of the places for good, shared by whom they belong to: a principal,
//!   or an address where callers are not known. When those are full, a further one gets a place there if its holder has fewer than
//!   whoever has most, whose idlest connection loses its own. Whatever has none is *surplus*: it stays in the last eighth, and is
//!   closed for the next connection when all places are taken, the idlest first.
//!
//! So nobody without credentials has a connection closed that is within its holder's share, and nobody with credentials keeps
//! others out by having many. Below eight places there is no such eighth: when calls were let in on all of them, further ones wait
//! in the kernel's backlog.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tracing::{debug, warn};

use super::{
    lines::{Counters, Line},
    socket::Peer,
};

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How many ticks lie between two looks at the callers of connections: two seconds, as often as principals are read anew.
const TICKS_PER_LOOK: u64 = 8;
/// The part of all places that only known addresses get, and that connections on which a call was let in don't keep: an eighth,
/// 1,280 connections with the defaults. A newcomer has as long for its first call as others take to open so many.
const KEPT_SHARE: usize = 8;
/// Connections that were told to end and may still be open when the next one is accepted. Each is a descriptor beyond
/// `max_connections`; ending takes a moment of a network thread, so a few are enough.
pub(super) const LEAVING: usize = 16;
/// Known addresses that are remembered: as many as the addresses of a large fleet, in 300 KiB.
const KNOWN_ADDRESSES: usize = 4096;

/// The places of one listener; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    /// Places that addresses which are not known don't get.
    kept: usize,
    /// How long a connection may be without a call that was let in.
    timeout_ticks: u64,
    state: Mutex<State>,
    /// Told whenever there may be room again.
    changed: Notify,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    tick: u64,
    /// The number of the next connection.
    next: u64,
    /// Connections that are open.
    open: usize,
    /// Those of them that were told to end.
    leaving: usize,
    /// Connections without a call from addresses that are not known, the oldest first.
    unknown: BTreeMap<u64, Pending>,
    /// Connections without a call from known addresses, or with a certificate that was verified.
    known: BTreeMap<u64, Pending>,
    /// Connections on which a call was let in, within the share of their holders.
    settled: Settled,
    /// Those beyond it. There are none unless all places for settled ones are taken.
    surplus: BTreeMap<u64, (ConnectionHolder, Arc<Line>)>,
    addresses: KnownAddresses,
    /// It was told that all places are taken.
    told_full: bool,
}

/// To whom a connection belongs on which a call was let in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionHolder {
    /// The principal of that call, by name.
    Principal(Arc<str>),
    /// Whoever is at an address, as [`Peer::network`] tells it, where callers are not known.
    Network(Option<IpAddr>),
}

impl fmt::Display for ConnectionHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionHolder::Principal(name) => f.write_str(name),
            ConnectionHolder::Network(Some(address)) => write!(f, "{address}"),
            ConnectionHolder::Network(None) => f.write_str("unix"),
        }
    }
}

/// Connections that have a place for good, by number and by holder.
#[derive(Debug, Default)]
struct Settled {
    lines: HashMap<u64, (ConnectionHolder, Arc<Line>)>,
    by_holder: HashMap<ConnectionHolder, BTreeSet<u64>>,
    /// How many each holder has, the most last.
    counts: BTreeSet<(usize, ConnectionHolder)>,
}

impl Settled {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn of(&self, holder: &ConnectionHolder) -> usize {
        self.by_holder.get(holder).map_or(0, BTreeSet::len)
    }

    /// Who has most, and how many.
    fn most(&self) -> Option<&(usize, ConnectionHolder)> {
        self.counts.last()
    }

    fn insert(&mut self, number: u64, holder: ConnectionHolder, line: Arc<Line>) {
        let numbers = self.by_holder.entry(holder.clone()).or_default();
        self.counts.remove(&(numbers.len(), holder.clone()));
        numbers.insert(number);
        self.counts.insert((numbers.len(), holder.clone()));
        self.lines.insert(number, (holder, line));
    }

    fn remove(&mut self, number: u64) -> Option<(ConnectionHolder, Arc<Line>)> {
        let (holder, line) = self.lines.remove(&number)?;
        if let Some(numbers) = self.by_holder.get_mut(&holder) {
            self.counts.remove(&(numbers.len(), holder.clone()));
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_holder.remove(&holder);
            } else {
                self.counts.insert((numbers.len(), holder.clone()));
            }
        }
        // The table of a flood is given back when the flood is over.
        if self.lines.capacity() > 1024 && self.lines.len() < self.lines.capacity() / 8 {
            self.lines.shrink_to_fit();
        }
        Some((holder, line))
    }

    /// Which connection of a holder does least.
    fn idlest_of(&self, holder: &ConnectionHolder) -> Option<u64> {
        let numbers = self.by_holder.get(holder)?.iter();
        let lines = numbers.filter_map(|number| Some((number, &self.lines.get(number)?.1)));
        lines.min_by_key(|(_, line)| line.activity()).map(|(number, _)| *number)
    }
}

/// A connection that has not made a call yet.
#[derive(Debug)]
struct Pending {
    line: Arc<Line>,
    since_tick: u64,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    line: Arc<Line>,
}

/// How a line tells that a call on it was let in.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    shared: Arc<Shared>,
    number: u64,
}

impl Places {
    pub(super) fn new(max: usize, timeout: Duration, counters: Arc<Counters>) -> Self {
        let timeout_ticks = timeout.as_micros().div_ceil(TICK.as_micros()).try_into().unwrap_or(u64::MAX / 2);
        let (state, changed) = (Mutex::default(), Notify::new());
        Places(Arc::new(Shared { max, kept: max / KEPT_SHARE, timeout_ticks, state, changed, counters }))
    }

    /// Ready when the next connection would find a place.
    pub(super) async fn room(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.has_room() {
                return;
            }
            changed.await;
        }
    }

    /// Gives a new connection a place, and closes another one for it if that is needed. The peer comes back if there is no
    /// place after all: whoever could have been closed has made a call since [`Places::room`] was ready.
    pub(super) fn enter(&self, peer: Peer) -> Option<(Place, Arc<Line>)> {
        let shared = &self.0;
        let mut state = shared.state.lock();
        let known = state.addresses.contains(peer);
        let full = state.open - state.leaving >= shared.max;
        let beyond_share = !known && state.unknown.len() >= shared.max - shared.kept;
        if shared.is_full(&state) {
            return None;
        }
        let greedy = state.settled.most().filter(|_| full && !state.surplus.is_empty()).cloned();
        let displaced = match (full, beyond_share) {
            (true, _) => state.take_surplus().or_else(|| state.take_oldest()),
            (false, true) => state.take_oldest(),
            (false, false) => None,
        };
        let number = state.next;
        state.next += 1;
        state.open += 1;
        let registration = Registration { shared: shared.clone(), number };
        let line = Arc::new(Line::new(peer, registration, shared.counters.clone()));
        let pending = Pending { line: line.clone(), since_tick: state.tick };
        if known { &mut state.known } else { &mut state.unknown }.insert(number, pending);
        let tell = displaced.is_some() && !std::mem::replace(&mut state.told_full, true);
        drop(state);
        if let Some((count, holder)) = &greedy
            && tell
        {
            warn!(
                "all connections are taken, and {holder} has most of them ({count}); for each further one the idlest of those beyond \
                 its share is closed (max_connections)"
            );
        } else if tell {
            warn!(
                "too many connections on which no authenticated call was made; for each further one the oldest of them is closed \
                 (max_connections)"
            );
        }
        if let Some(displaced) = displaced {
            let why =
                if greedy.is_some() { "it is beyond its holder's share" } else { "it made no authenticated call" };
            debug!(peer = %displaced.peer(), "closed: {why}, and its place is needed");
            displaced.end(&shared.counters.displaced);
        }
        Some((Place { shared: shared.clone(), line: line.clone() }, line))
    }

    /// Whether the next connection has to wait. Says so in the log, once for each time that this begins.
    pub(super) fn tell_if_full(&self) {
        let mut state = self.0.state.lock();
        if self.0.is_full(&state) && !std::mem::replace(&mut state.told_full, true) {
            drop(state);
            warn!("all connections are taken; further ones wait until one ends (max_connections)");
        }
    }

    /// Closes those that have made no call in time, for ever.
    pub(super) async fn watch_time(&self) {
        loop {
            sleep(TICK).await;
            for line in self.0.late() {
                debug!(peer = %line.peer(), "closed: no authenticated call in time (auth_timeout)");
                line.end(&self.0.counters.unauthenticated);
            }
            // There may be one now that can be closed for the next.
            self.0.changed.notify_waiters();
        }
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        self.has_room_in(&self.state.lock())
    }

    fn has_room_in(&self, state: &State) -> bool {
        state.open < self.max + LEAVING && !self.is_full(state)
    }

    /// Whether all places are taken, and nobody can be closed for the next.
    fn is_full(&self, state: &State) -> bool {
        state.open - state.leaving >= self.max && !self.may_displace(state)
    }

    /// Whether one may be closed for the next. Connections of known addresses are left alone up to the share that is kept for
    /// them: they are about to make a call, and whoever is not known must not get their places. Where that share is all that settled
    /// connections leave, it is half of it: or whoever is known could take it by making no calls.
    fn may_displace(&self, state: &State) -> bool {
        let kept = if state.settled.len() < self.room_to_settle() { self.kept } else { self.kept / 2 };
        !state.surplus.is_empty() || !state.unknown.is_empty() || state.known.len() > kept
    }

    /// How many connections may have a place for good.
    fn room_to_settle(&self) -> usize {
        self.max - self.kept
    }

    /// A tick is over: takes out those whose time is over.
    fn late(&self) -> Vec<Arc<Line>> {
        let mut state = self.state.lock();
        state.tick += 1;
        let tick = state.tick;
        let mut late = Vec::new();
        let State { unknown, known, .. } = &mut *state;
        for pending in [unknown, known] {
            let is_over = |one: &Pending| tick.saturating_sub(one.since_tick) > self.timeout_ticks;
            let over: Vec<u64> = pending.iter().filter(|(_, one)| is_over(one)).map(|(number, _)| *number).collect();
            late.extend(over.iter().filter_map(|number| pending.remove(number)).map(|one| one.line));
        }
        state.leaving += late.len();
        if tick.is_multiple_of(TICKS_PER_LOOK) {
            state.demote();
            state.promote(self.room_to_settle());
            // An episode ends with an eighth free: at the bound, where connections come and go, each would begin a new one.
            if self.max.saturating_sub(state.open) > self.max / 8 {
                state.told_full = false;
            }
        }
        late
    }
}

impl State {
    /// Takes out the one that is to be closed: the oldest of an unknown address, or else of a known one.
    fn take_oldest(&mut self) -> Option<Arc<Line>> {
        let (_, pending) = self.unknown.pop_first().or_else(|| self.known.pop_first())?;
        self.leaving += 1;
        Some(pending.line)
    }

    /// Takes out the idlest of those that are beyond the share of their holders.
    fn take_surplus(&mut self) -> Option<Arc<Line>> {
        let idlest = self.surplus.iter().min_by_key(|(_, (_, line))| line.activity());
        let number = idlest.map(|(number, _)| *number)?;
        let (_, line) = self.surplus.remove(&number)?;
        self.leaving += 1;
        Some(line)
    }

    /// A call was let in. If there is no more room for such connections, one is surplus then: of whoever has most, if that is not
    /// the holder of this one.
    fn settle(&mut self, number: u64, holder: ConnectionHolder, line: Arc<Line>, room: usize) {
        self.settled.insert(number, holder.clone(), line);
        if self.settled.len() <= room {
            return;
        }
        let mine = self.settled.of(&holder);
        let most = self.settled.most().filter(|(count, _)| *count > mine);
        let loser = most.and_then(|(_, most)| self.settled.idlest_of(most)).unwrap_or(number);
        if let Some(lost) = self.settled.remove(loser) {
            self.surplus.insert(loser, lost);
        }
    }

    /// Places have become free for good: the oldest of those that had none get them.
    fn promote(&mut self, room: usize) {
        while self.settled.len() < room
            && let Some((number, (holder, line))) = self.surplus.pop_first()
        {
            self.settled.insert(number, holder, line);
        }
    }

    /// A connection whose caller is not known any more has to make another call that is let in, as a new one does.
    fn demote(&mut self) {
        let all = self.settled.lines.iter().chain(&self.surplus);
        let gone: Vec<u64> = all.filter(|(_, (_, line))| line.caller_is_gone()).map(|(number, _)| *number).collect();
        for number in gone {
            if let Some((_, line)) = self.settled.remove(number).or_else(|| self.surplus.remove(&number)) {
                line.is_unauthenticated();
                self.unknown.insert(number, Pending { line, since_tick: self.tick });
            }
        }
    }
}

impl Registration {
    /// The connection's number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A call on it was let in: it is not closed any more for others that have made none.
    pub(super) fn authenticated(&self, holder: ConnectionHolder) {
        let mut state = self.shared.state.lock();
        // It is in neither if it was told to end in this moment.
        let found = state.unknown.remove(&self.number).or_else(|| state.known.remove(&self.number));
        if let Some(Pending { line, .. }) = found {
            state.addresses.add(line.peer());
            state.settle(self.number, holder, line, self.shared.room_to_settle());
        }
    }

    /// Its certificate was verified: it is closed for others only after those that showed none.
    pub(super) fn verified(&self) {
        let mut state = self.shared.state.lock();
        if let Some(pending) = state.unknown.remove(&self.number) {
            state.known.insert(self.number, pending);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = self.line.number();
        let mut state = self.shared.state.lock();
        state.open -= 1;
        let gone = state.unknown.remove(&number).or_else(|| state.known.remove(&number)).map(|pending| pending.line);
        let gone = gone.or_else(|| state.surplus.remove(&number).map(|(_, line)| line));
        let gone = gone.or_else(|| state.settled.remove(number).map(|(_, line)| line));
        // Whoever was told to end is in none of them.
        if gone.is_none() {
            state.leaving -= 1;
        }
        state.promote(self.shared.room_to_settle());
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

/// The addresses from which calls were let in, the newest ones.
#[derive(Debug, Default)]
struct KnownAddresses {
    next: u64,
    by_address: HashMap<IpAddr, u64>,
    by_age: BTreeMap<u64, IpAddr>,
}

impl KnownAddresses {
    /// A socket in the file system is for the daemon's own user, who is known.
    fn contains(&self, peer: Peer) -> bool {
        peer.network().is_none_or(|address| self.by_address.contains_key(&address))
    }

    /// Remembers it, and forgets the one that was not heard of for longest if there are too many.
    fn add(&mut self, peer: Peer) {
        let Some(address) = peer.network() else { return };
        let stamp = self.next;
        self.next += 1;
        if let Some(before) = self.by_address.insert(address, stamp) {
            self.by_age.remove(&before);
        }
        self.by_age.insert(stamp, address);
        if self.by_age.len() > KNOWN_ADDRESSES
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_address.remove(&oldest);
        }
    }
}
