//! Queues in which work waits, and nobody takes it.

use super::super::{
    facts::{DoctorFacts, ready_for},
    finding::{Finding, Severity, first_few},
};
use crate::{
    cli::text::{counted, length},
    proto::Queue,
};

pub(super) fn stuck(facts: &DoctorFacts) -> Vec<Finding> {
    // A claim that waited for the queue would have got one of them; and whoever works on one is going to come back.
    let stuck = facts.backlogs().filter(|queue| facts.worked_on.get(&queue.queue) == Some(&false));
    let found = stuck.map(|queue| Finding {
        check: "stuck-queue",
        severity: Severity::Problem,
        seen: format!(
            "queue {} has {} ready, the oldest for {}, and nobody works on any of its sagas",
            queue.queue,
            counted(queue.ready, "saga"),
            length(ready_for(queue))
        ),
        why: "No worker claims from this queue: there is none, it claims from another queue, or it hangs.",
        mend: format!(
            "start a worker: `sagad work --queue {} -- COMMAND`; or look at the log of the worker that should do it",
            queue.queue
        ),
    });
    first_few(found)
}

pub(super) fn paused(facts: &DoctorFacts) -> Vec<Finding> {
    let found = facts.held_up().into_iter().map(|queue| {
        let known = facts.queues.iter().find(|known| known.queue == queue.queue);
        let by = known.map(|Queue { actor, reason, change_time, .. }| {
            let reason = if reason.is_empty() { "no reason given" } else { reason };
            format!(" by {actor} {} ago ({reason})", length(facts.since(change_time.as_ref())))
        });
        Finding {
            check: "paused-queue",
            severity: Severity::Warning,
            seen: format!(
                "queue {} was paused{}, and has {} ready, the oldest for {}",
                queue.queue,
                by.unwrap_or_default(),
                counted(queue.ready, "saga"),
                length(ready_for(queue))
            ),
            why: "A paused queue gives nothing to workers.",
            mend: format!("to resume it: `sagad resume {}`", queue.queue),
        }
    });
    first_few(found)
}

pub(super) fn dispatched(facts: &DoctorFacts) -> Vec<Finding> {
    let waits = |saga: &&crate::proto::Saga| facts.since(saga.update_time.as_ref()) >= facts.patience;
    let found = facts.dispatched.iter().filter(waits).map(|saga| Finding {
        check: "dispatched",
        severity: Severity::Warning,
        seen: format!(
            "saga {} of queue {} has been reserved for {} for {}, and is not claimed",
            saga.task_id,
            saga.queue,
            saga.assignee,
            length(facts.since(saga.update_time.as_ref()))
        ),
        why: "Until the reservation ends, no other worker gets the saga.",
        mend: format!("check whether {} runs; or `sagad dispatch {} --assignee OTHER`", saga.assignee, saga.task_id),
    });
    first_few(found)
}
