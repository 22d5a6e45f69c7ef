//! What can be asked of the store without changing it.

use crate::domain::{
    command::QueueStatus,
    ids::{OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::Absence,
    saga::{Saga, State},
    text::Labels,
    time::{Span, Timestamp},
};

/// A moment on the coordinator's clock, with what is needed to judge leases at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time.
    pub now: Timestamp,
    /// The coordinator's last absence.
    pub absence: Absence,
}

/// By what a saga is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SagaKey {
    /// Its task's id.
    Task(TaskId),
    /// Its own.
    Saga(SagaId),
}

/// Which sagas are wanted: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states; empty: in any.
    pub states: Vec<State>,
    /// In one of these queues; empty: in any.
    pub queues: Vec<QueueName>,
    /// Whose current or last lease is this owner's.
    pub owner: Option<OwnerId>,
    /// With all of these labels.
    pub labels: Labels,
    /// About this issue.
    pub issue: Option<i64>,
    /// Stale now.
    pub stale_only: bool,
    /// Not terminal.
    pub in_flight_only: bool,
}

impl Filter {
    /// Whether a saga is wanted, judged at a moment.
    pub fn matches(&self, saga: &Saga, moment: &Moment) -> bool {
        (self.states.is_empty() || self.states.contains(&saga.state))
            && (self.queues.is_empty() || self.queues.contains(&saga.spec.queue))
            && self.owner.as_ref().is_none_or(|owner| saga.lease.as_ref().is_some_and(|lease| lease.owner == *owner))
            && saga.spec.labels.contains_all(&self.labels)
            && (self.issue.is_none() || self.issue == saga.spec.issue)
            && (!self.in_flight_only || !saga.state.is_terminal())
            && (!self.stale_only || saga.is_stale(moment.now, &moment.absence))
    }

    /// Whether no terminal saga can match.
    pub fn implies_in_flight(&self) -> bool {
        self.in_flight_only
            || self.stale_only
            || (!self.states.is_empty() && self.states.iter().all(|state| !state.is_terminal()))
    }
}

/// A place in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub i64);

/// A page of sagas, in order of creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// Which.
    pub filter: Filter,
    /// The newest first instead.
    pub newest_first: bool,
    /// Beginning behind this place.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: usize,
    /// Judged at this moment.
    pub moment: Moment,
}

/// Part of a listing. It may be shorter than asked for, though more follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SagaPage {
    /// The sagas, each with its place; without payload, progress and result.
    pub sagas: Vec<(Cursor, Saga)>,
    /// Where the next page begins; none: this is the last.
    pub next: Option<Cursor>,
}

/// A stretch of the history, in order of revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Of this saga alone.
    pub task_id: Option<TaskId>,
    /// Of these queues alone; empty: of all.
    pub queues: Vec<QueueName>,
    /// Only events that begin or end staleness.
    pub marked_only: bool,
    /// Behind this revision.
    pub after: Revision,
    /// Up to this revision.
    pub through: Revision,
    /// At most so many; fewer only when there are no more.
    pub limit: usize,
    /// Of one saga that is still there: its own history is whole, whatever else was compacted. So `after` is a place
    /// only, and is not checked.
    pub whole: bool,
}

/// The counts of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// Its name, and whether it is paused.
    pub status: QueueStatus,
    /// How many sagas in each state; states without any are left out.
    pub states: Vec<(State, u64)>,
    /// Ready to be claimed for execution.
    pub ready: u64,
    /// Stale.
    pub stale: u64,
    /// How long the oldest ready one has been ready, or created if it was never delayed.
    pub oldest_ready_age: Option<Span>,
}

/// The counts of the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// By queue, in order of name.
    pub queues: Vec<QueueCounts>,
    /// Held `ClaimNext` calls.
    pub waiting: u64,
    /// The newest durable revision.
    pub revision: Revision,
    /// Requests that wait for the writer.
    pub writer_queue_depth: u64,
}
