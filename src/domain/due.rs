//! What happens to a saga as time passes: reservations end, leases expire, overdue compensations are given up.
//!
//! Every command first applies what is due to its saga, so no outcome depends on whether a sweep has run. Follow-up
//! deadlines count from the instant at which something fell due, not from when it was noticed.

use super::{
    draft::{Attribution, Draft},
    event::EventType,
    lease::{LeasePurpose, RestartGrace, StaleCause, Standing},
    policy::StaleAction,
    saga::{Saga, State},
    text::{Actor, Text},
    time::{Span, Timestamp},
};

/// The least distance between the end of a revoked lease and its `expire_time`; it tells a revoked lease from an
/// expired one.
const JUST_AFTER: Span = match Span::from_micros(1) {
    Some(span) => span,
    None => Span::ZERO,
};
/// The reason of a saga that ends as compensated because no compensation was registered.
const NOTHING_TO_UNDO: &str = "nothing to undo";

/// Applies everything that is due to a saga by now.
pub fn apply_due(draft: &mut Draft) {
    end_reservation(draft);
    expire_lease(draft);
    quarantine_overdue_compensation(draft);
}

/// When the next thing is due to a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The deadline, not counting absences of the coordinator.
    pub at: Timestamp,
    /// When the deadline was last set. If that was before an absence, the grace applies. None: no grace applies.
    pub grace_reference: Option<Timestamp>,
}

impl Due {
    const fn fixed(at: Timestamp) -> Self {
        Due { at, grace_reference: None }
    }

    const fn with_grace(since: Timestamp, at: Timestamp) -> Self {
        Due { at, grace_reference: Some(since) }
    }

    /// The deadline including the grace of the last absence.
    pub fn effective(&self, grace: &RestartGrace) -> Timestamp {
        self.grace_reference.map_or(self.at, |since| grace.postpone(self.at, since))
    }
}

/// The next instant after `now` at which something is due to a saga, or at which it becomes claimable. Call it after
/// [`apply_due`].
pub fn next_due(saga: &Saga, now: Timestamp, grace: &RestartGrace) -> Option<Due> {
    let later = |instant: Option<Timestamp>| instant.filter(|t| *t > now).map(Due::fixed);
    match saga.state {
        State::Planned => later(saga.not_before),
        // Its assignee can claim it once the delay has passed.
        State::Dispatched => {
            let ends = saga.reservation.as_ref().map(|reservation| Due::fixed(reservation.expire_time));
            [later(saga.not_before), ends].into_iter().flatten().min_by_key(|due| due.at)
        }
        State::Running => lease_due(saga),
        State::Compensating => lease_due(saga).or_else(|| {
            let candidates = [later(saga.not_before.max(saga.settle_until)), compensation_deadline(saga)];
            candidates.into_iter().flatten().min_by_key(|due| due.effective(grace))
        }),
        State::Completed | State::Failed | State::Compensated | State::Quarantined => None,
    }
}

/// For which purposes `ClaimNext` may find the saga once its next due thing has been applied. It never omits a
/// purpose, but may name one too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyPurposes {
    /// To do the work.
    pub execute: bool,
    /// To undo it.
    pub compensate: bool,
}

impl ReadyPurposes {
    const NOTHING: Self = ReadyPurposes { execute: false, compensate: false };
    const EXECUTE: Self = ReadyPurposes { execute: true, compensate: false };
    const COMPENSATE: Self = ReadyPurposes { execute: false, compensate: true };

    /// Judged by the state alone.
    pub const fn of_state(state: State) -> Self {
        match state {
            State::Planned | State::Dispatched => Self::EXECUTE,
            State::Running => ReadyPurposes { execute: true, compensate: true },
            State::Compensating => Self::COMPENSATE,
            State::Completed | State::Failed | State::Compensated | State::Quarantined => Self::NOTHING,
        }
    }

    /// Judged by the whole saga, including what its policy does when a lease expires.
    pub fn of(saga: &Saga) -> Self {
        if saga.state != State::Running {
            return Self::of_state(saga.state);
        }
        let action = match &saga.cancel {
            Some(_) => StaleAction::Compensate,
            None if requeue_limit_reached(saga, saga.expirations.saturating_add(1)) => StaleAction::Compensate,
            None => saga.spec.policy.on_stale,
        };
        match action {
            StaleAction::Hold | StaleAction::Quarantine => Self::NOTHING,
            StaleAction::Requeue => Self::EXECUTE,
            StaleAction::Compensate => Self::COMPENSATE,
        }
    }

    /// Whether this purpose is among them.
    pub const fn includes(self, purpose: LeasePurpose) -> bool {
        match purpose {
            LeasePurpose::Execute => self.execute,
            LeasePurpose::Compensate => self.compensate,
        }
    }
}

/// True if the policy requeues, but no longer after this many expirations.
fn requeue_limit_reached(saga: &Saga, expirations: u32) -> bool {
    let policy = &saga.spec.policy;
    policy.on_stale == StaleAction::Requeue && expirations >= policy.max_expirations
}

/// When the current lease expires.
fn lease_due(saga: &Saga) -> Option<Due> {
    let lease = saga.lease.as_ref()?;
    match lease.standing {
        Standing::Held => Some(Due::with_grace(lease.heartbeat_time, lease.expire_time)),
        Standing::Expired { .. } | Standing::EndedByHolder(_) | Standing::EndedByOther => None,
    }
}

/// When a saga that nobody compensates is quarantined. Like a lease, it gets the grace: nobody could compensate while
/// the coordinator was away.
fn compensation_deadline(saga: &Saga) -> Option<Due> {
    let since = saga.idle_since?;
    Some(Due::with_grace(since, since.plus(saga.spec.policy.compensation_timeout)))
}

fn end_reservation(draft: &mut Draft) {
    let Some(reservation) = &draft.saga.reservation else { return };
    if draft.saga.state != State::Dispatched || draft.now < reservation.expire_time {
        return;
    }
    let reason = format!("the reservation for {} ended", reservation.assignee);
    let not_before = draft.saga.not_before;
    draft.become_planned(not_before);
    emit_as_coordinator(draft, EventType::Requeued, State::Dispatched, &reason, &[]);
}

fn expire_lease(draft: &mut Draft) {
    let state = draft.saga.state;
    if state.is_terminal() {
        return;
    }
    let (grace, now) = (draft.grace, draft.now);
    let Some(lease) = &draft.saga.lease else { return };
    let at = lease.effective_expiry(&grace);
    if lease.standing != Standing::Held || now < at {
        return;
    }
    let reason = match lease.limit {
        StaleCause::Ttl => format!("{} did not heartbeat in time", lease.owner),
        StaleCause::ExecutionTimeout => format!("{} reached the execution timeout", lease.owner),
        StaleCause::ProgressTimeout => format!("{} made no progress in time", lease.owner),
        // A lease's limit is never `Revoked`.
        StaleCause::Revoked => String::new(),
    };
    become_stale(draft, at, &Actor::coordinator(), &Text::own(&reason));
}

/// Ends a live lease as if it had expired now; the saga's policy for stale sagas applies.
pub(super) fn revoke_lease(draft: &mut Draft, actor: &Actor, reason: &Text) {
    let now = draft.now;
    if let Some(lease) = &mut draft.saga.lease {
        // A lease that lives on by the grace is past its `expire_time`.
        lease.expire_time = lease.expire_time.max(now.plus(JUST_AFTER));
        become_stale(draft, now, actor, reason);
    }
}

/// The lease ended at `at` without its holder: marks the saga as stale and applies its policy.
fn become_stale(draft: &mut Draft, at: Timestamp, actor: &Actor, reason: &Text) {
    let (state, revision) = (draft.saga.state, draft.next_revision());
    let Some(lease) = &mut draft.saga.lease else { return };
    lease.standing = Standing::Expired { at, revision };
    let (token, purpose, (expire_time, cause)) = (lease.token, lease.purpose, lease.end());
    let details = [
        ("owner_id", lease.owner.to_string()),
        ("expire_time", expire_time.to_string()),
        ("cause", cause.name().to_owned()),
    ];
    draft.saga.settle_until = Some(at.plus(draft.saga.spec.policy.settle)).filter(|until| *until > at);
    match purpose {
        LeasePurpose::Execute => draft.saga.expirations = draft.saga.expirations.saturating_add(1),
        LeasePurpose::Compensate => draft.saga.idle_since = Some(at),
    }
    draft.emit(EventType::LeaseExpired, state, Attribution::by(actor, reason), Some(token), &details);
    if state == State::Running {
        apply_stale_policy(draft, at);
    }
}

/// Applies a requested cancellation, or else the policy, to a running saga whose lease ended at `at`.
fn apply_stale_policy(draft: &mut Draft, at: Timestamp) {
    let (action, reason) = match &draft.saga.cancel {
        // A person decided to undo it. The saga is compensating even if there is nothing to undo.
        Some(cancel) => (StaleAction::Compensate, format!("cancelled by {}: {}", cancel.actor, cancel.reason)),
        None => policy_action(&draft.saga),
    };
    match action {
        StaleAction::Hold => {}
        StaleAction::Requeue => {
            emit_decision(draft, "REQUEUE", &reason);
            draft.end_by_other();
            draft.become_planned(None);
            emit_as_coordinator(draft, EventType::Requeued, State::Running, &reason, &[]);
        }
        StaleAction::Compensate => {
            emit_decision(draft, "COMPENSATE", &reason);
            draft.end_by_other();
            draft.become_compensating(None, at);
            emit_as_coordinator(draft, EventType::Compensating, State::Running, &reason, &[]);
            if draft.saga.cancel.is_none() {
                end_if_nothing_to_undo(draft);
            }
        }
        StaleAction::Quarantine => {
            emit_decision(draft, "QUARANTINE", &reason);
            quarantine(draft, State::Running, &reason);
        }
    }
}

/// The policy's action for an expiry that was just counted, and the reason.
fn policy_action(saga: &Saga) -> (StaleAction, String) {
    let policy = &saga.spec.policy;
    match policy.on_stale {
        StaleAction::Hold => (StaleAction::Hold, String::new()),
        StaleAction::Requeue if requeue_limit_reached(saga, saga.expirations) => (
            StaleAction::Compensate,
            format!(
                "policy: on_stale is REQUEUE, and this was expiration {} of {}",
                saga.expirations, policy.max_expirations
            ),
        ),
        StaleAction::Requeue => (StaleAction::Requeue, "policy: on_stale is REQUEUE".to_owned()),
        StaleAction::Compensate => (StaleAction::Compensate, "policy: on_stale is COMPENSATE".to_owned()),
        StaleAction::Quarantine => (StaleAction::Quarantine, "policy: on_stale is QUARANTINE".to_owned()),
    }
}

/// Ends a saga that its policy has just made compensating if it has no compensations: what is registered is what is
/// left behind, so there is nothing to undo.
pub(super) fn end_if_nothing_to_undo(draft: &mut Draft) {
    if draft.saga.compensations.is_empty() {
        draft.become_terminal(State::Compensated, &Text::own(NOTHING_TO_UNDO));
        emit_as_coordinator(draft, EventType::Compensated, State::Compensating, NOTHING_TO_UNDO, &[]);
    }
}

fn quarantine_overdue_compensation(draft: &mut Draft) {
    if draft.saga.state != State::Compensating || draft.live_lease().is_some() {
        return;
    }
    let Some(deadline) = compensation_deadline(&draft.saga) else { return };
    if draft.now < deadline.effective(&draft.grace) {
        return;
    }
    let timeout = draft.saga.spec.policy.compensation_timeout;
    let kinds = draft.saga.pending_kinds().join(", ");
    let reason = if kinds.is_empty() {
        format!("nobody finished the compensation within {timeout}; every one of them is settled")
    } else {
        format!("nobody compensated within {timeout}: pending {kinds}")
    };
    quarantine(draft, State::Compensating, &reason);
}

fn quarantine(draft: &mut Draft, from: State, reason: &str) {
    draft.end_by_other();
    draft.become_terminal(State::Quarantined, &Text::own(reason));
    emit_as_coordinator(draft, EventType::Quarantined, from, reason, &[]);
}

fn emit_decision(draft: &mut Draft, decision: &str, reason: &str) {
    emit_as_coordinator(
        draft,
        EventType::RecoveryDecided,
        State::Running,
        reason,
        &[("decision", decision.to_owned())],
    );
}

/// Emits an event whose actor is the coordinator, about the last lease if there is one.
fn emit_as_coordinator(
    draft: &mut Draft,
    kind: EventType,
    from: State,
    reason: &str,
    details: super::draft::DetailPairs<'_>,
) {
    let coordinator = Actor::coordinator();
    let token = draft.token();
    draft.emit(
        kind,
        from,
        Attribution { actor: Some(&coordinator), reason: Text::own(reason).as_str() },
        token,
        details,
    );
}
