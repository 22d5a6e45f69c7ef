//! What dead workers left: stale sagas that nobody decides on, compensations that nobody does.

use std::{collections::BTreeMap, time::Duration};

use super::super::{
    facts::Facts,
    finding::{Finding, Severity},
};
use crate::{
    cli::text::{counted, length},
    client::convert,
    proto::{Compensation, CompensationState, Saga, SagaState},
};

/// Findings of one sort that are told one by one.
const TOLD: usize = 10;
/// A watcher that has been told decides within seconds; after this it is not going to.
const DECIDED_WITHIN: Duration = Duration::from_secs(600);
/// Of a compensation's time, what may be gone before somebody should look.
const TIMEOUT_SHARE: f64 = 0.75;

pub(super) fn stale(facts: &Facts) -> Vec<Finding> {
    let Some(vitals) = &facts.vitals else { return Vec::new() };
    let watched = |queue: &str| vitals.stale_watches.iter().any(|watch| watch.queue.is_empty() || watch.queue == queue);
    let standing = |saga: &Saga| facts.since(saga.lease.as_ref().and_then(|lease| lease.expire_time.as_ref()));
    let mut queues: BTreeMap<&str, Vec<&Saga>> = BTreeMap::new();
    // One that is compensating is handed out by `ClaimNext`, and needs no decision.
    let held = facts.stale.iter().filter(|saga| saga.state() == SagaState::Running);
    for saga in held {
        let least = if watched(&saga.queue) { DECIDED_WITHIN } else { facts.patience };
        if standing(saga) >= least {
            queues.entry(&saga.queue).or_default().push(saga);
        }
    }
    let found = queues.into_iter().map(|(queue, sagas)| {
        let oldest = sagas.iter().max_by_key(|saga| standing(saga)).copied();
        let (task_id, owner) = oldest.map_or(("", ""), |saga| {
            (saga.task_id.as_str(), saga.lease.as_ref().map_or("", |lease| lease.owner_id.as_str()))
        });
        let who = if watched(queue) {
            "somebody watches for them, but decides nothing"
        } else {
            "nobody watches for them (no WatchStale stream is open on the queue)"
        };
        Finding {
            check: "stale",
            severity: if watched(queue) { Severity::Warning } else { Severity::Problem },
            seen: format!(
                "{} of queue {queue} {} stale, {task_id} of {owner} for {}; {who}",
                counted(sagas.len() as i64, "saga"),
                if sagas.len() == 1 { "is" } else { "are" },
                length(oldest.map(&standing).unwrap_or_default()),
            ),
            why: "Their workers are gone. Under the policy HOLD they stay as they are until somebody decides.",
            mend: format!(
                "`sagad recover {task_id} --decision requeue --reason WHY`, or `sagad top --view stale`; for good: a \
                 watcher (`sagad watch --stale`), or the policy REQUEUE or COMPENSATE for new sagas"
            ),
        }
    });
    found.take(TOLD).collect()
}

/// Compensations that are neither done nor waived.
fn open(saga: &Saga) -> impl Iterator<Item = &Compensation> {
    saga.compensations.iter().filter(|compensation| match compensation.state() {
        CompensationState::Pending | CompensationState::Failed => true,
        CompensationState::Done | CompensationState::Waived | CompensationState::Unspecified => false,
    })
}

/// Compensating sagas that nobody has, and for how long nothing happened to them.
fn idle(facts: &Facts) -> impl Iterator<Item = (&Saga, Duration)> {
    let now = facts.now();
    let has_lease = move |saga: &Saga| {
        let ends = saga.lease.as_ref().and_then(|lease| lease.expire_time.as_ref());
        let compensating =
            saga.lease.as_ref().is_some_and(|lease| lease.purpose() == crate::proto::LeasePurpose::Compensate);
        compensating && !saga.stale && ends.is_some_and(|ends| crate::cli::top::sight::micros(ends) > now)
    };
    let idle = facts.compensating.iter().filter(move |saga| !has_lease(saga));
    idle.map(|saga| (saga, facts.since(saga.update_time.as_ref())))
}

pub(super) fn kinds(facts: &Facts) -> Vec<Finding> {
    let Some(vitals) = &facts.vitals else { return Vec::new() };
    let asked = |queue: &str, kind: &str| {
        vitals.asked_kinds.iter().any(|asked| asked.queue == queue && (asked.kind.is_empty() || asked.kind == kind))
    };
    let mut unhandled: BTreeMap<(&str, &str), (usize, &Saga)> = BTreeMap::new();
    for (saga, _) in idle(facts).filter(|(_, since)| *since >= facts.patience) {
        let mut kinds: Vec<&str> = open(saga).map(|compensation| compensation.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        for kind in kinds.into_iter().filter(|kind| !asked(&saga.queue, kind)) {
            unhandled.entry((saga.queue.as_str(), kind)).or_insert((0, saga)).0 += 1;
        }
    }
    let found = unhandled.into_iter().map(|((queue, kind), (count, saga))| Finding {
        check: "compensation-kinds",
        severity: Severity::Problem,
        seen: format!(
            "{} of queue {queue}, {} among them, {} for the compensation `{kind}`, and nobody asked for that kind in \
             the last hour",
            counted(count as i64, "saga"),
            saga.task_id,
            if count == 1 { "waits" } else { "wait" }
        ),
        why: "What the work left behind stays there; when the policy's time is up, the saga is parked.",
        mend: format!(
            "start a handler: `sagad compensate --queue {queue} --handler '{kind}=COMMAND'`; or, if it is not needed: \
             `sagad waive {} --position N --reason WHY`",
            saga.task_id
        ),
    });
    found.take(TOLD).collect()
}

pub(super) fn timeout(facts: &Facts) -> Vec<Finding> {
    let near = idle(facts).filter_map(|(saga, since)| {
        let policy = saga.policy.as_ref().and_then(|policy| policy.compensation_timeout.as_ref());
        let timeout = convert::from_proto(policy?);
        (since >= facts.patience && since >= timeout.mul_f64(TIMEOUT_SHARE)).then_some((saga, since, timeout))
    });
    let found = near.map(|(saga, since, timeout)| Finding {
        check: "compensation-timeout",
        severity: Severity::Problem,
        seen: format!(
            "saga {} of queue {} has been waiting to be undone for {}, and is parked after {}",
            saga.task_id,
            saga.queue,
            length(since),
            length(timeout)
        ),
        why: "Then it is quarantined: what it left behind has to be undone by hand.",
        mend: format!(
            "`sagad get {}` shows what is left; start a handler: `sagad compensate --queue {}`",
            saga.task_id, saga.queue
        ),
    });
    found.take(TOLD).collect()
}

pub(super) fn quarantined(facts: &Facts) -> Vec<Finding> {
    let states = facts.stats.queues.iter().flat_map(|queue| &queue.states);
    let count: i64 = states.filter(|count| count.state() == SagaState::Quarantined).map(|count| count.count).sum();
    if count == 0 {
        return Vec::new();
    }
    let few: Vec<String> =
        facts.quarantined.iter().map(|saga| format!("{} ({})", saga.task_id, saga.terminal_reason)).collect();
    vec![Finding {
        check: "quarantined",
        severity: Severity::Warning,
        seen: format!("{} quarantined, the newest: {}", counted(count, "saga"), few.join(", ")),
        why: "Each waits for a person: nothing else is going to be done about it.",
        mend: "`sagad list --state quarantined`; what is settled: `sagad annotate ID --note WHAT`, and `sagad purge \
               --state quarantined --older-than 7days --reason settled`"
            .to_owned(),
    }]
}
