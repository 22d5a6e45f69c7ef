//! What can be asked of the store without changing it.

use crate::domain::{
    event::Event,
    ids::{OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::Absence,
    saga::{Saga, State},
    text::Labels,
    time::{Span, Timestamp},
};

use crate::coordinator::weight;

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
    /// Under a live lease of this principal: of an owner with its name, or with its name and what follows a slash.
    pub held_by: Option<OwnerId>,
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
            && self.held_by.as_ref().is_none_or(|principal| {
                let live = saga.live_lease(moment.now, &moment.absence);
                live.is_some_and(|lease| lease.owner.belongs_to(principal.as_str()))
            })
            && saga.spec.labels.contains_all(&self.labels)
            && (self.issue.is_none() || self.issue == saga.spec.issue)
            && (!self.in_flight_only || !saga.state.is_terminal())
            && (!self.stale_only || saga.is_stale(moment.now, &moment.absence))
    }

    /// Whether no terminal saga can match.
    pub fn implies_in_flight(&self) -> bool {
        self.in_flight_only
            || self.stale_only
            || self.held_by.is_some()
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
    /// At most so many; fewer where they are large.
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

/// How large a page of whole sagas may become. One saga may be over a MiB, so a count alone bounds little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageBounds {
    /// At most so many.
    pub sagas: usize,
    /// At most so many bytes, but for a single saga that is larger.
    pub bytes: usize,
}

impl PageBounds {
    /// At most so many, however large they are.
    pub const fn of_sagas(sagas: usize) -> Self {
        PageBounds { sagas, bytes: usize::MAX }
    }

    /// The first of these sagas, which are all up to `through`, or as many as the bounds admit.
    pub fn admitted(
        &self,
        sagas: impl IntoIterator<Item = (Revision, Saga)>,
        through: Revision,
    ) -> Stretch<(Revision, Saga)> {
        let mut bytes = 0;
        let mut page: Vec<(Revision, Saga)> = Vec::new();
        for (revision, saga) in sagas {
            bytes += weight(&saga);
            if !page.is_empty() && bytes > self.bytes {
                return Stretch { through: page.last().map_or(through, |(revision, _)| *revision), found: page };
            }
            page.push((revision, saga));
            if page.len() == self.sagas || bytes > self.bytes {
                return Stretch { through: revision, found: page };
            }
        }
        Stretch { through, found: page }
    }
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
    /// At most so many.
    pub limit: usize,
    /// Of one saga that is still there: its own history is whole, whatever else was compacted. So `after` is a place
    /// only, and is not checked.
    pub whole: bool,
}

impl EventQuery {
    /// Whether an event is wanted, wherever it is in the history.
    pub fn matches(&self, event: &Event) -> bool {
        self.task_id.as_ref().is_none_or(|task_id| *task_id == event.task_id)
            && (self.queues.is_empty() || self.queues.contains(&event.queue))
            && (!self.marked_only || event.mark.is_some())
    }

    /// Whether every event is wanted, wherever it is in the history.
    pub fn matches_all(&self) -> bool {
        self.task_id.is_none() && self.queues.is_empty() && !self.marked_only
    }
}

/// What a read found in a part of the history that it looked through, in order of revision. The part is bounded, wanted or not
/// what is in it, so that no read takes long: it may end before what was asked for does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch<T> {
    /// What was wanted.
    pub found: Vec<T>,
    /// Up to where it was looked for: the next read begins behind that.
    pub through: Revision,
}

impl Stretch<Event> {
    /// The first events that are wanted up to a revision: as many as the limit, or else all.
    pub fn of_events(found: Vec<Event>, limit: usize, through: Revision) -> Self {
        let last = found.last().filter(|_| found.len() >= limit).map(|event| event.revision);
        Stretch { through: last.unwrap_or(through), found }
    }
}

/// The counts of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// Its name.
    pub queue: QueueName,
    /// Whether it is paused.
    pub paused: bool,
    /// How many sagas in each state; states without any are left out.
    pub states: Vec<(State, u64)>,
    /// Ready to be claimed for execution.
    pub ready: u64,
    /// Stale.
    pub stale: u64,
    /// How long the oldest ready one has been ready, or created if it was never delayed.
    pub oldest_ready_age: Option<Span>,
}

impl QueueCounts {
    /// Whether it has a saga that is not terminal.
    pub fn has_in_flight(&self) -> bool {
        self.states.iter().any(|(state, count)| !state.is_terminal() && *count > 0)
    }
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
