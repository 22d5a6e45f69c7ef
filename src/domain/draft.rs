//! [`Draft`]: a saga while an operation changes it, and the events of the change.
//!
//! An operation checks everything before it changes anything, so a rejection leaves the draft unchanged. Each event is
//! emitted after its change, so that its states and its staleness mark can be read from the saga.

use std::collections::BTreeMap;

use super::{
    event::{Event, EventDetails, EventType, Resolution, StaleMark},
    ids::{FencingToken, Revision},
    lease::{HolderEnd, Lease, LeasePurpose, RestartGrace, StaleCause, Standing},
    saga::{Saga, State},
    text::{Actor, Text},
    time::{Span, Timestamp},
};

/// A saga while an operation changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The saga with the changes so far.
    pub saga: Saga,
    /// The events so far, in order.
    pub events: Vec<Event>,
    /// The time of all changes.
    pub now: Timestamp,
    /// The coordinator's last absence.
    pub grace: RestartGrace,
    next_revision: Revision,
    reported_stale: bool,
}

/// Who caused an event and why.
pub(super) struct Attribution<'a> {
    pub actor: Option<&'a Actor>,
    pub reason: &'a str,
}

/// Further details of an event, by name.
pub(super) type DetailPairs<'a> = &'a [(&'a str, String)];

impl Draft {
    /// Starts to change a saga. Its first event gets `next_revision`.
    pub fn begin(saga: Saga, now: Timestamp, grace: RestartGrace, next_revision: Revision) -> Self {
        let reported_stale = saga.reported_stale().is_some();
        Draft { saga, events: Vec::new(), now, grace, next_revision, reported_stale }
    }

    /// The revision that the next event will get.
    pub fn next_revision(&self) -> Revision {
        self.next_revision
    }

    /// Appends the event of a change that was just made.
    pub(super) fn emit(
        &mut self,
        kind: EventType,
        from: State,
        said: Attribution<'_>,
        token: Option<FencingToken>,
        details: DetailPairs<'_>,
    ) {
        let details = details.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<BTreeMap<_, _>>();
        self.emit_with(kind, from, said, token, details.into());
    }

    /// Like [`Self::emit`], with details that are already a map.
    pub(super) fn emit_with(
        &mut self,
        kind: EventType,
        from: State,
        said: Attribution<'_>,
        token: Option<FencingToken>,
        details: EventDetails,
    ) {
        let mark = self.mark(kind, token);
        self.events.push(Event {
            revision: self.next_revision,
            task_id: self.saga.spec.task_id.clone(),
            saga_id: self.saga.spec.saga_id.clone(),
            queue: self.saga.spec.queue.clone(),
            time: self.now,
            kind,
            actor: said.actor.cloned(),
            reason: said.reason.into(),
            from_state: Some(from),
            to_state: self.saga.state,
            token,
            details,
            mark,
        });
        self.saga.revision = self.next_revision;
        self.saga.update_time = self.now;
        self.next_revision = self.next_revision.after(1);
    }

    /// The event's mark for watchers of stale sagas: it starts staleness, ends it, or neither.
    fn mark(&mut self, kind: EventType, token: Option<FencingToken>) -> Option<StaleMark> {
        let stale_now = self.saga.reported_stale().is_some();
        let was_stale = std::mem::replace(&mut self.reported_stale, stale_now);
        match (was_stale, stale_now) {
            (false, true) => {
                let lease = self.saga.lease.as_ref()?;
                debug_assert_eq!(token, Some(lease.token));
                let (expire_time, cause) = lease.end();
                Some(StaleMark::Stale { owner: lease.owner.clone(), token: lease.token, expire_time, cause })
            }
            (true, false) => Some(StaleMark::Resolved(match (kind, self.saga.state) {
                (EventType::Claimed, _) => Resolution::Reclaimed,
                (_, State::Planned | State::Dispatched | State::Running) => Resolution::Requeued,
                (_, State::Compensating) => Resolution::Compensating,
                (_, State::Completed | State::Failed | State::Compensated | State::Quarantined) => Resolution::Terminal,
            })),
            (true, true) | (false, false) => None,
        }
    }

    /// The lease, if it is neither ended nor expired.
    pub(super) fn live_lease(&self) -> Option<&Lease> {
        self.saga.live_lease(self.now, &self.grace)
    }

    /// How long until an instant.
    pub(super) fn until(&self, instant: Timestamp) -> Span {
        instant.since(self.now)
    }

    /// The last lease's token.
    pub(super) fn token(&self) -> Option<FencingToken> {
        self.saga.lease.as_ref().map(|lease| lease.token)
    }

    /// Records that the holder ended its lease.
    pub(super) fn end_by_holder(&mut self, end: HolderEnd) {
        if let Some(lease) = &mut self.saga.lease {
            lease.standing = Standing::EndedByHolder(end);
        }
    }

    /// Records that somebody other than the holder ended the lease; a lease that its holder ended stays as it is.
    pub(super) fn end_by_other(&mut self) {
        if let Some(lease) = &mut self.saga.lease {
            match lease.standing {
                Standing::Held | Standing::Expired { .. } => lease.standing = Standing::EndedByOther,
                Standing::EndedByHolder(_) | Standing::EndedByOther => {}
            }
        }
    }

    /// The saga waits for a worker, not before `not_before`.
    pub(super) fn become_planned(&mut self, not_before: Option<Timestamp>) {
        self.saga.state = State::Planned;
        self.saga.reservation = None;
        self.saga.not_before = not_before;
    }

    /// The saga waits to be compensated, not before `not_before`. Its compensation timeout counts from `since`.
    pub(super) fn become_compensating(&mut self, not_before: Option<Timestamp>, since: Timestamp) {
        self.saga.state = State::Compensating;
        self.saga.reservation = None;
        self.saga.not_before = not_before;
        self.saga.idle_since = Some(since);
    }

    /// Ends the saga. An empty reason is replaced by the state's name.
    pub(super) fn become_terminal(&mut self, state: State, reason: &Text) {
        debug_assert!(state.is_terminal());
        let saga = &mut self.saga;
        saga.state = state;
        saga.terminal_reason = Some(if reason.is_empty() { Text::own(state.name()) } else { reason.clone() });
        saga.end_time = Some(self.now);
        saga.reservation = None;
        saga.not_before = None;
        saga.settle_until = None;
        saga.idle_since = None;
    }

    /// When a lease of length `ttl` would end if extended now, and what limits it.
    pub(super) fn clamp(
        &self,
        purpose: LeasePurpose,
        acquire_time: Timestamp,
        progress_time: Timestamp,
        ttl: Span,
    ) -> (Timestamp, StaleCause) {
        let mut bound = (self.now.plus(ttl), StaleCause::Ttl);
        match purpose {
            LeasePurpose::Compensate => {}
            LeasePurpose::Execute => {
                let policy = &self.saga.spec.policy;
                let limits = [
                    (policy.execution_timeout, acquire_time, StaleCause::ExecutionTimeout),
                    (policy.progress_timeout, progress_time, StaleCause::ProgressTimeout),
                ];
                for (timeout, from, cause) in limits {
                    if let Some(end) = timeout.map(|timeout| from.plus(timeout)).filter(|end| *end < bound.0) {
                        bound = (end, cause);
                    }
                }
            }
        }
        bound
    }
}

impl<'a> Attribution<'a> {
    /// Caused by an actor, for a reason.
    pub(super) fn by(actor: &'a Actor, reason: &'a Text) -> Self {
        Attribution { actor: Some(actor), reason: reason.as_str() }
    }
}

/// An owner as an event's actor. Ids are printable and shorter than an actor may be.
pub(super) fn actor_of(owner: &super::ids::OwnerId) -> Actor {
    Actor::parse(owner.as_str()).expect("an id is within the bounds of an actor")
}
