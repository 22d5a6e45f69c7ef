//! [`ConnectionLimiter`]: how many connections there may be, and which one is closed when a new one needs room.
//!
//! A connection costs its peer next to nothing until a call on it has passed authentication. So a peer without credentials
//! could open all of them and keep everybody else waiting. Four rules prevent that:
//!
//! - A connection on which no call passes authentication within `auth_timeout` is closed.
//! - At the limit, the connection that has waited longest for its first call is closed for a new one.
//! - Addresses from which no call passed authentication lately get at most seven eighths of the connections, and theirs are
//!   closed before others.
//! - Authenticated connections share seven eighths among their holders: a principal, or an address where callers need no
//!   credentials. When these are full, a new one still gets in if its holder has fewer than the holder with the most, whose
//!   idlest connection then becomes *surplus*. Surplus connections use the last eighth, and at the limit the idlest of them
//!   is closed for a new one.
//!
//! So a peer without credentials can't close a connection that is within its holder's share, and a peer with credentials
//! can't keep others out by opening many. Below eight connections there is no last eighth: once calls on all of them have
//! passed authentication, new connections wait in the kernel's backlog.

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

/// Resolution of `auth_timeout`.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two checks for revoked callers: two seconds, as often as the file of principals is read again.
const TICKS_PER_LOOK: u64 = 8;
/// The part reserved for known addresses, which authenticated connections may use only as surplus: an eighth, 1,280 with
/// the defaults. A new client has as long for its first call as others need to open that many.
const KEPT_SHARE: usize = 8;
/// Connections that were told to close and may still be open when the next is accepted. Each is a descriptor beyond
/// `max_connections`; closing takes a moment of a network thread, so a few are enough.
pub(super) const LEAVING: usize = 16;
/// How many known addresses are remembered: enough for a large fleet, in 300 KiB.
const KNOWN_ADDRESSES: usize = 4096;

/// The limit on connections of all listeners; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    /// Connections that unknown addresses may not use.
    kept: usize,
    /// `auth_timeout` in ticks.
    timeout_ticks: u64,
    state: Mutex<State>,
    /// Notified whenever there may be room again.
    changed: Notify,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    tick: u64,
    next: u64,
    /// Open connections, including those that were told to close.
    open: usize,
    /// Connections that were told to close and are still open.
    leaving: usize,
    /// Connections without an authenticated call from unknown addresses, oldest first.
    unknown: BTreeMap<u64, Pending>,
    /// The same from known addresses, or with a verified certificate.
    known: BTreeMap<u64, Pending>,
    /// Authenticated connections within the shares of their holders.
    settled: Settled,
    /// Authenticated connections beyond those shares. There are none unless the seven eighths are full.
    surplus: BTreeMap<u64, (ConnectionHolder, Arc<Line>)>,
    addresses: KnownAddresses,
    /// Whether the present shortage has been logged.
    told_full: bool,
}

/// Whom an authenticated connection belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionHolder {
    Principal(Arc<str>),
    /// An address as of [`Peer::network`], where callers need no credentials. None: a Unix socket.
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

/// Authenticated connections, by number and by holder.
#[derive(Debug, Default)]
struct Settled {
    lines: HashMap<u64, (ConnectionHolder, Arc<Line>)>,
    by_holder: HashMap<ConnectionHolder, BTreeSet<u64>>,
    /// The number of connections of each holder, in ascending order.
    counts: BTreeSet<(usize, ConnectionHolder)>,
}

impl Settled {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn of(&self, holder: &ConnectionHolder) -> usize {
        self.by_holder.get(holder).map_or(0, BTreeSet::len)
    }

    /// The holder with the most connections, and how many it has.
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
        // A flood grows the table; give the memory back once it is over.
        if self.lines.capacity() > 1024 && self.lines.len() < self.lines.capacity() / 8 {
            self.lines.shrink_to_fit();
        }
        Some((holder, line))
    }

    /// The idlest connection of a holder.
    fn idlest_of(&self, holder: &ConnectionHolder) -> Option<u64> {
        let numbers = self.by_holder.get(holder)?.iter();
        let lines = numbers.filter_map(|number| Some((number, &self.lines.get(number)?.1)));
        lines.min_by_key(|(_, line)| line.activity()).map(|(number, _)| *number)
    }
}

/// A connection on which no call has passed authentication yet.
#[derive(Debug)]
struct Pending {
    line: Arc<Line>,
    since_tick: u64,
}

/// Permission to keep one connection open, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    line: Arc<Line>,
}

/// Tells the limiter what a connection's state learns: a verified certificate, an authenticated call.
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

    /// Ready when the next connection would get a permit.
    pub(super) async fn room(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.has_room() {
                return;
            }
            changed.await;
        }
    }

    /// Gives a new connection a permit, and closes another connection if that is needed. None: the connection that could
    /// have been closed has made a call since [`ConnectionLimiter::room`] was ready, so wait for room again.
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

    /// Logs that new connections have to wait, once per shortage.
    pub(super) fn tell_if_full(&self) {
        let mut state = self.0.state.lock();
        if self.0.is_full(&state) && !std::mem::replace(&mut state.told_full, true) {
            drop(state);
            warn!("all connections are taken; further ones wait until one ends (max_connections)");
        }
    }

    /// Closes connections whose `auth_timeout` is over. Never returns.
    pub(super) async fn watch_time(&self) {
        loop {
            sleep(TICK).await;
            for line in self.0.late() {
                debug!(peer = %line.peer(), "closed: no authenticated call in time (auth_timeout)");
                line.end(&self.0.counters.unauthenticated);
            }
            // Now there may be one that can be closed for a new one.
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

    /// Whether the limit is reached and no connection may be closed for a new one.
    fn is_full(&self, state: &State) -> bool {
        state.open - state.leaving >= self.max && !self.may_displace(state)
    }

    /// Whether a connection may be closed for a new one. Unauthenticated connections of known addresses are spared up to
    /// the reserved part: they are about to make a call, and unknown addresses must not take their permits. When
    /// authenticated connections leave only that part, half of it is spared; otherwise a known address could hold all of it
    /// without a call.
    fn may_displace(&self, state: &State) -> bool {
        let kept = if state.settled.len() < self.room_to_settle() { self.kept } else { self.kept / 2 };
        !state.surplus.is_empty() || !state.unknown.is_empty() || state.known.len() > kept
    }

    /// How many authenticated connections may be within shares.
    fn room_to_settle(&self) -> usize {
        self.max - self.kept
    }

    /// Ends a tick. Takes out the connections whose `auth_timeout` is over.
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
            // A shortage ends when an eighth is free. At the limit connections come and go, and each would begin a new one.
            if self.max.saturating_sub(state.open) > self.max / 8 {
                state.told_full = false;
            }
        }
        late
    }
}

impl State {
    /// Takes out the unauthenticated connection to close: the oldest of unknown addresses, else of known ones.
    fn take_oldest(&mut self) -> Option<Arc<Line>> {
        let (_, pending) = self.unknown.pop_first().or_else(|| self.known.pop_first())?;
        self.leaving += 1;
        Some(pending.line)
    }

    /// Takes out the idlest surplus connection.
    fn take_surplus(&mut self) -> Option<Arc<Line>> {
        let idlest = self.surplus.iter().min_by_key(|(_, (_, line))| line.activity());
        let number = idlest.map(|(number, _)| *number)?;
        let (_, line) = self.surplus.remove(&number)?;
        self.leaving += 1;
        Some(line)
    }

    /// Puts an authenticated connection among the shares. If they are full, one becomes surplus: the idlest of the holder
    /// with the most, or this one if its holder is that.
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

    /// Moves the oldest surplus connections back into the shares while there is room.
    fn promote(&mut self, room: usize) {
        while self.settled.len() < room
            && let Some((number, (holder, line))) = self.surplus.pop_first()
        {
            self.settled.insert(number, holder, line);
        }
    }

    /// Treats connections whose caller was revoked as new ones: they need another call that passes authentication.
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
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A call on the connection passed authentication.
    pub(super) fn authenticated(&self, holder: ConnectionHolder) {
        let mut state = self.shared.state.lock();
        // It is in neither map if it was told to close at this moment.
        let found = state.unknown.remove(&self.number).or_else(|| state.known.remove(&self.number));
        if let Some(Pending { line, .. }) = found {
            state.addresses.add(line.peer());
            state.settle(self.number, holder, line, self.shared.room_to_settle());
        }
    }

    /// The connection's certificate was verified: it is closed only after those without one.
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
        // A connection that was told to close is in none of them.
        if gone.is_none() {
            state.leaving -= 1;
        }
        state.promote(self.shared.room_to_settle());
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

/// The addresses from which calls passed authentication most recently.
#[derive(Debug, Default)]
struct KnownAddresses {
    next: u64,
    by_address: HashMap<IpAddr, u64>,
    by_age: BTreeMap<u64, IpAddr>,
}

impl KnownAddresses {
    /// Unix sockets count as known: only the daemon's own user can open them.
    fn contains(&self, peer: Peer) -> bool {
        peer.network().is_none_or(|address| self.by_address.contains_key(&address))
    }

    /// Remembers an address. If there are too many, forgets the one that was used longest ago.
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
