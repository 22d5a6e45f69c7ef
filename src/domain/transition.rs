//! The one table of rules: (saga, command, now) → change or rejection.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    command::{Creation, Verb},
    compensation::Compensation,
    draft::Draft,
    event::{Event, EventType},
    free, held,
    ids::{FencingToken, OwnerId, Revision},
    lease::HolderEnd,
    rejection::Rejection,
    saga::{Saga, Spec, State},
    text::Blob,
    time::Timestamp,
};

pub use super::{
    admission::check_lease,
    due::{Due, ReadyAfterDue, apply_due, next_due},
    held::cancel_reason,
};

/// How a command was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The draft holds what it changed.
    Changed,
    /// It changes nothing: it was done before, or was only to be judged.
    Repeated,
}

/// A lease before the last one: who held it, and how they ended it, if they did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierLease {
    /// Its owner.
    pub owner: OwnerId,
    /// How its holder ended it.
    pub end: Option<HolderEnd>,
}

impl EarlierLease {
    /// Among how many of a saga's newest events it is looked for how an earlier lease ended. A call that is repeated comes soon
    /// after the answer that got lost; and a late call must not cost more the longer the saga's history is.
    pub const LOOKS_AT: usize = 1000;

    /// Reads the lease with this token off its `claimed` event and the one that says how its holder ended it, if there is one;
    /// `None` if there is no such lease.
    pub fn from_events(events: &[Event], token: FencingToken) -> Option<Self> {
        let mut of_lease = events.iter().filter(|event| event.token == Some(token));
        let claimed = of_lease.clone().find(|event| event.kind == EventType::Claimed)?;
        let owner = OwnerId::parse(claimed.actor.as_ref()?.as_str()).ok()?;
        let end = of_lease.find_map(|event| HolderEnd::parse(event.details.get("ended_by")?));
        Some(EarlierLease { owner, end })
    }
}

/// Judges a command for one saga, to which what is due has been applied, and makes its change in the draft. A rejected
/// command leaves the draft as it was. `earlier` is the lease that the call names, if it is not the last one.
pub fn transition(draft: &mut Draft, verb: &Verb, earlier: Option<&EarlierLease>) -> Result<Accepted, Rejection> {
    match verb {
        Verb::Held(holder, verb) => held::apply(draft, holder, verb, earlier),
        Verb::Free(verb) => free::apply(draft, verb),
    }
}

/// Makes a new saga and its first event.
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

/// A call that does not belong to the saga's state.
pub(super) fn wrong_state(detail: &str) -> Rejection {
    Rejection::WrongState { detail: detail.into() }
}
