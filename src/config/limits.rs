//! The operational limits, which keep any client or backlog from exhausting the daemon. Each default has its reason
//! next to it.

use crate::domain::{
    bounds::{BATCH_BYTES, Bound},
    time::Span,
};

use super::{ConfigError, setting, source::Sources, value};

/// Most connections: 10,000 clients and some for operators. Each costs a file descriptor and some 20 KiB.
const MAX_CONNECTIONS: u64 = 10_240;
/// Time for the HTTP/2 preface: a client sends it with its first packet, so 5 s allow for a few lost ones.
const PREFACE_TIMEOUT: Span = Span::from_secs(5);
/// Time until a first call is admitted: programs connect when they start, and some make their first call a moment
/// later. A connection without a call is closed after this, so that others can use its place.
const AUTH_TIMEOUT: Span = Span::from_secs(30);
/// Most streams on one connection. Clients queue further calls, heartbeats too, so it has to be higher than the number
/// of held `ClaimNext` calls of one process.
const MAX_CONCURRENT_STREAMS: u64 = 1024;
/// How often a connection is probed: with the timeout, a dead peer is found within the default ttl of 30 s.
const KEEPALIVE_INTERVAL: Span = Span::from_secs(20);
/// Time for the answer to a probe: several round trips of a slow network.
const KEEPALIVE_TIMEOUT: Span = Span::from_secs(10);
/// Largest request message: gRPC's own default, and twice the largest batch.
const MAX_MESSAGE_BYTES: u64 = 4 << 20;
/// The minimum: the largest batch with its framing fits.
const MAX_MESSAGE_BYTES_MIN: u64 = BATCH_BYTES as u64 + (64 << 10);
/// Time for a request to arrive: the largest one at 1.2 Mbit/s. It can be this long because memory is bounded by
/// another limit.
const REQUEST_TIMEOUT: Span = Span::from_secs(30);
/// Time for a client to take an answer or a part of one: twice that, because clients pause.
const ANSWER_TIMEOUT: Span = Span::from_secs(60);
/// Most calls and streams on all connections: as many `ClaimNext` calls, watches and worker streams as the other
/// limits allow (10,000 + 2 x 4096), and 14,000 short calls. Each costs some 10 KiB.
const MAX_CALLS: u64 = 32_768;
/// Most bytes of requests and answers in memory: 64 of the largest requests, 85 of the largest answers.
const MAX_CALL_BYTES: u64 = 256 << 20;
/// The minimum: the largest allowed `max_message_bytes` has to fit.
const MAX_CALL_BYTES_MIN: u64 = MAX_MESSAGE_BYTES_MAX;
/// Largest `max_message_bytes`.
const MAX_MESSAGE_BYTES_MAX: u64 = 64 << 20;
/// Unanswered items of one `Session`: usually more than a worker has leases, and a thirtieth of `writer_queue`. Each
/// costs some 200 bytes in addition to its request, and counts as a call.
const MAX_SESSION_CALLS: u64 = 256;
/// Most open streams: each holds a task and up to one page of what it watches (16 KiB).
const MAX_WATCHES: u64 = 4096;
/// Most held claims: one for each worker of a fleet as large as the connections allow.
const MAX_WAITING: u64 = 10_000;
/// Most changes that wait for the writer: 200 ms of work at full speed. Beyond that, refusing is better than waiting.
const WRITER_QUEUE: u64 = 8192;
/// Most changes in one transaction: a commit takes less than about 10 ms, which bounds how long the first change waits
/// for the last.
const WRITER_BATCH: u64 = 1024;
/// Most threads that serve connections by default: more than the writer can keep up with.
const NETWORK_THREADS: u64 = 16;
/// Most threads that serve connections.
const NETWORK_THREADS_MAX: u64 = 64;
/// Connections for reading: as many as a small machine has cores; each has a page cache of its own.
const READERS: u64 = 4;
/// Most connections for reading: further ones would only wait for the disk and use memory.
const READERS_MAX: u64 = 64;
/// Largest write-ahead log: large enough that restarting it is rare, small enough to be read back in under a second.
const MAX_WAL_BYTES: u64 = 64 << 20;

/// File descriptors that are not for connections: the store's files (three for each of its connections, backups), the
/// standard streams, the runtime, the listener.
const DESCRIPTORS_KEPT: u64 = 64;
/// Most connections for metrics and probes: a few scrapers, probes and people, and some idle ones.
pub const OPS_CONNECTIONS: usize = 128;
/// Connections that are closing, beyond `max_connections` (`listen/places.rs`), and one that waits for a place.
const DESCRIPTORS_LEAVING: u64 = 17;
/// File descriptors of one network thread: its event queue, its waker and those for signals.
const DESCRIPTORS_PER_THREAD: u64 = 4;
/// File descriptors of one connection for reading: the database, its WAL and its shared memory.
const DESCRIPTORS_PER_READER: u64 = 3;

/// The operational limits of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time; beyond that, connections that have made no call are closed.
    pub max_connections: usize,
    /// How long a new connection may take to send the HTTP/2 preface.
    pub preface_timeout: Span,
    /// How long a new connection may take until a call on it is admitted.
    pub auth_timeout: Span,
    /// Most calls and streams at a time on one connection.
    pub max_concurrent_streams: u32,
    /// How often an idle connection is probed with an HTTP/2 PING.
    pub keepalive_interval: Span,
    /// How long the peer may take to answer a probe.
    pub keepalive_timeout: Span,
    /// Largest request message, in bytes.
    pub max_message_bytes: usize,
    /// How long a request may take to arrive.
    pub request_timeout: Span,
    /// How long a client may leave answers unread.
    pub answer_timeout: Span,
    /// Most calls and streams at a time, on all connections.
    pub max_calls: usize,
    /// Most bytes of requests that are received or executed, and of answers that are not sent yet.
    pub max_call_bytes: usize,
    /// Most open streams at a time.
    pub max_watches: usize,
    /// Most unanswered items of one `Session`.
    pub max_session_calls: usize,
    /// Most held `ClaimNext` calls at a time.
    pub max_waiting: usize,
    /// Most changes that wait for the writer.
    pub writer_queue: usize,
    /// Most changes in one transaction.
    pub writer_batch: usize,
    /// Threads that serve connections.
    pub network_threads: usize,
    /// Connections to the store for reading.
    pub readers: usize,
    /// Largest write-ahead log, in bytes.
    pub max_wal_bytes: u64,
}

/// The number of threads that serve connections for a configured number; 0: one for each processor.
fn network_threads(wanted: u64) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    (if wanted == 0 { processors().min(NETWORK_THREADS) } else { wanted }) as usize
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: MAX_CONNECTIONS as usize,
            preface_timeout: PREFACE_TIMEOUT,
            auth_timeout: AUTH_TIMEOUT,
            max_concurrent_streams: MAX_CONCURRENT_STREAMS as u32,
            keepalive_interval: KEEPALIVE_INTERVAL,
            keepalive_timeout: KEEPALIVE_TIMEOUT,
            max_message_bytes: MAX_MESSAGE_BYTES as usize,
            request_timeout: REQUEST_TIMEOUT,
            answer_timeout: ANSWER_TIMEOUT,
            max_calls: MAX_CALLS as usize,
            max_call_bytes: MAX_CALL_BYTES as usize,
            max_watches: MAX_WATCHES as usize,
            max_session_calls: MAX_SESSION_CALLS as usize,
            max_waiting: MAX_WAITING as usize,
            writer_queue: WRITER_QUEUE as usize,
            writer_batch: WRITER_BATCH as usize,
            network_threads: network_threads(0),
            readers: READERS as usize,
            max_wal_bytes: MAX_WAL_BYTES,
        }
    }
}

impl Limits {
    pub(super) fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let count = |key, default, most| {
            sources.read(key, default, value::count(1, most), setting::count).map(|count| count as usize)
        };
        let span = |key, default, least, most| {
            sources.read(key, default, value::span(Span::from_millis(least), Span::from_secs(most)), setting::span)
        };
        let size = |key, default, least, most| sources.read(key, default, value::size(least, most), setting::size);
        Ok(Limits {
            max_connections: count("max_connections", MAX_CONNECTIONS, 1_000_000)?,
            preface_timeout: span("preface_timeout", PREFACE_TIMEOUT, 100, 60)?,
            auth_timeout: span("auth_timeout", AUTH_TIMEOUT, 1000, 3600)?,
            max_concurrent_streams: count("max_concurrent_streams", MAX_CONCURRENT_STREAMS, 100_000)? as u32,
            keepalive_interval: span("keepalive_interval", KEEPALIVE_INTERVAL, 1000, 3600)?,
            keepalive_timeout: span("keepalive_timeout", KEEPALIVE_TIMEOUT, 1000, 600)?,
            max_message_bytes: size(
                "max_message_bytes",
                MAX_MESSAGE_BYTES,
                MAX_MESSAGE_BYTES_MIN,
                MAX_MESSAGE_BYTES_MAX,
            )? as usize,
            request_timeout: span("request_timeout", REQUEST_TIMEOUT, 100, 600)?,
            answer_timeout: span("answer_timeout", ANSWER_TIMEOUT, 1000, 3600)?,
            max_calls: count("max_calls", MAX_CALLS, 10_000_000)?,
            max_call_bytes: size("max_call_bytes", MAX_CALL_BYTES, MAX_CALL_BYTES_MIN, 1 << 40)? as usize,
            max_watches: count("max_watches", MAX_WATCHES, 1_000_000)?,
            max_session_calls: count("max_session_calls", MAX_SESSION_CALLS, 100_000)?,
            max_waiting: count("max_waiting", MAX_WAITING, 1_000_000)?,
            writer_queue: count("writer_queue", WRITER_QUEUE, 1_000_000)?,
            writer_batch: count("writer_batch", WRITER_BATCH, 100_000)?,
            network_threads: network_threads(sources.read(
                "network_threads",
                0,
                value::count(0, NETWORK_THREADS_MAX),
                setting::count,
            )?),
            readers: count("readers", READERS, READERS_MAX)?,
            max_wal_bytes: size("max_wal_bytes", MAX_WAL_BYTES, 1 << 20, 1 << 40)?,
        })
    }

    /// Lowers `max_connections` so that it fits the limit on open files. Returns a warning if it did.
    pub fn fit_to_descriptors(&mut self, open_files: u64) -> Option<String> {
        let for_threads = DESCRIPTORS_PER_THREAD * self.network_threads as u64;
        let kept = DESCRIPTORS_KEPT
            + OPS_CONNECTIONS as u64
            + DESCRIPTORS_LEAVING
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

    pub(super) fn bounds(&self) -> Vec<Bound> {
        let count = |name, value: usize, meaning| Bound { name, value: value as i64, unit: "count", meaning };
        let bytes = |name, value: u64, meaning| Bound { name, value: value as i64, unit: "bytes", meaning };
        vec![
            count("max_connections", self.max_connections, "most connections; further ones wait to be accepted"),
            span_bound("preface_timeout", self.preface_timeout, "time for a new connection's HTTP/2 preface"),
            span_bound("auth_timeout", self.auth_timeout, "time until a first call on a new connection is let in"),
            count("max_concurrent_streams", self.max_concurrent_streams as usize, "most calls on one connection"),
            span_bound("keepalive_interval", self.keepalive_interval, "time between probes of a connection"),
            span_bound("keepalive_timeout", self.keepalive_timeout, "time for a peer's answer to a probe"),
            bytes("max_message_bytes", self.max_message_bytes as u64, "largest request message"),
            span_bound("request_timeout", self.request_timeout, "time for a request to arrive"),
            span_bound("answer_timeout", self.answer_timeout, "time for a client to take an answer"),
            count("max_calls", self.max_calls, "most calls on all connections"),
            bytes("max_call_bytes", self.max_call_bytes as u64, "most bytes of requests and answers on their way"),
            count("max_watches", self.max_watches, "most open streams"),
            count("max_session_calls", self.max_session_calls, "most items of a Session that have no answer yet"),
            count("max_waiting", self.max_waiting, "most held ClaimNext calls"),
            count("writer_queue", self.writer_queue, "most changes that wait for the writer"),
            count("writer_batch", self.writer_batch, "most changes in one transaction"),
            count("network_threads", self.network_threads, "threads that serve connections"),
            count("readers", self.readers, "connections to the store that read"),
            bytes("max_wal_bytes", self.max_wal_bytes, "largest write-ahead log"),
        ]
    }
}

/// A duration as `GetServerInfo` shows it.
pub(super) fn span_bound(name: &'static str, value: Span, meaning: &'static str) -> Bound {
    Bound { name, value: value.micros(), unit: "microseconds", meaning }
}
