//! The rules: (saga, operation, now) → change or rejection.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    command::{Creation, Operation},
    compensation::Compensation,
    draft::Draft,
    event::{Event, EventType},
    holder_operations,
    ids::Revision,
    rejection::Rejection,
    saga::{Saga, Spec, State},
    text::Blob,
    time::Timestamp,
    unleased_operations,
};

pub use super::{
    due::{Due, ReadyPurposes, apply_due, next_due},
    earlier_lease::EarlierLease,
    holder_operations::cancel_reason,
    lease_check::check_lease,
    transition_effect::TransitionEffect,
};

/// Checks an operation and applies it to the draft. What is due must have been applied before. A rejected operation
/// leaves the draft as it was. `earlier` is the lease that the call names, if it is not the saga's last one.
pub fn transition(
    draft: &mut Draft,
    operation: &Operation,
    earlier: Option<&EarlierLease>,
) -> Result<TransitionEffect, Rejection> {
    match operation {
        Operation::ByHolder(holder, operation) => holder_operations::apply(draft, holder, operation, earlier),
        Operation::Unleased(operation) => unleased_operations::apply(draft, operation),
    }
}

/// Creates a saga and its first event.
pub fn create(creation: Creation, now: Timestamp, revision: Revision) -> (Saga, Event) {
    let spec = Spec {
        task_id: creation.task_id,
        saga_id: creation.saga_id,
        queue: creation.queue,
        priority: creation.priority,
        issue: creation.issue,
        branch: creation.branch,
        worktree: creation.worktree,
        labels: creation.labels,
        payload: creation.payload,
        policy: creation.policy,
        retry_of: creation.retry_of,
        create_time: now,
    };
    let compensations = (1u32..)
        .zip(creation.compensations)
        .map(|(position, spec)| Compensation::pending(position, spec, None))
        .collect::<Vec<_>>();
    let event = Event {
        revision,
        task_id: spec.task_id.clone(),
        saga_id: spec.saga_id.clone(),
        queue: spec.queue.clone(),
        time: now,
        kind: EventType::Created,
        actor: None,
        reason: "".into(),
        from_state: None,
        to_state: State::Planned,
        token: None,
        details: BTreeMap::from([("compensations".to_owned(), compensations.len().to_string())]).into(),
        mark: None,
    };
    let saga = Saga {
        spec: Arc::new(spec),
        state: State::Planned,
        compensations,
        lease: None,
        reservation: None,
        cancel: None,
        attempt: 0,
        expirations: 0,
        failures: 0,
        progress: Blob::default(),
        result: Blob::default(),
        terminal_reason: None,
        update_time: now,
        end_time: None,
        not_before: Some(now.plus(creation.delay)).filter(|ready| *ready > now),
        settle_until: None,
        idle_since: None,
        revision,
        contents_omitted: false,
    };
    (saga, event)
}
