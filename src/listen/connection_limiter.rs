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
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tracing::{debug, warn};

use super::{
    connection_holder::ConnectionHolder,
    connections::{ConnectionCounters, ConnectionState, LimiterEvents},
    socket::Peer,
};

/// Resolution of `auth_timeout`.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two checks for revoked callers: two seconds, as often as the file of principals is read again.
const TICKS_PER_CALLER_CHECK: u64 = 8;
/// The part reserved for known addresses, which authenticated connections may use only as surplus: an eighth, 1,280 with
/// the defaults. A new client has as long for its first call as others need to open that many.
const RESERVED_SHARE: usize = 8;
/// Connections that were told to close and may still be open when the next is accepted. Each is a descriptor beyond
/// `max_connections`; closing takes a moment of a network thread, so a few are enough.
pub(super) const CLOSING_MAX: usize = 16;
/// How many known addresses are remembered: enough for a large fleet, in 300 KiB.
const KNOWN_ADDRESSES: usize = 4096;

/// The limit on connections of all listeners; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConnectionLimiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    /// Connections that unknown addresses may not use.
    reserved: usize,
    /// `auth_timeout` in ticks.
    timeout_ticks: u64,
    state: Mutex<State>,
    /// Notified whenever there may be room again.
    changed: Notify,
    counters: Arc<ConnectionCounters>,
}

#[derive(Debug, Default)]
struct State {
    tick: u64,
    next: u64,
    /// Open connections, including those that were told to close.
    open: usize,
    /// Connections that were told to close and are still open.
    closing: usize,
    /// Connections without an authenticated call from unknown addresses, oldest first.
    unknown: BTreeMap<u64, UnauthenticatedConnection>,
    /// The same from known addresses, or with a verified certificate.
    known: BTreeMap<u64, UnauthenticatedConnection>,
    /// Authenticated connections within the shares of their holders.
    authenticated: AuthenticatedConnections,
    /// Authenticated connections beyond those shares. There are none unless the seven eighths are full.
    surplus: BTreeMap<u64, (ConnectionHolder, Arc<ConnectionState>)>,
    addresses: KnownAddresses,
    /// Whether the present shortage has been logged.
    shortage_logged: bool,
}

/// Authenticated connections, by number and by holder.
#[derive(Debug, Default)]
struct AuthenticatedConnections {
    connections: HashMap<u64, (ConnectionHolder, Arc<ConnectionState>)>,
    by_holder: HashMap<ConnectionHolder, BTreeSet<u64>>,
    /// The number of connections of each holder, in ascending order.
    counts: BTreeSet<(usize, ConnectionHolder)>,
}

impl AuthenticatedConnections {
    fn len(&self) -> usize {
        self.connections.len()
    }

    fn of(&self, holder: &ConnectionHolder) -> usize {
        self.by_holder.get(holder).map_or(0, BTreeSet::len)
    }

    /// The holder with the most connections, and how many it has.
    fn most(&self) -> Option<&(usize, ConnectionHolder)> {
        self.counts.last()
    }

    fn insert(&mut self, number: u64, holder: ConnectionHolder, connection: Arc<ConnectionState>) {
        let numbers = self.by_holder.entry(holder.clone()).or_default();
        self.counts.remove(&(numbers.len(), holder.clone()));
        numbers.insert(number);
        self.counts.insert((numbers.len(), holder.clone()));
        self.connections.insert(number, (holder, connection));
    }

    fn remove(&mut self, number: u64) -> Option<(ConnectionHolder, Arc<ConnectionState>)> {
        let (holder, connection) = self.connections.remove(&number)?;
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
        if self.connections.capacity() > 1024 && self.connections.len() < self.connections.capacity() / 8 {
            self.connections.shrink_to_fit();
        }
        Some((holder, connection))
    }

    /// The idlest connection of a holder.
    fn idlest_of(&self, holder: &ConnectionHolder) -> Option<u64> {
        let numbers = self.by_holder.get(holder)?.iter();
        let connections = numbers.filter_map(|number| Some((number, &self.connections.get(number)?.1)));
        connections.min_by_key(|(_, connection)| connection.activity()).map(|(number, _)| *number)
    }
}

/// A connection on which no call has passed authentication yet.
#[derive(Debug)]
struct UnauthenticatedConnection {
    connection: Arc<ConnectionState>,
    since_tick: u64,
}

/// Permission to keep one connection open, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    shared: Arc<Shared>,
    connection: Arc<ConnectionState>,
}

impl ConnectionLimiter {
    pub(super) fn new(max: usize, timeout: Duration, counters: Arc<ConnectionCounters>) -> Self {
        let timeout_ticks = timeout.as_micros().div_ceil(TICK.as_micros()).try_into().unwrap_or(u64::MAX / 2);
        let (state, changed) = (Mutex::default(), Notify::new());
        ConnectionLimiter(Arc::new(Shared {
            max,
            reserved: max / RESERVED_SHARE,
            timeout_ticks,
            state,
            changed,
            counters,
        }))
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
    pub(super) fn admit(&self, peer: Peer) -> Option<(ConnectionPermit, Arc<ConnectionState>)> {
        let shared = &self.0;
        let mut state = shared.state.lock();
        let known = state.addresses.contains(peer);
        let full = state.open - state.closing >= shared.max;
        let beyond_share = !known && state.unknown.len() >= shared.max - shared.reserved;
        if shared.is_full(&state) {
            return None;
        }
        let over_share = state.authenticated.most().filter(|_| full && !state.surplus.is_empty()).cloned();
        let displaced = match (full, beyond_share) {
            (true, _) => state.take_surplus().or_else(|| state.take_oldest_unauthenticated()),
            (false, true) => state.take_oldest_unauthenticated(),
            (false, false) => None,
        };
        let number = state.next;
        state.next += 1;
        state.open += 1;
        let connection = Arc::new(ConnectionState::new(peer, number, shared.clone(), shared.counters.clone()));
        let pending = UnauthenticatedConnection { connection: connection.clone(), since_tick: state.tick };
        if known { &mut state.known } else { &mut state.unknown }.insert(number, pending);
        let log = displaced.is_some() && !std::mem::replace(&mut state.shortage_logged, true);
        drop(state);
        if let Some((count, holder)) = &over_share
            && log
        {
            warn!(
                "all connections are taken, and {holder} has most of them ({count}); for each further one the idlest of those beyond \
                 its share is closed (max_connections)"
            );
        } else if log {
            warn!(
                "too many connections on which no authenticated call was made; for each further one the oldest of them is closed \
                 (max_connections)"
            );
        }
        if let Some(displaced) = displaced {
            let why = if over_share.is_some() {
                "it is beyond its holder's share"
            } else {
                "no authenticated call was made on it"
            };
            debug!(peer = %displaced.peer(), "closed to make room: {why}");
            displaced.cut_as(&shared.counters.displaced);
        }
        Some((ConnectionPermit { shared: shared.clone(), connection: connection.clone() }, connection))
    }

    /// Logs that new connections have to wait, once per shortage.
    pub(super) fn log_if_full(&self) {
        let mut state = self.0.state.lock();
        if self.0.is_full(&state) && !std::mem::replace(&mut state.shortage_logged, true) {
            drop(state);
            warn!("all connections are taken; further ones wait until one ends (max_connections)");
        }
    }

    /// Closes connections whose `auth_timeout` is over. Never returns.
    pub(super) async fn enforce_timeouts(&self) {
        loop {
            sleep(TICK).await;
            for connection in self.0.take_timed_out() {
                debug!(peer = %connection.peer(), "closed: no authenticated call in time (auth_timeout)");
                connection.cut_as(&self.0.counters.unauthenticated);
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
        state.open < self.max + CLOSING_MAX && !self.is_full(state)
    }

    /// Whether the limit is reached and no connection may be closed for a new one.
    fn is_full(&self, state: &State) -> bool {
        state.open - state.closing >= self.max && !self.may_displace(state)
    }

    /// Whether a connection may be closed for a new one. Unauthenticated connections of known addresses are spared up to
    /// the reserved part: they are about to make a call, and unknown addresses must not take their permits. When
    /// authenticated connections leave only that part, half of it is spared; otherwise a known address could hold all of it
    /// without a call.
    fn may_displace(&self, state: &State) -> bool {
        let reserved =
            if state.authenticated.len() < self.authenticated_max() { self.reserved } else { self.reserved / 2 };
        !state.surplus.is_empty() || !state.unknown.is_empty() || state.known.len() > reserved
    }

    /// How many authenticated connections may be within shares.
    fn authenticated_max(&self) -> usize {
        self.max - self.reserved
    }

    /// Ends a tick. Takes out the connections whose `auth_timeout` is over.
    fn take_timed_out(&self) -> Vec<Arc<ConnectionState>> {
        let mut state = self.state.lock();
        state.tick += 1;
        let tick = state.tick;
        let mut timed_out = Vec::new();
        let State { unknown, known, .. } = &mut *state;
        for pending in [unknown, known] {
            let is_over = |one: &UnauthenticatedConnection| tick.saturating_sub(one.since_tick) > self.timeout_ticks;
            let over: Vec<u64> = pending.iter().filter(|(_, one)| is_over(one)).map(|(number, _)| *number).collect();
            timed_out.extend(over.iter().filter_map(|number| pending.remove(number)).map(|one| one.connection));
        }
        state.closing += timed_out.len();
        if tick.is_multiple_of(TICKS_PER_CALLER_CHECK) {
            state.demote();
            state.promote(self.authenticated_max());
            // A shortage ends when an eighth is free. At the limit connections come and go, and each would begin a new one.
            if self.max.saturating_sub(state.open) > self.max / 8 {
                state.shortage_logged = false;
            }
        }
        timed_out
    }
}

impl State {
    /// Takes out the unauthenticated connection to close: the oldest of unknown addresses, else of known ones.
    fn take_oldest_unauthenticated(&mut self) -> Option<Arc<ConnectionState>> {
        let (_, pending) = self.unknown.pop_first().or_else(|| self.known.pop_first())?;
        self.closing += 1;
        Some(pending.connection)
    }

    /// Takes out the idlest surplus connection.
    fn take_surplus(&mut self) -> Option<Arc<ConnectionState>> {
        let idlest = self.surplus.iter().min_by_key(|(_, (_, connection))| connection.activity());
        let number = idlest.map(|(number, _)| *number)?;
        let (_, connection) = self.surplus.remove(&number)?;
        self.closing += 1;
        Some(connection)
    }

    /// Puts an authenticated connection among the shares. If they are full, one becomes surplus: the idlest of the holder
    /// with the most, or this one if its holder is that.
    fn add_authenticated(
        &mut self,
        number: u64,
        holder: ConnectionHolder,
        connection: Arc<ConnectionState>,
        room: usize,
    ) {
        self.authenticated.insert(number, holder.clone(), connection);
        if self.authenticated.len() <= room {
            return;
        }
        let mine = self.authenticated.of(&holder);
        let most = self.authenticated.most().filter(|(count, _)| *count > mine);
        let moved_number = most.and_then(|(_, most)| self.authenticated.idlest_of(most)).unwrap_or(number);
        if let Some(moved) = self.authenticated.remove(moved_number) {
            self.surplus.insert(moved_number, moved);
        }
    }

    /// Moves the oldest surplus connections back into the shares while there is room.
    fn promote(&mut self, room: usize) {
        while self.authenticated.len() < room
            && let Some((number, (holder, connection))) = self.surplus.pop_first()
        {
            self.authenticated.insert(number, holder, connection);
        }
    }

    /// Treats connections whose caller was revoked as new ones: they need another call that passes authentication.
    fn demote(&mut self) {
        let all = self.authenticated.connections.iter().chain(&self.surplus);
        let gone: Vec<u64> =
            all.filter(|(_, (_, connection))| connection.is_caller_revoked()).map(|(number, _)| *number).collect();
        for number in gone {
            if let Some((_, connection)) = self.authenticated.remove(number).or_else(|| self.surplus.remove(&number)) {
                connection.reset_authentication();
                self.unknown.insert(number, UnauthenticatedConnection { connection, since_tick: self.tick });
            }
        }
    }
}

impl LimiterEvents for Shared {
    fn authenticated(&self, number: u64, holder: ConnectionHolder) {
        let mut state = self.state.lock();
        // It is in neither map if it was told to close at this moment.
        let found = state.unknown.remove(&number).or_else(|| state.known.remove(&number));
        if let Some(UnauthenticatedConnection { connection, .. }) = found {
            state.addresses.add(connection.peer());
            state.add_authenticated(number, holder, connection, self.authenticated_max());
        }
    }

    fn verified(&self, number: u64) {
        let mut state = self.state.lock();
        if let Some(pending) = state.unknown.remove(&number) {
            state.known.insert(number, pending);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let number = self.connection.number();
        let mut state = self.shared.state.lock();
        state.open -= 1;
        let gone =
            state.unknown.remove(&number).or_else(|| state.known.remove(&number)).map(|pending| pending.connection);
        let gone = gone.or_else(|| state.surplus.remove(&number).map(|(_, connection)| connection));
        let gone = gone.or_else(|| state.authenticated.remove(number).map(|(_, connection)| connection));
        // A connection that was told to close is in none of them.
        if gone.is_none() {
            state.closing -= 1;
        }
        state.promote(self.shared.authenticated_max());
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
