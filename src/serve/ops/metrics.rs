//! Every metric of `/metrics`, declared once: its name, labels, help, and what reads it. `docs/reference/metrics.md` is made from
//! this table.
//!
//! No label has values that clients can make up without limit: only the 200 largest queues are named, the others are
//! `_other`, and there are no ids.

use std::sync::atomic::Ordering::Relaxed;

use super::readings::{QueueGauges, Readings, StoreReadings};
use crate::{
    domain::{event::EventType, time::Timestamp},
    logs,
    metrics::{CheckpointKind, CheckpointOutcome, HistogramSnapshot, QueueEventCounts, WatchKind},
    serve::observe::MethodMetrics,
};

/// A metric.
#[derive(Debug)]
pub(super) struct Metric {
    /// With its unit (`_seconds`, `_bytes`) and without the `_total` of counters.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// Its values now; none: it is left out.
    pub(super) read: fn(&Readings) -> Samples,
}

/// What kind of values a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The values of the labels, in their order, and the value.
pub(super) type Samples = Vec<(Vec<String>, Value)>;

#[derive(Clone, Debug)]
pub(super) enum Value {
    Number(f64),
    /// In microseconds if the name ends in `_seconds`.
    Histogram(HistogramSnapshot),
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Readings) -> Samples) -> Metric {
    Metric { name, kind: Kind::Counter, labels: &[], help, read }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Readings) -> Samples) -> Metric {
    Metric { name, kind: Kind::Gauge, labels: &[], help, read }
}

const fn histogram(name: &'static str, help: &'static str, read: fn(&Readings) -> Samples) -> Metric {
    Metric { name, kind: Kind::Histogram, labels: &[], help, read }
}

impl Metric {
    const fn by(self, labels: &'static [&'static str]) -> Self {
        Metric { labels, ..self }
    }
}

const QUEUE: &[&str] = &["queue"];
const CALL: &[&str] = &["rpc_system_name", "rpc_method", "rpc_response_status_code"];

/// The metrics, by section of the documentation.
pub(super) const METRICS: &[(&str, &[Metric])] = &[
    (
        "Calls",
        &[
            histogram(
                "rpc_server_call_duration_seconds",
                "Duration of unary calls, from headers to trailers, and of items of a Session; a held ClaimNext counts with its wait",
                |now| durations(now, false),
            )
            .by(CALL),
            gauge("sagad_calls_in_flight", "Unary calls and items of a Session that are not answered yet", |now| {
                open(now, false)
            })
            .by(&["rpc_method"]),
            histogram("sagad_stream_duration_seconds", "Duration of streams that have ended", |now| {
                durations(now, true)
            })
            .by(CALL),
            gauge("sagad_streams_open", "Open streams", |now| open(now, true)).by(&["rpc_method"]),
            counter("sagad_connections_accepted", "Client connections that were accepted", |now| {
                if_some(now.ops.connections.get().map(|all| all.counts().accepted))
            }),
            gauge("sagad_connections_limit", "Most client connections at a time (max_connections)", |now| {
                one(now.ops.max_connections as f64)
            }),
            gauge("sagad_connections_open", "Client connections that are open", |now| {
                if_some(now.ops.connections.get().map(|all| all.count() as u64))
            }),
            counter(
                "sagad_connections_refused",
                "Client connections that the daemon ended: no TLS, no HTTP/2, too late, displaced, unauthenticated, cut",
                refused_connections,
            )
            .by(&["reason"]),
            counter(
                "sagad_requests_turned_away",
                "Requests that were refused for lack of room and may be tried again",
                |now| {
                    now.of_store(|store| {
                        let refusals = store.vitals.refusals;
                        numbers([
                            ("queue_full", refusals.queue_full),
                            ("no_room", refusals.no_room),
                            ("too_many_waiting", refusals.too_many_waiting),
                            ("disk_full", refusals.disk_full),
                        ])
                    })
                },
            )
            .by(&["reason"]),
        ],
    ),
    (
        "Sagas",
        &[
            gauge("sagad_claims_waiting", "ClaimNext calls that are held until there is a saga", |now| {
                now.of_store(|store| one(store.vitals.waiting as f64))
            }),
            gauge(
                "sagad_compensation_asked_time_seconds",
                "When a ClaimNext for compensation last named the queue, seconds since 1970; 0: never",
                |now| now.of_store(asked_for_compensation),
            )
            .by(QUEUE),
            gauge(
                "sagad_counts_age_seconds",
                "How old the counts of sagas below are; they are read every 10 s at most",
                |now| {
                    now.of_store(|store| match store.counted_at {
                        Some(at) => one(seconds(store.vitals.time.since(at).micros())),
                        None => Vec::new(),
                    })
                },
            ),
            counter("sagad_events", "Events of the history", |now| {
                now.of_store(|store| numbers(store.vitals.events.iter().map(|(kind, count)| (event_name(*kind), *count))))
            })
            .by(&["type"]),
            counter("sagad_lease_expirations", "Leases that ran out", |now| {
                now.of_store(|store| {
                    let of_queue = |(queue, counts): (String, QueueEventCounts)| {
                        [("execute", counts.execution_expired), ("compensate", counts.compensation_expired)]
                            .map(|(purpose, count)| (vec![queue.clone(), purpose.to_owned()], Value::Number(count as f64)))
                    };
                    store.queue_events().flat_map(of_queue).collect()
                })
            })
            .by(&["queue", "purpose"]),
            gauge(
                "sagad_oldest_ready_age_seconds",
                "For how long the oldest ready saga has waited; 0: there is none",
                |now| by_queue(now, |sums| sums.oldest_ready_micros.map_or(0.0, seconds)),
            )
            .by(QUEUE),
            counter("sagad_quarantines", "Sagas that were parked for a person", |now| {
                now.of_store(|store| numbers(store.queue_events().map(|(queue, counts)| (queue, counts.quarantined))))
            })
            .by(QUEUE),
            gauge("sagad_queue_paused", "1 if the queue is paused", |now| {
                by_queue(now, |sums| f64::from(u8::from(sums.paused)))
            })
            .by(QUEUE),
            gauge("sagad_revision", "The newest durable revision", |now| {
                now.of_store(|store| one(store.vitals.head.0 as f64))
            }),
            gauge("sagad_sagas", "Sagas by queue and state", |now| {
                now.of_store(|store| {
                    let of_queue = |(queue, sums): &(String, QueueGauges)| {
                        let labels = |state: &str| vec![queue.clone(), state.to_lowercase()];
                        let counts = sums.states.iter();
                        counts.map(|(state, count)| (labels(state.name()), Value::Number(*count as f64))).collect::<Vec<_>>()
                    };
                    store.queues.iter().flat_map(of_queue).collect()
                })
            })
            .by(&["queue", "state"]),
            gauge("sagad_sagas_ready", "Sagas that wait for a worker", |now| by_queue(now, |sums| sums.ready as f64))
                .by(QUEUE),
            gauge("sagad_sagas_stale", "Sagas whose lease ran out and that nobody has decided on", |now| {
                by_queue(now, |sums| sums.stale as f64)
            })
            .by(QUEUE),
        ],
    ),
    (
        "Watches",
        &[
            gauge("sagad_stale_watches", "Open watches that would be told of a stale saga of the queue", |now| {
                now.of_store(|store| {
                    let watched = |queue: &str| {
                        let stale = store.vitals.watches.iter().filter(|watch| watch.kind == WatchKind::Stale);
                        let of_queue = stale.filter(|watch| {
                            watch.queues.is_empty() || watch.queues.iter().any(|name| name.as_str() == queue)
                        });
                        of_queue.count() as u64
                    };
                    numbers(store.queues.iter().map(|(queue, _)| (queue, watched(queue))))
                })
            })
            .by(QUEUE),
            gauge(
                "sagad_watch_lag_revisions",
                "By how many revisions the slowest open watch is behind the newest",
                |now| {
                    now.of_store(|store| {
                        let head = store.vitals.head.0;
                        by_watch_kind(store, |positions| {
                            positions.map(|position| (head - position).max(0)).max().unwrap_or(0) as u64
                        })
                    })
                },
            )
            .by(&["kind"]),
            gauge("sagad_watches_open", "Open watches", |now| {
                now.of_store(|store| by_watch_kind(store, |positions| positions.count() as u64))
            })
            .by(&["kind"]),
        ],
    ),
    (
        "The writer and the disk",
        &[
            counter("sagad_checkpoints", "Checkpoints; busy: a read was in the way", |now| {
                now.of_store(|store| {
                    let named = store.vitals.log.checkpoints.iter().map(|(kind, outcome, count)| {
                        let labels = [checkpoint_kind(*kind), checkpoint_outcome(*outcome)].map(str::to_owned);
                        (labels.to_vec(), Value::Number(*count as f64))
                    });
                    named.collect()
                })
            })
            .by(&["kind", "outcome"]),
            gauge("sagad_database_size_bytes", "Size of the database's file", |now| if_some(now.disk.database_bytes)),
            gauge("sagad_disk_free_bytes", "Room on the file system of the data directory, for the daemon", |now| {
                if_some(now.disk.free_bytes)
            }),
            gauge("sagad_disk_full", "1 while changes are refused because the disk is full", |now| {
                now.of_store(|store| one(f64::from(u8::from(store.vitals.disk_full))))
            }),
            gauge("sagad_disk_size_bytes", "Size of the file system of the data directory", |now| {
                if_some(now.disk.size_bytes)
            }),
            histogram(
                "sagad_store_commit_duration_seconds",
                "Duration of the commit alone: writing the log and syncing it, which SQLite does not tell apart",
                |now| now.of_store(|store| distribution(&store.vitals.commit_micros)),
            ),
            counter("sagad_wal_begun_anew", "How often the write-ahead log was started anew", |now| {
                now.of_store(|store| one(store.vitals.log.begun as f64))
            }),
            gauge("sagad_wal_bytes", "Pages in the write-ahead log since it was last started anew", |now| {
                now.of_store(|store| one(store.vitals.log.bytes as f64))
            }),
            gauge(
                "sagad_wal_file_bytes",
                "Size of the write-ahead log's file, used again from its beginning",
                |now| if_some(now.disk.wal_file_bytes),
            ),
            gauge("sagad_wal_limit_bytes", "Largest write-ahead log (max_wal_bytes)", |now| {
                one(now.ops.max_wal_bytes as f64)
            }),
            histogram(
                "sagad_writer_batch_duration_seconds",
                "Duration of a whole transaction, from its first request to the answers",
                |now| now.of_store(|store| distribution(&store.vitals.batch_micros)),
            ),
            histogram("sagad_writer_batch_size", "Requests in one transaction", |now| {
                now.of_store(|store| distribution(&store.vitals.batch_sizes))
            }),
            counter(
                "sagad_writer_changes",
                "Requests that the writer judged, accepted or refused by the rules",
                |now| now.of_store(|store| one(store.vitals.changes as f64)),
            ),
            gauge("sagad_writer_queue_depth", "Requests that wait for the writer", |now| {
                now.of_store(|store| one(store.vitals.writer_queue_depth as f64))
            }),
            gauge("sagad_writer_queue_limit", "Most that may wait (writer_queue)", |now| {
                now.of_store(|store| one(store.vitals.writer_queue_max as f64))
            }),
            gauge(
                "sagad_writer_silence_seconds",
                "How long ago the writer last ran; a quarter of a second when idle",
                |now| now.of_store(|store| one(seconds(store.writer_silence.micros()))),
            ),
        ],
    ),
    (
        "Clocks",
        &[
            gauge("sagad_absence_longest_seconds", "The longest absence of the coordinator", |now| {
                now.of_store(|store| one(seconds(store.vitals.clock.longest_absence.micros())))
            }),
            counter(
                "sagad_absences",
                "How often the coordinator did not run for a while: stopped, starved, stuck in a write",
                |now| now.of_store(|store| one(store.vitals.clock.absences as f64)),
            ),
            gauge(
                "sagad_clock_distance_seconds",
                "By how much the machine's wall clock is ahead of the coordinator's, which no step moves",
                |now| now.of_store(|store| one(seconds(store.vitals.clock.distance))),
            ),
            gauge("sagad_clock_last_step_seconds", "By how much it was stepped the last time", |now| {
                now.of_store(|store| one(seconds(store.vitals.clock.last_step)))
            }),
            counter("sagad_clock_steps", "Steps of the wall clock of a quarter of a second or more", |now| {
                now.of_store(|store| one(store.vitals.clock.steps as f64))
            }),
            gauge(
                "sagad_restart_grace_end_time_seconds",
                "Until when leases that ran out in the last absence stand, seconds since 1970",
                |now| {
                    now.of_store(|store| {
                        let ends = store.grace.returned_at.plus(store.grace.length);
                        one(on_wall_clock(store, ends))
                    })
                },
            ),
        ],
    ),
    (
        "Traces",
        &[
            counter(
                "sagad_spans_dropped",
                "Spans that were dropped, because the collector is slow or away",
                |now| {
                    let spans = &now.ops.spans;
                    numbers([
                        ("queue_full", spans.queue_full.load(Relaxed)),
                        ("not_taken", spans.not_taken.load(Relaxed)),
                    ])
                },
            )
            .by(&["reason"]),
            counter("sagad_spans_exported", "Spans of traces that the collector took", |now| {
                one(now.ops.spans.exported.load(Relaxed) as f64)
            }),
        ],
    ),
    (
        "The process",
        &[
            counter("process_cpu_seconds", "CPU time of the daemon, user and system", |now| {
                now.process.cpu_seconds.map(one).unwrap_or_default()
            }),
            gauge("process_max_fds", "Most file descriptors that may be open", |now| {
                if_some(now.process.max_open_files)
            }),
            gauge("process_open_fds", "Open file descriptors", |now| if_some(now.process.open_files)),
            gauge("process_resident_memory_bytes", "Memory that the daemon has in RAM", |now| {
                if_some(now.process.resident_bytes)
            }),
            gauge("process_start_time_seconds", "When the daemon was started, seconds since 1970", |now| {
                one(seconds(now.ops.started.micros()))
            }),
            gauge("process_threads", "Threads of the daemon", |now| if_some(now.process.threads)),
            gauge("process_virtual_memory_bytes", "Address space of the daemon", |now| {
                if_some(now.process.virtual_bytes)
            }),
            gauge("sagad_build_info", "Always 1; the version is its label", |_| {
                vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], Value::Number(1.0))]
            })
            .by(&["version"]),
            counter(
                "sagad_log_lines_dropped",
                "Lines of the log that were dropped, because whoever reads it is too slow or away",
                |_| one(logs::dropped_lines() as f64),
            ),
            gauge(
                "sagad_network_silence_seconds",
                "How long ago the slowest network thread last ran; half a second when idle",
                |now| one(seconds(now.ops.liveness.network().1.micros())),
            ),
            gauge("sagad_ready", "1 if /readyz says so, else 0", |now| {
                one(f64::from(u8::from(now.ops.checks().iter().all(|check| check.ok))))
            }),
        ],
    ),
];

fn one(value: f64) -> Samples {
    vec![(Vec::new(), Value::Number(value))]
}

fn if_some(value: Option<u64>) -> Samples {
    value.map(|value| one(value as f64)).unwrap_or_default()
}

/// A number for each value of the one label.
fn numbers<L: ToString>(values: impl IntoIterator<Item = (L, u64)>) -> Samples {
    values.into_iter().map(|(label, value)| (vec![label.to_string()], Value::Number(value as f64))).collect()
}

fn distribution(values: &HistogramSnapshot) -> Samples {
    vec![(Vec::new(), Value::Histogram(values.clone()))]
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// A time of the coordinator's clock, on the machine's wall clock, in seconds since 1970.
fn on_wall_clock(store: &StoreReadings, time: Timestamp) -> f64 {
    seconds(time.micros().saturating_add(store.vitals.clock.distance))
}

fn methods(now: &Readings, streams: bool) -> impl Iterator<Item = &MethodMetrics> {
    now.ops.rpc_metrics.methods().iter().filter(move |method| method.streams == streams)
}

fn durations(now: &Readings, streams: bool) -> Samples {
    let of_method = |method: &MethodMetrics| {
        let labels = |code: &str| ["grpc", &method.name, code].map(str::to_owned).to_vec();
        method.ends().map(|(code, times)| (labels(code), Value::Histogram(times.read()))).collect::<Vec<_>>()
    };
    methods(now, streams).flat_map(of_method).collect()
}

fn open(now: &Readings, streams: bool) -> Samples {
    numbers(methods(now, streams).map(|method| (&method.name, method.open.load(Relaxed).max(0) as u64)))
}

fn refused_connections(now: &Readings) -> Samples {
    let Some(connections) = now.ops.connections.get() else { return Vec::new() };
    let counts = connections.counts();
    numbers([
        ("no_tls", counts.no_tls),
        ("no_http2", counts.no_http2),
        ("too_late", counts.too_late),
        ("displaced", counts.displaced),
        ("unauthenticated", counts.unauthenticated),
        ("cut", counts.cut),
    ])
}

fn by_queue(now: &Readings, value: fn(&QueueGauges) -> f64) -> Samples {
    now.of_store(|store| {
        store.queues.iter().map(|(queue, sums)| (vec![queue.clone()], Value::Number(value(sums)))).collect()
    })
}

/// A number made of the positions of all open watches of a kind, for each kind.
fn by_watch_kind(store: &StoreReadings, value: impl Fn(&mut dyn Iterator<Item = i64>) -> u64) -> Samples {
    numbers(WatchKind::ALL.map(|kind| {
        let name = match kind {
            WatchKind::Stale => "stale",
            WatchKind::Events => "events",
        };
        let of_kind = store.vitals.watches.iter().filter(|watch| watch.kind == kind);
        (name, value(&mut of_kind.map(|watch| watch.position.0)))
    }))
}

fn asked_for_compensation(store: &StoreReadings) -> Samples {
    let last = |queue: &str| {
        let of_queue = store.vitals.handled_kinds.iter().filter(|kind| kind.queue.as_str() == queue);
        of_queue.map(|kind| kind.last).max().map_or(0.0, |last| on_wall_clock(store, last))
    };
    store.queues.iter().map(|(queue, _)| (vec![queue.clone()], Value::Number(last(queue)))).collect()
}

fn checkpoint_kind(kind: CheckpointKind) -> &'static str {
    match kind {
        CheckpointKind::Passive => "passive",
        CheckpointKind::Restart => "restart",
    }
}

fn checkpoint_outcome(outcome: CheckpointOutcome) -> &'static str {
    match outcome {
        CheckpointOutcome::Done => "done",
        CheckpointOutcome::Busy => "busy",
        CheckpointOutcome::Failed => "failed",
    }
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
