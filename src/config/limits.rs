//! What the daemon bounds, so that no client and no backlog can take it down.

use crate::domain::{bounds::Bound, time::Span};

use super::{settings, sources::EffectiveSettings};

/// Most threads that serve connections, if nobody says how many: the writer keeps up with no more.
const NETWORK_THREADS: usize = 16;

/// Descriptors that are not for connections: the store's files (three for each of its connections, backups), standard
/// streams, the runtime, the listener.
const DESCRIPTORS_KEPT: u64 = 64;
/// Most connections for metrics and probes: a few scrapers, probes and people, and room for those who ask for nothing.
pub const OPS_CONNECTIONS: usize = 128;
/// Connections that were told to close and are still open, beyond `max_connections` (`listen/connection_limiter.rs`), and one
/// that waits for its permit.
const DESCRIPTORS_CLOSING: u64 = 17;
/// Descriptors of one network thread: its event queue, its waker and what signals need.
const DESCRIPTORS_PER_THREAD: u64 = 4;
/// Descriptors of one reading connection: the database, its WAL and its shared memory.
const DESCRIPTORS_PER_READER: u64 = 3;

/// A limit in the unit in which `GetServerInfo` shows it.
trait BoundValue {
    fn bound_value(self) -> i64;
}

impl BoundValue for Span {
    fn bound_value(self) -> i64 {
        self.micros()
    }
}

macro_rules! number_as_bound_value {
    ($($type:ty),*) => {$(
        impl BoundValue for $type {
            fn bound_value(self) -> i64 {
                i64::try_from(self).unwrap_or(i64::MAX)
            }
        }
    )*};
}

number_as_bound_value!(u32, u64, usize);

/// Makes `Limits` of the settings' keys and the types of their values.
macro_rules! limits {
    ($($key:ident: $type:ty,)*) => {
        /// The daemon's limits, a field for each setting of that name; what each means is said in `config/settings.rs`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(pub $key: $type,)*
        }

        impl Limits {
            pub(super) fn read(settings: &EffectiveSettings) -> Self {
                let mut limits = Limits { $($key: settings.get(stringify!($key)),)* };
                limits.network_threads = network_threads(limits.network_threads);
                limits
            }

            fn values(&self) -> impl Iterator<Item = (&'static str, i64)> {
                [$((stringify!($key), self.$key.bound_value())),*].into_iter()
            }
        }
    };
}

limits! {
    max_connections: usize,
    preface_timeout: Span,
    auth_timeout: Span,
    max_concurrent_streams: u32,
    keepalive_interval: Span,
    keepalive_timeout: Span,
    max_message_bytes: usize,
    request_timeout: Span,
    answer_timeout: Span,
    max_calls: usize,
    max_call_bytes: usize,
    max_watches: usize,
    max_session_calls: usize,
    max_waiting: usize,
    writer_queue: usize,
    writer_batch: usize,
    readers: usize,
    max_wal_bytes: u64,
    network_threads: usize,
}

/// How many threads serve connections where so many were asked for; 0: one for each processor.
fn network_threads(wanted: usize) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if wanted == 0 { processors().min(NETWORK_THREADS) } else { wanted }
}

impl Default for Limits {
    fn default() -> Self {
        Self::read(&EffectiveSettings::defaults())
    }
}

impl Limits {
    /// Lowers `max_connections` to what a limit on open files leaves for it. Returns what to warn of.
    pub fn fit_to_descriptors(&mut self, open_files: u64) -> Option<String> {
        let for_threads = DESCRIPTORS_PER_THREAD * self.network_threads as u64;
        let kept = DESCRIPTORS_KEPT
            + OPS_CONNECTIONS as u64
            + DESCRIPTORS_CLOSING
            + DESCRIPTORS_PER_READER * self.readers as u64
            + for_threads;
        let left = usize::try_from(open_files.saturating_sub(kept).max(1)).unwrap_or(usize::MAX);
        if self.max_connections <= left {
            return None;
        }
        let wanted = std::mem::replace(&mut self.max_connections, left);
        Some(format!(
            "max_connections is {left} instead of {wanted}: this process may open {open_files} files (ulimit -n, \
             LimitNOFILE), {kept} of which are kept for the store and for probes"
        ))
    }

    /// The values in effect, as `GetServerInfo` shows them.
    pub(super) fn bounds(&self) -> impl Iterator<Item = Bound> {
        self.values().filter_map(|(key, value)| Some(settings::find(key)?.bound(value)))
    }
}
