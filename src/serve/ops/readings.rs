//! [`Readings`]: everything that the metrics are read from, as it is at one moment.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    state::OpsState,
    system_metrics::{DiskMetrics, ProcessMetrics},
};
use crate::{
    domain::{
        lease::RestartGrace,
        saga::State,
        time::{Span, Timestamp},
    },
    metrics::{QueueEventCounts, Vitals},
    store::QueueStats,
};

/// Most queues that are named; all others are counted together.
const QUEUES: usize = 200;
/// The label of the other queues. No queue has this name, because names begin with a letter or digit.
const OTHER: &str = "_other";

/// What the metrics are read from.
pub(super) struct Readings {
    pub(super) ops: Arc<OpsState>,
    pub(super) process: ProcessMetrics,
    pub(super) disk: DiskMetrics,
    /// None: the store is not open yet.
    store: Option<StoreReadings>,
}

/// What the store tells.
pub(super) struct StoreReadings {
    pub(super) vitals: Vitals,
    pub(super) writer_silence: Span,
    pub(super) grace: RestartGrace,
    /// When the sagas were counted. None: they have not been yet.
    pub(super) counted_at: Option<Timestamp>,
    /// The largest queues in order of name, then the others together.
    pub(super) queues: Vec<(String, QueueGauges)>,
}

impl Readings {
    /// Reads all of it. Waits up to two seconds for new counts of sagas.
    pub(super) async fn now(ops: &Arc<OpsState>) -> Self {
        let store = match ops.store.get() {
            None => None,
            Some(store) => {
                let counts = ops.stats.read(store).await;
                // After the counts: reading them may have taken a while.
                Some(StoreReadings {
                    vitals: store.vitals(),
                    writer_silence: store.writer_silence(),
                    grace: store.read_time().grace,
                    counted_at: counts.as_ref().map(|counts| counts.at),
                    queues: counts.map(|counts| largest_queues(&counts.stats.queues)).unwrap_or_default(),
                })
            }
        };
        Readings { ops: ops.clone(), process: ProcessMetrics::read(), disk: DiskMetrics::read(&ops.data), store }
    }

    /// What is read from the store; nothing while it is not open.
    pub(super) fn of_store<T: Default>(&self, read: impl FnOnce(&StoreReadings) -> T) -> T {
        self.store.as_ref().map(read).unwrap_or_default()
    }
}

impl StoreReadings {
    /// What was counted of queues as it happened: those that are named, then the others together if there is anything.
    pub(super) fn queue_events(&self) -> impl Iterator<Item = (String, QueueEventCounts)> {
        let others = self.vitals.other_queues;
        let others = (others != QueueEventCounts::default()).then(|| (OTHER.to_owned(), others));
        self.vitals.queues.iter().map(|(queue, counts)| (queue.to_string(), *counts)).chain(others)
    }
}

/// The gauges of one queue, or of several together.
#[derive(Clone, Debug, Default)]
pub(super) struct QueueGauges {
    pub(super) states: BTreeMap<State, u64>,
    pub(super) ready: u64,
    pub(super) stale: u64,
    pub(super) oldest_ready_micros: Option<i64>,
    pub(super) paused: bool,
}

impl QueueGauges {
    fn add(&mut self, queue: &QueueStats) {
        queue.states.iter().for_each(|(state, count)| *self.states.entry(*state).or_default() += count);
        self.ready += queue.ready;
        self.stale += queue.stale;
        self.oldest_ready_micros = self.oldest_ready_micros.max(queue.oldest_ready_age.map(|age| age.micros()));
        self.paused |= queue.paused;
    }
}

/// The largest queues in order of name, then the others together.
fn largest_queues(queues: &[QueueStats]) -> Vec<(String, QueueGauges)> {
    let in_flight = |queue: &QueueStats| -> u64 {
        queue.states.iter().filter(|(state, _)| !state.is_terminal()).map(|(_, count)| count).sum()
    };
    let all = |queue: &QueueStats| -> u64 { queue.states.iter().map(|(_, count)| count).sum() };
    let mut by_size: Vec<_> = queues.iter().collect();
    by_size.sort_by_key(|queue| (std::cmp::Reverse((in_flight(queue), all(queue))), queue.queue.clone()));
    let mut told: BTreeMap<String, QueueGauges> = BTreeMap::new();
    let mut others: Option<QueueGauges> = None;
    for (place, queue) in by_size.into_iter().enumerate() {
        if place < QUEUES {
            told.entry(queue.queue.to_string()).or_default().add(queue);
        } else {
            others.get_or_insert_default().add(queue);
        }
    }
    told.into_iter().chain(others.map(|sums| (OTHER.to_owned(), sums))).collect()
}
