//! Renders counts, queues and bounds.

use crate::{
    domain::{bounds::Bound, command::QueueStatus},
    proto,
    store::{QueueStats, Stats},
};

use super::{ResponseBudget, count, enums::state, span, time};

/// The counts of all queues. If they don't all fit, queues with sagas in flight come first.
pub fn stats(stats: &Stats) -> proto::GetStatsResponse {
    let (busy, idle): (Vec<_>, Vec<_>) = stats.queues.iter().partition(|queue| queue.has_in_flight());
    let mut budget = ResponseBudget::full();
    let mut queues: Vec<proto::QueueStats> =
        busy.into_iter().chain(idle).map(queue_stats).take_while(|queue| budget.take(queue)).collect();
    queues.sort_unstable_by(|a, b| a.queue.cmp(&b.queue));
    proto::GetStatsResponse {
        omitted_queues: count(stats.queues.len() - queues.len()),
        queues,
        ready: stats.queues.iter().map(|queue| signed(queue.ready)).sum(),
        stale: stats.queues.iter().map(|queue| signed(queue.stale)).sum(),
        waiting: signed(stats.waiting),
        oldest_ready_age: stats.queues.iter().filter_map(|queue| queue.oldest_ready_age).max().map(span),
        revision: stats.revision.0,
        writer_queue_depth: signed(stats.writer_queue_depth),
    }
}

fn queue_stats(counts: &QueueStats) -> proto::QueueStats {
    proto::QueueStats {
        queue: counts.queue.to_string(),
        paused: counts.paused,
        states: counts
            .states
            .iter()
            .map(|(of, count)| proto::StateCount { state: state(*of).into(), count: signed(*count) })
            .collect(),
        ready: signed(counts.ready),
        stale: signed(counts.stale),
        oldest_ready_age: counts.oldest_ready_age.map(span),
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub fn queue(status: &QueueStatus) -> proto::Queue {
    proto::Queue {
        queue: status.queue.to_string(),
        paused: status.paused,
        actor: status.actor.as_ref().map(ToString::to_string).unwrap_or_default(),
        reason: status.reason.to_string(),
        change_time: status.change_time.map(time),
    }
}

pub fn bound(bound: &Bound) -> proto::Bound {
    proto::Bound {
        name: bound.name.to_owned(),
        value: bound.value,
        unit: bound.unit.to_owned(),
        meaning: bound.meaning.to_owned(),
    }
}
