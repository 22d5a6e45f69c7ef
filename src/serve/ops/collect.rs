//! [`collect`]: all metrics, and where each value comes from. `docs/reference/metrics.md` lists them; a test compares the two.
//!
//! No label has values that clients can make up without limit: only the 200 largest queues are named, the others are
//! `_other`, and there are no ids.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use super::{
    Ops,
    metrics_text::{Labels, MetricsText},
    stats_cache::CachedStats,
    system_metrics::{DiskMetrics, ProcessMetrics},
};
use crate::{
    domain::{event::EventType, ids::Revision, saga::State, time::Timestamp},
    logs,
    store::{
        QueueCounts, Store,
        vitals::{CheckpointKind, CheckpointOutcome, HistogramSnapshot, QueueVitals, Vitals, WatchKind},
    },
};

/// Most queues that are named; all others are counted together.
const QUEUES: usize = 200;
/// The label of the other queues. No queue has this name, because names begin with a letter or digit.
const OTHER: &str = "_other";

/// All metrics as they are now.
pub(super) async fn collect(ops: &Ops) -> MetricsText {
    let mut metrics = MetricsText::default();
    metrics.gauge(
        "sagad_build_info",
        "Always 1; the version is its label",
        [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
    );
    let ready = ops.checks().iter().all(|check| check.ok);
    metrics.gauge("sagad_ready", "1 if /readyz says so, else 0", one(f64::from(u8::from(ready))));
    process(&mut metrics, ops);
    disk(&mut metrics, ops);
    calls(&mut metrics, ops);
    connections(&mut metrics, ops);
    spans(&mut metrics, ops);
    threads(&mut metrics, ops);
    if let Some(store) = ops.store.get() {
        let cached = ops.stats.read(store).await;
        // After the counts: reading them may have taken a while.
        let vitals = store.vitals();
        writer(&mut metrics, &vitals, store);
        log(&mut metrics, &vitals, ops);
        clocks(&mut metrics, &vitals, store);
        watches(&mut metrics, &vitals);
        event_counts(&mut metrics, &vitals);
        if let Some(cached) = cached {
            sagas(&mut metrics, &cached, &vitals);
        }
    }
    metrics
}

fn one(value: f64) -> Vec<(Labels, f64)> {
    vec![(Vec::new(), value)]
}

fn some(value: Option<u64>) -> Vec<(Labels, f64)> {
    value.map(|value| (Vec::new(), value as f64)).into_iter().collect()
}

fn label(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn process(metrics: &mut MetricsText, ops: &Ops) {
    let process = ProcessMetrics::read();
    let cpu = process.cpu_seconds.map(|cpu| (Vec::new(), cpu));
    metrics.counter("process_cpu_seconds", "CPU time of the daemon, user and system", cpu);
    metrics.gauge("process_resident_memory_bytes", "Memory that the daemon has in RAM", some(process.resident_bytes));
    metrics.gauge("process_virtual_memory_bytes", "Address space of the daemon", some(process.virtual_bytes));
    metrics.gauge("process_threads", "Threads of the daemon", some(process.threads));
    metrics.gauge("process_open_fds", "Open file descriptors", some(process.open_files));
    metrics.gauge("process_max_fds", "Most file descriptors that may be open", some(process.max_open_files));
    let started = one(seconds(ops.started.micros()));
    metrics.gauge("process_start_time_seconds", "When the daemon was started, seconds since 1970", started);
}

fn disk(metrics: &mut MetricsText, ops: &Ops) {
    let disk = DiskMetrics::read(&ops.data);
    metrics.gauge(
        "sagad_disk_free_bytes",
        "Room on the file system of the data directory, for the daemon",
        some(disk.free_bytes),
    );
    metrics.gauge("sagad_disk_size_bytes", "Size of the file system of the data directory", some(disk.size_bytes));
    metrics.gauge("sagad_database_size_bytes", "Size of the database's file", some(disk.database_bytes));
    metrics.gauge(
        "sagad_wal_file_bytes",
        "Size of the write-ahead log's file, used again from its beginning",
        some(disk.wal_file_bytes),
    );
}

fn calls(metrics: &mut MetricsText, ops: &Ops) {
    let methods = ops.rpc_metrics.methods();
    let times = |streams: bool| {
        let all = methods.iter().filter(move |method| method.streams == streams);
        all.flat_map(|method| {
            method.ends().map(|(code, times)| {
                let labels = vec![
                    ("rpc_system_name", "grpc".to_owned()),
                    ("rpc_method", method.name.clone()),
                    ("rpc_response_status_code", code.to_owned()),
                ];
                let (bounds, counts, micros) = times.read();
                (labels, bounds, counts, micros)
            })
        })
    };
    let open = |streams: bool| {
        let all = methods.iter().filter(move |method| method.streams == streams);
        all.map(|method| (label("rpc_method", method.name.clone()), method.open.load(Relaxed) as f64))
    };
    let help = "Duration of unary calls, from headers to trailers, and of items of a Session; a held ClaimNext counts with its wait";
    metrics.histogram("rpc_server_call_duration_seconds", help, 1e6, times(false));
    metrics.gauge("sagad_calls_in_flight", "Unary calls and items of a Session that are not answered yet", open(false));
    metrics.histogram("sagad_stream_duration_seconds", "Duration of streams that have ended", 1e6, times(true));
    metrics.gauge("sagad_streams_open", "Open streams", open(true));
}

fn connections(metrics: &mut MetricsText, ops: &Ops) {
    let Some(connections) = ops.connections.get() else { return };
    let counts = connections.counts();
    metrics.gauge("sagad_connections_open", "Client connections that are open", one(connections.count() as f64));
    metrics.gauge(
        "sagad_connections_limit",
        "Most client connections at a time (max_connections)",
        one(ops.max_connections as f64),
    );
    metrics.counter("sagad_connections_accepted", "Client connections that were accepted", one(counts.accepted as f64));
    let ended = [
        ("no_tls", counts.no_tls),
        ("no_http2", counts.no_http2),
        ("too_late", counts.too_late),
        ("displaced", counts.displaced),
        ("unauthenticated", counts.unauthenticated),
        ("cut", counts.cut),
    ];
    let ended = ended.map(|(reason, count)| (label("reason", reason), count as f64));
    metrics.counter(
        "sagad_connections_refused",
        "Client connections that the daemon ended: no TLS, no HTTP/2, too late, displaced, unauthenticated, cut",
        ended,
    );
}

fn spans(metrics: &mut MetricsText, ops: &Ops) {
    let spans = &ops.spans;
    metrics.counter(
        "sagad_spans_exported",
        "Spans of traces that the collector took",
        one(spans.exported.load(Relaxed) as f64),
    );
    let dropped = [("queue_full", &spans.queue_full), ("not_taken", &spans.not_taken)];
    let dropped = dropped.map(|(reason, count)| (label("reason", reason), count.load(Relaxed) as f64));
    metrics.counter("sagad_spans_dropped", "Spans that were dropped, because the collector is slow or away", dropped);
}

fn threads(metrics: &mut MetricsText, ops: &Ops) {
    let (_, silence) = ops.liveness.network();
    metrics.gauge(
        "sagad_network_silence_seconds",
        "How long ago the slowest network thread last turned; half a second when idle",
        one(seconds(silence.micros())),
    );
    metrics.counter(
        "sagad_log_lines_dropped",
        "Lines of the log that were dropped, because whoever reads it is too slow or away",
        one(logs::dropped_lines() as f64),
    );
}

fn histogram(
    metrics: &mut MetricsText,
    name: &'static str,
    help: &'static str,
    scale: f64,
    buckets: &HistogramSnapshot,
) {
    metrics.histogram(name, help, scale, [(Vec::new(), buckets.bounds, buckets.counts.clone(), buckets.sum)]);
}

fn writer(metrics: &mut MetricsText, vitals: &Vitals, store: &Store) {
    metrics.gauge(
        "sagad_writer_queue_depth",
        "Requests that wait for the writer",
        one(vitals.writer_queue_depth as f64),
    );
    metrics.gauge("sagad_writer_queue_limit", "Most that may wait (writer_queue)", one(vitals.writer_queue_max as f64));
    let silence = one(seconds(store.time_since_turn().micros()));
    metrics.gauge(
        "sagad_writer_silence_seconds",
        "How long ago the writer last turned; a quarter of a second when idle",
        silence,
    );
    metrics.counter(
        "sagad_writer_changes",
        "Requests that the writer judged, accepted or refused by the rules",
        one(vitals.changes as f64),
    );
    histogram(metrics, "sagad_writer_batch_size", "Requests in one transaction", 1.0, &vitals.batch_sizes);
    let help = "Duration of a whole transaction, from its first request to the answers";
    histogram(metrics, "sagad_writer_batch_duration_seconds", help, 1e6, &vitals.batch_micros);
    let help = "Duration of the commit alone: writing the log and syncing it, which SQLite does not tell apart";
    histogram(metrics, "sagad_store_commit_duration_seconds", help, 1e6, &vitals.commit_micros);
    let refused = vitals.refusals;
    let refused = [
        ("queue_full", refused.queue_full),
        ("no_room", refused.no_room),
        ("too_many_waiting", refused.too_many_waiting),
        ("disk_full", refused.disk_full),
    ];
    let refused = refused.map(|(reason, count)| (label("reason", reason), count as f64));
    metrics.counter(
        "sagad_requests_turned_away",
        "Requests that were refused for lack of room and may be tried again",
        refused,
    );
    metrics.gauge(
        "sagad_disk_full",
        "1 while changes are refused because the disk is full",
        one(f64::from(u8::from(vitals.disk_full))),
    );
    metrics.gauge(
        "sagad_claims_waiting",
        "ClaimNext calls that are held until there is a saga",
        one(vitals.waiting as f64),
    );
    metrics.gauge("sagad_revision", "The newest durable revision", one(vitals.head.0 as f64));
}

fn log(metrics: &mut MetricsText, vitals: &Vitals, ops: &Ops) {
    let log = &vitals.log;
    metrics.gauge(
        "sagad_wal_bytes",
        "Pages in the write-ahead log since it was last started anew",
        one(log.bytes as f64),
    );
    metrics.gauge("sagad_wal_limit_bytes", "Largest write-ahead log (max_wal_bytes)", one(ops.max_wal_bytes as f64));
    metrics.counter("sagad_wal_begun_anew", "How often the write-ahead log was started anew", one(log.begun as f64));
    let checkpoints = log.checkpoints.iter().map(|(kind, outcome, count)| {
        let kind = match kind {
            CheckpointKind::Passive => "passive",
            CheckpointKind::Restart => "restart",
        };
        let outcome = match outcome {
            CheckpointOutcome::Done => "done",
            CheckpointOutcome::Busy => "busy",
            CheckpointOutcome::Failed => "failed",
        };
        (vec![("kind", kind.to_owned()), ("outcome", outcome.to_owned())], *count as f64)
    });
    metrics.counter("sagad_checkpoints", "Checkpoints; busy: a read was in the way", checkpoints);
}

fn clocks(metrics: &mut MetricsText, vitals: &Vitals, store: &Store) {
    let clock = &vitals.clock;
    let help = "By how much the machine's wall clock is ahead of the coordinator's, which no step moves";
    metrics.gauge("sagad_clock_distance_seconds", help, one(seconds(clock.distance)));
    metrics.counter(
        "sagad_clock_steps",
        "Steps of the wall clock of a quarter of a second or more",
        one(clock.steps as f64),
    );
    metrics.gauge(
        "sagad_clock_last_step_seconds",
        "By how much it was stepped the last time",
        one(seconds(clock.last_step)),
    );
    metrics.counter(
        "sagad_absences",
        "How often the coordinator did not run for a while: stopped, starved, stuck in a write",
        one(clock.absences as f64),
    );
    let longest = one(seconds(clock.longest_absence.micros()));
    metrics.gauge("sagad_absence_longest_seconds", "The longest such absence", longest);
    let grace = store.read_time().grace;
    // The grace is on the coordinator's clock; the metric is on the machine's.
    let ends = grace.returned_at.plus(grace.length).micros().saturating_add(clock.distance);
    metrics.gauge(
        "sagad_restart_grace_end_time_seconds",
        "Until when leases that ran out in the last absence stand, seconds since 1970",
        one(seconds(ends)),
    );
}

fn watches(metrics: &mut MetricsText, vitals: &Vitals) {
    let of = |kind: WatchKind| vitals.watches.iter().filter(move |watch| watch.kind == kind);
    let name = |kind: WatchKind| match kind {
        WatchKind::Stale => label("kind", "stale"),
        WatchKind::Events => label("kind", "events"),
    };
    let open = WatchKind::ALL.map(|kind| (name(kind), of(kind).count() as f64));
    metrics.gauge("sagad_watches_open", "Open watches", open);
    let behind = |position: Revision| (vitals.head.0 - position.0).max(0) as f64;
    let lag = WatchKind::ALL.map(|kind| (name(kind), of(kind).map(|watch| behind(watch.position)).fold(0.0, f64::max)));
    metrics.gauge(
        "sagad_watch_lag_revisions",
        "By how many revisions the slowest open watch is behind the newest",
        lag,
    );
}

fn event_counts(metrics: &mut MetricsText, vitals: &Vitals) {
    let events = vitals.events.iter().map(|(kind, count)| (label("type", event_name(*kind)), *count as f64));
    metrics.counter("sagad_events", "Events of the history", events);
    let queues: Vec<(String, QueueVitals)> =
        vitals.queues.iter().map(|(queue, counts)| (queue.to_string(), *counts)).collect();
    let others = (vitals.other_queues != QueueVitals::default()).then(|| (OTHER.to_owned(), vitals.other_queues));
    let queues: Vec<_> = queues.into_iter().chain(others).collect();
    let expired = queues.iter().flat_map(|(queue, counts)| {
        let of =
            |purpose: &str, count: u64| (vec![("queue", queue.clone()), ("purpose", purpose.to_owned())], count as f64);
        [of("execute", counts.execution_expired), of("compensate", counts.compensation_expired)]
    });
    metrics.counter("sagad_lease_expirations", "Leases that ran out", expired);
    let parked = queues.iter().map(|(queue, counts)| (label("queue", queue.clone()), counts.quarantined as f64));
    metrics.counter("sagad_quarantines", "Sagas that were parked for a person", parked);
}

fn sagas(metrics: &mut MetricsText, cached: &CachedStats, vitals: &Vitals) {
    let age = vitals.time.since(cached.at);
    metrics.gauge(
        "sagad_counts_age_seconds",
        "How old the counts of sagas below are; they are read every 10 s at most",
        one(seconds(age.micros())),
    );
    let queues = largest_queues(&cached.stats.queues);
    let by_queue = |value: fn(&QueueSums) -> f64| {
        queues.iter().map(move |(queue, sums)| (label("queue", queue.clone()), value(sums)))
    };
    let states = queues.iter().flat_map(|(queue, sums)| {
        sums.states.iter().map(|(state, count)| {
            (vec![("queue", queue.clone()), ("state", state.name().to_lowercase())], *count as f64)
        })
    });
    metrics.gauge("sagad_sagas", "Sagas by queue and state", states);
    metrics.gauge("sagad_sagas_ready", "Sagas that wait for a worker", by_queue(|sums| sums.ready as f64));
    metrics.gauge(
        "sagad_sagas_stale",
        "Sagas whose lease ran out and that nobody has decided on",
        by_queue(|sums| sums.stale as f64),
    );
    let oldest = |sums: &QueueSums| sums.oldest_ready_micros.map_or(0.0, seconds);
    let oldest: Vec<_> = queues.iter().map(|(queue, sums)| (label("queue", queue.clone()), oldest(sums))).collect();
    metrics.gauge(
        "sagad_oldest_ready_age_seconds",
        "For how long the oldest ready saga has waited; 0: there is none",
        oldest,
    );
    metrics.gauge("sagad_queue_paused", "1 if the queue is paused", by_queue(|sums| f64::from(u8::from(sums.paused))));
    let watching = |queue: &str| {
        let stale = vitals.watches.iter().filter(|watch| watch.kind == WatchKind::Stale);
        stale.filter(|watch| watch.queues.is_empty() || watch.queues.iter().any(|name| name.as_str() == queue)).count()
    };
    let watching = queues.iter().map(|(queue, _)| (label("queue", queue.clone()), watching(queue) as f64));
    metrics.gauge("sagad_stale_watches", "Open watches that would be told of a stale saga of the queue", watching);
    let asked = |queue: &str| {
        let times =
            vitals.handled_kinds.iter().filter(|asking| asking.queue.as_str() == queue).map(|asking| asking.last);
        times.max().map_or(0.0, |last: Timestamp| seconds(last.micros().saturating_add(vitals.clock.distance)))
    };
    let asked = queues.iter().map(|(queue, _)| (label("queue", queue.clone()), asked(queue)));
    metrics.gauge(
        "sagad_compensation_asked_time_seconds",
        "When a ClaimNext for compensation last named the queue, seconds since 1970; 0: never",
        asked,
    );
}

/// The counts of one queue, or of several together.
#[derive(Clone, Debug, Default)]
struct QueueSums {
    states: BTreeMap<State, u64>,
    ready: u64,
    stale: u64,
    oldest_ready_micros: Option<i64>,
    paused: bool,
}

impl QueueSums {
    fn add(&mut self, queue: &QueueCounts) {
        queue.states.iter().for_each(|(state, count)| *self.states.entry(*state).or_default() += count);
        self.ready += queue.ready;
        self.stale += queue.stale;
        self.oldest_ready_micros = self.oldest_ready_micros.max(queue.oldest_ready_age.map(|age| age.micros()));
        self.paused |= queue.paused;
    }
}

/// The largest queues in order of name, then the others together.
fn largest_queues(queues: &[QueueCounts]) -> Vec<(String, QueueSums)> {
    let in_flight = |queue: &QueueCounts| -> u64 {
        queue.states.iter().filter(|(state, _)| !state.is_terminal()).map(|(_, count)| count).sum()
    };
    let all = |queue: &QueueCounts| -> u64 { queue.states.iter().map(|(_, count)| count).sum() };
    let mut by_size: Vec<_> = queues.iter().collect();
    by_size.sort_by_key(|queue| (std::cmp::Reverse((in_flight(queue), all(queue))), queue.queue.clone()));
    let mut told: BTreeMap<String, QueueSums> = BTreeMap::new();
    let mut others: Option<QueueSums> = None;
    for (place, queue) in by_size.into_iter().enumerate() {
        if place < QUEUES {
            told.entry(queue.queue.to_string()).or_default().add(queue);
        } else {
            others.get_or_insert_default().add(queue);
        }
    }
    told.into_iter().chain(others.map(|sums| (OTHER.to_owned(), sums))).collect()
}

fn event_name(kind: EventType) -> &'static str {
    match kind {
        EventType::Created => "created",
        EventType::Dispatched => "dispatched",
        EventType::Claimed => "claimed",
        EventType::Released => "released",
        EventType::Requeued => "requeued",
        EventType::LeaseExpired => "lease_expired",
        EventType::RecoveryDecided => "recovery_decided",
        EventType::CancelRequested => "cancel_requested",
        EventType::CompensationRegistered => "compensation_registered",
        EventType::CompensationSettled => "compensation_settled",
        EventType::Compensating => "compensating",
        EventType::Completed => "completed",
        EventType::Failed => "failed",
        EventType::RetryScheduled => "retry_scheduled",
        EventType::Compensated => "compensated",
        EventType::Quarantined => "quarantined",
        EventType::Annotated => "annotated",
    }
}
