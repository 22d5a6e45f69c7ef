//! What dead workers left: stale sagas that nobody decides on, compensations that nobody does.

use std::{collections::BTreeMap, time::Duration};

use super::super::{
    facts::DoctorFacts,
    finding::{Finding, Severity, first_few},
};
use crate::{
    cli::text::{counted, length, total},
    client::convert,
    proto::{Compensation, CompensationState, Saga, SagaState},
};

/// Of a compensation's time, what may be gone before somebody should look.
const TIMEOUT_SHARE: f64 = 0.75;

pub(super) fn stale(facts: &DoctorFacts) -> Vec<Finding> {
    let Some(vitals) = &facts.vitals else { return Vec::new() };
    let watched = |queue: &str| vitals.stale_watches.iter().any(|watch| watch.queue.is_empty() || watch.queue == queue);
    let standing = |saga: &Saga| facts.since(saga.lease.as_ref().and_then(|lease| lease.expire_time.as_ref()));
    let mut queues: BTreeMap<&str, (Vec<&Saga>, usize)> = BTreeMap::new();
    // One that is compensating is handed out by `ClaimNext`, and needs no decision.
    for saga in facts.stale.iter().filter(|saga| saga.state() == SagaState::Running) {
        let (old, young) = queues.entry(&saga.queue).or_default();
        if standing(saga) >= facts.patience {
            old.push(saga);
        } else {
            *young += 1;
        }
    }
    let found = queues.into_iter().map(|(queue, (old, young))| {
        let Some(oldest) = old.iter().max_by_key(|saga| standing(saga)).copied() else {
            return just_stale(queue, young, facts.patience);
        };
        let task_id = &oldest.task_id;
        let owner = oldest.lease.as_ref().map_or("", |lease| lease.owner_id.as_str());
        let more = if young > 0 { format!(", and {young} more for less than that") } else { String::new() };
        // A watch only tells: that one is open is no sign that anybody decides.
        let who = if watched(queue) {
            "a WatchStale stream tells somebody, and nothing was decided"
        } else {
            "nobody is told (no WatchStale stream is open on the queue)"
        };
        Finding {
            check: "stale",
            severity: Severity::Problem,
            seen: format!(
                "{} of queue {queue} {} been stale for {} or longer{more}; {task_id} of {owner} for {}; {who}",
                counted(old.len() as i64, "saga"),
                if old.len() == 1 { "has" } else { "have" },
                length(facts.patience),
                length(standing(oldest)),
            ),
            why: "Their workers are gone. Under the policy `on_stale: HOLD` they stay as they are until somebody decides.",
            mend: format!(
                "decide: `sagad recover {task_id} --decision requeue --reason WHY`, or `sagad top --view stale`; or undo \
                 what they left: `sagad compensate --queue {queue} --stale --handler KIND=COMMAND`; for new sagas a policy \
                 decides: `sagad create --on-stale requeue` (or compensate)"
            ),
        }
    });
    first_few(found)
}

/// Sagas that went stale a moment ago: a policy, a supervisor or a person may be about to decide.
fn just_stale(queue: &str, count: usize, patience: Duration) -> Finding {
    Finding {
        check: "stale",
        severity: Severity::Note,
        seen: format!(
            "{} of queue {queue} {} been stale for less than {}",
            counted(count as i64, "saga"),
            if count == 1 { "has" } else { "have" },
            length(patience),
        ),
        why: "A worker is gone. There was little time to decide so far.",
        mend: "look again later; `sagad list --stale` shows them".to_owned(),
    }
}

/// Compensations that are neither done nor waived.
fn open(saga: &Saga) -> impl Iterator<Item = &Compensation> {
    saga.compensations.iter().filter(|compensation| match compensation.state() {
        CompensationState::Pending | CompensationState::Failed => true,
        CompensationState::Done | CompensationState::Waived | CompensationState::Unspecified => false,
    })
}

/// Compensating sagas that nobody has, and for how long nothing happened to them.
fn idle(facts: &DoctorFacts) -> impl Iterator<Item = (&Saga, Duration)> {
    let now = facts.now();
    let has_lease = move |saga: &Saga| {
        let ends = saga.lease.as_ref().and_then(|lease| lease.expire_time.as_ref());
        let compensating =
            saga.lease.as_ref().is_some_and(|lease| lease.purpose() == crate::proto::LeasePurpose::Compensate);
        compensating && !saga.stale && ends.is_some_and(|ends| crate::cli::text::micros(ends) > now)
    };
    let idle = facts.compensating.iter().filter(move |saga| !has_lease(saga));
    idle.map(|saga| (saga, facts.since(saga.update_time.as_ref())))
}

pub(super) fn kinds(facts: &DoctorFacts) -> Vec<Finding> {
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
        why: "What the work left behind stays there. After the policy's compensation_timeout the saga is quarantined.",
        mend: format!(
            "start a handler: `sagad compensate --queue {queue} --handler '{kind}=COMMAND'`; or, if it is not needed: \
             `sagad waive {} --position N --reason WHY`",
            saga.task_id
        ),
    });
    first_few(found)
}

pub(super) fn timeout(facts: &DoctorFacts) -> Vec<Finding> {
    let near = idle(facts).filter_map(|(saga, since)| {
        let policy = saga.policy.as_ref().and_then(|policy| policy.compensation_timeout.as_ref());
        let timeout = convert::from_proto(policy?);
        (since >= facts.patience && since >= timeout.mul_f64(TIMEOUT_SHARE)).then_some((saga, since, timeout))
    });
    let found = near.map(|(saga, since, timeout)| Finding {
        check: "compensation-timeout",
        severity: Severity::Problem,
        seen: format!(
            "saga {} of queue {} has been waiting for its compensations for {}, and is quarantined after {}",
            saga.task_id,
            saga.queue,
            length(since),
            length(timeout)
        ),
        why: "Then a person has to undo what it left behind.",
        mend: format!(
            "`sagad get {}` shows what is left; start a handler: `sagad compensate --queue {}`",
            saga.task_id, saga.queue
        ),
    });
    first_few(found)
}

pub(super) fn unknown_holders(facts: &DoctorFacts) -> Vec<Finding> {
    let holders = facts.vitals.iter().flat_map(|vitals| &vitals.unknown_holders);
    let found = holders.map(|holder| Finding {
        check: "unknown-holders",
        severity: Severity::Warning,
        seen: format!(
            "{} of {}, which is not a principal that the coordinator knows",
            counted(holder.leases, "live lease"),
            holder.principal
        ),
        why: "Nobody can heartbeat or finish under these leases, and nobody else gets the sagas until the leases run out, \
              after a day at most.",
        mend: format!(
            "`sagad revoke {} --reason WHY` ends them; or put the principal back into the file of principals",
            holder.principal
        ),
    });
    first_few(found)
}

pub(super) fn quarantined(facts: &DoctorFacts) -> Vec<Finding> {
    let states = facts.stats.queues.iter().flat_map(|queue| &queue.states);
    let quarantined = states.filter(|count| count.state() == SagaState::Quarantined);
    let count = total(quarantined.map(|count| count.count));
    if count == 0 {
        return Vec::new();
    }
    let few: Vec<String> =
        facts.quarantined.iter().map(|saga| format!("{} ({})", saga.task_id, saga.terminal_reason)).collect();
    vec![Finding {
        check: "quarantined",
        severity: Severity::Warning,
        seen: format!("{} quarantined, the newest: {}", counted(count, "saga"), few.join(", ")),
        why: "Each waits for a person: nothing else happens to it.",
        mend:
            "`sagad list --state quarantined`; for what is settled: `sagad annotate ID --note WHAT`, and `sagad purge \
               --state quarantined --older-than 7days --reason settled`"
                .to_owned(),
    }]
}
