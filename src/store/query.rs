//! Queries: what can be read from the store.

use crate::domain::{
    event::Event,
    ids::{OwnerId, QueueName, Revision, SagaId, TaskId},
    lease::RestartGrace,
    saga::{Saga, State},
    text::Labels,
    time::{Span, Timestamp},
};

use crate::coordinator::encoded_size;

/// A time on the coordinator's clock with the grace: what is needed to tell whether a lease is live then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadTime {
    /// The time.
    pub now: Timestamp,
    /// The grace after the last absence.
    pub grace: RestartGrace,
}

/// How a saga is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SagaKey {
    /// Its task's id.
    Task(TaskId),
    /// Its own.
    Saga(SagaId),
}

/// Which sagas are wanted. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states; empty: in any.
    pub states: Vec<State>,
    /// In one of these queues; empty: in any.
    pub queues: Vec<QueueName>,
    /// Whose current or last lease is this owner's.
    pub owner: Option<OwnerId>,
    /// Under a live lease of this principal: its owner is the principal's name, or that name followed by a slash and
    /// more.
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
    /// True if a saga matches at a time.
    pub fn matches(&self, saga: &Saga, read_time: &ReadTime) -> bool {
        (self.states.is_empty() || self.states.contains(&saga.state))
            && (self.queues.is_empty() || self.queues.contains(&saga.spec.queue))
            && self.owner.as_ref().is_none_or(|owner| saga.lease.as_ref().is_some_and(|lease| lease.owner == *owner))
            && self.held_by.as_ref().is_none_or(|principal| {
                let live = saga.live_lease(read_time.now, &read_time.grace);
                live.is_some_and(|lease| lease.owner.belongs_to(principal.as_str()))
            })
            && saga.spec.labels.contains_all(&self.labels)
            && (self.issue.is_none() || self.issue == saga.spec.issue)
            && (!self.in_flight_only || !saga.state.is_terminal())
            && (!self.stale_only || saga.is_stale(read_time.now, &read_time.grace))
    }

    /// True if no terminal saga can match.
    pub fn implies_in_flight(&self) -> bool {
        self.in_flight_only
            || self.stale_only
            || self.held_by.is_some()
            || (!self.states.is_empty() && self.states.iter().all(|state| !state.is_terminal()))
    }
}

/// A position in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub i64);

/// A page of sagas, in order of creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// Which.
    pub filter: Filter,
    /// The newest first instead.
    pub newest_first: bool,
    /// After this position.
    pub after: Option<Cursor>,
    /// At most this many; fewer if they are large.
    pub limit: usize,
    /// The time at which leases are judged.
    pub read_time: ReadTime,
}

/// A page of a listing. It may be shorter than asked for even if more follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SagaPage {
    /// The sagas with their positions; without payload, progress and result.
    pub sagas: Vec<(Cursor, Saga)>,
    /// Where the next page begins; none: this is the last.
    pub next: Option<Cursor>,
}

/// Bounds of a page of whole sagas. One saga may be over a MiB, so a count alone is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageBounds {
    /// At most so many.
    pub sagas: usize,
    /// At most this many bytes, except for a single larger saga.
    pub bytes: usize,
}

impl PageBounds {
    /// At most so many, however large they are.
    pub const fn of_sagas(sagas: usize) -> Self {
        PageBounds { sagas, bytes: usize::MAX }
    }

    /// The first of these sagas, which are all those up to `through`: as many as the bounds admit.
    pub fn admitted(
        &self,
        sagas: impl IntoIterator<Item = (Revision, Saga)>,
        through: Revision,
    ) -> ScanPage<(Revision, Saga)> {
        let mut bytes = 0;
        let mut page: Vec<(Revision, Saga)> = Vec::new();
        for (revision, saga) in sagas {
            bytes += encoded_size(&saga);
            if !page.is_empty() && bytes > self.bytes {
                return ScanPage { through: page.last().map_or(through, |(revision, _)| *revision), found: page };
            }
            page.push((revision, saga));
            if page.len() == self.sagas || bytes > self.bytes {
                return ScanPage { through: revision, found: page };
            }
        }
        ScanPage { through, found: page }
    }
}

/// A query of the history, in order of revision.
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
    /// The query is for one saga that still exists. Its own history is complete, whatever else was compacted, so
    /// `after` is only a position and is not checked.
    pub whole: bool,
}

impl EventQuery {
    /// True if an event is wanted, whatever its revision.
    pub fn matches(&self, event: &Event) -> bool {
        self.task_id.as_ref().is_none_or(|task_id| *task_id == event.task_id)
            && (self.queues.is_empty() || self.queues.contains(&event.queue))
            && (!self.marked_only || event.mark.is_some())
    }

    /// True if every event is wanted, whatever its revision.
    pub fn matches_all(&self) -> bool {
        self.task_id.is_none() && self.queues.is_empty() && !self.marked_only
    }
}

/// What a read found in the part of the history that it scanned, in order of revision. The part is bounded whether or
/// not it matches, so that no read takes long; it may end before the requested range does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage<T> {
    /// What matched.
    pub found: Vec<T>,
    /// The end of the scanned part; the next read starts after it.
    pub through: Revision,
}

impl ScanPage<Event> {
    /// The matching events up to a revision, or the first `limit` of them.
    pub fn of_events(found: Vec<Event>, limit: usize, through: Revision) -> Self {
        let last = found.last().filter(|_| found.len() >= limit).map(|event| event.revision);
        ScanPage { through: last.unwrap_or(through), found }
    }
}

/// The counts of one queue's sagas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
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
    /// How long the oldest ready saga has been ready: since its delay ended, or since its creation.
    pub oldest_ready_age: Option<Span>,
}

impl QueueStats {
    /// True if it has a saga that is not terminal.
    pub fn has_in_flight(&self) -> bool {
        self.states.iter().any(|(state, count)| !state.is_terminal() && *count > 0)
    }
}

/// The counts of the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// By queue, in order of name.
    pub queues: Vec<QueueStats>,
    /// Held `ClaimNext` calls.
    pub waiting: u64,
    /// The newest durable revision.
    pub revision: Revision,
    /// Requests that wait for the writer.
    pub writer_queue_depth: u64,
}
