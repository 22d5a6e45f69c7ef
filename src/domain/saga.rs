//! A saga: a piece of work with its state, its lease, and its compensations.

use std::sync::Arc;

use super::{
    compensation::Compensation,
    ids::{OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::{Lease, LeasePurpose, RestartGrace, Standing},
    policy::Policy,
    text::{Actor, Blob, Labels, Text},
    time::Timestamp,
};

/// A saga's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Waiting for a worker.
    Planned,
    /// Reserved for one.
    Dispatched,
    /// Claimed for execution.
    Running,
    /// Being undone, or waiting for it.
    Compensating,
    /// Terminal: done.
    Completed,
    /// Terminal: failed, with what it left behind on record.
    Failed,
    /// Terminal: undone.
    Compensated,
    /// Terminal: parked for a person.
    Quarantined,
}

impl State {
    /// Every state, in order.
    pub const ALL: [State; 8] = [
        State::Planned,
        State::Dispatched,
        State::Running,
        State::Compensating,
        State::Completed,
        State::Failed,
        State::Compensated,
        State::Quarantined,
    ];

    /// True if only an annotation can change it.
    pub const fn is_terminal(self) -> bool {
        match self {
            State::Planned | State::Dispatched | State::Running | State::Compensating => false,
            State::Completed | State::Failed | State::Compensated | State::Quarantined => true,
        }
    }

    /// Its name in reasons and metadata, as in the contract without the prefix.
    pub const fn name(self) -> &'static str {
        match self {
            State::Planned => "PLANNED",
            State::Dispatched => "DISPATCHED",
            State::Running => "RUNNING",
            State::Compensating => "COMPENSATING",
            State::Completed => "COMPLETED",
            State::Failed => "FAILED",
            State::Compensated => "COMPENSATED",
            State::Quarantined => "QUARANTINED",
        }
    }
}

/// What was set when the saga was created. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Unique.
    pub task_id: TaskId,
    /// Unique.
    pub saga_id: SagaId,
    /// Where it waits.
    pub queue: QueueName,
    /// Higher first.
    pub priority: i32,
    /// The issue it is about.
    pub issue: Option<i64>,
    /// The branch it works on.
    pub branch: Text,
    /// The worktree it works in.
    pub worktree: Text,
    /// For finding it.
    pub labels: Labels,
    /// For the worker.
    pub payload: Blob,
    /// The policy.
    pub policy: Policy,
    /// The task that this one resubmits.
    pub retry_of: Option<TaskId>,
    /// When it was created.
    pub create_time: Timestamp,
}

/// Reserved for one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// For whom.
    pub assignee: OwnerId,
    /// Until when.
    pub expire_time: Timestamp,
}

/// Somebody asked for the work to be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelRequest {
    /// Who.
    pub actor: Actor,
    /// Why.
    pub reason: Text,
}

/// A saga with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saga {
    /// What never changes.
    pub spec: Arc<Spec>,
    /// Its state.
    pub state: State,
    /// In order of position.
    pub compensations: Vec<Compensation>,
    /// The current or last lease.
    pub lease: Option<Lease>,
    /// While dispatched.
    pub reservation: Option<Reservation>,
    /// Once asked.
    pub cancel: Option<CancelRequest>,
    /// Claims for execution.
    pub attempt: u32,
    /// Execution leases that ran out.
    pub expirations: u32,
    /// Retryable failures.
    pub failures: u32,
    /// The worker's progress, as it reported it.
    pub progress: Blob,
    /// What `Complete` left.
    pub result: Blob,
    /// Why it is terminal; present in terminal states only.
    pub terminal_reason: Option<Text>,
    /// When it last changed; heartbeats don't count.
    pub update_time: Timestamp,
    /// When it became terminal.
    pub end_time: Option<Timestamp>,
    /// Not to be claimed before this.
    pub not_before: Option<Timestamp>,
    /// No claim for compensation before this: its last lease ran out a short while ago.
    pub settle_until: Option<Timestamp>,
    /// While compensating: when something last moved it on.
    pub idle_since: Option<Timestamp>,
    /// The revision of its last event.
    pub revision: Revision,
    /// True if payload, progress, result or compensations are left out of this copy because the answer to a repeated
    /// request would have been too large. Such a copy is only shown, never stored.
    pub contents_omitted: bool,
}

impl Saga {
    /// Its task's id.
    pub fn task_id(&self) -> &TaskId {
        &self.spec.task_id
    }

    /// Not terminal, its lease expired and not ended.
    pub fn is_stale(&self, now: Timestamp, grace: &RestartGrace) -> bool {
        !self.state.is_terminal() && self.lease.as_ref().is_some_and(|lease| lease.is_stale(now, grace))
    }

    /// The revision of its `lease_expired` event, if it was reported stale and its lease has not been ended since.
    pub fn reported_stale(&self) -> Option<Revision> {
        match self.lease.as_ref().map(|lease| lease.standing) {
            Some(Standing::Expired { revision, .. }) if !self.state.is_terminal() => Some(revision),
            Some(Standing::Expired { .. } | Standing::Held | Standing::EndedByHolder(_) | Standing::EndedByOther)
            | None => None,
        }
    }

    /// The lease, if it is neither ended nor expired.
    pub fn live_lease(&self, now: Timestamp, grace: &RestartGrace) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| lease.is_live(now, grace))
    }

    /// For which purpose `ClaimNext` may claim it now, if any. (Reserved sagas go to their assignee only and are found
    /// by their reservation.)
    pub fn ready_for(&self, now: Timestamp, grace: &RestartGrace) -> Option<LeasePurpose> {
        let delayed = self.not_before.is_some_and(|t| now < t);
        let settling = self.settle_until.is_some_and(|t| now < t);
        match self.state {
            State::Planned if !delayed => Some(LeasePurpose::Execute),
            State::Compensating if !delayed && !settling && self.live_lease(now, grace).is_none() => {
                Some(LeasePurpose::Compensate)
            }
            State::Planned
            | State::Compensating
            | State::Dispatched
            | State::Running
            | State::Completed
            | State::Failed
            | State::Compensated
            | State::Quarantined => None,
        }
    }

    /// The kinds of the unsettled compensations, each once, in order of position.
    pub fn pending_kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = Vec::new();
        for compensation in self.compensations.iter().filter(|c| !c.is_settled()) {
            let kind = compensation.spec.kind.as_str();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}
