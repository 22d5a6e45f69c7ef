//! What happens by itself: reservations that end, leases that run out, compensations that nobody runs.
//!
//! Each command applies what is due to its saga before it is judged, so no outcome depends on whether a sweep has been
//! there. What is due is reckoned from the instant at which it fell due, not from when it was noticed.

use super::{
    draft::{Draft, Said},
    event::EventType,
    lease::{Absence, LeasePurpose, StaleCause, Standing},
    policy::StaleAction,
    saga::{Saga, State},
    text::{Actor, Text},
    time::{Span, Timestamp},
};

/// By which the `expire_time` of a revoked lease lies behind its end at least: so the two are told apart.
const JUST_AFTER: Span = match Span::from_micros(1) {
    Some(span) => span,
    None => Span::ZERO,
};
/// Why a saga ends as compensated that left nothing behind.
const NOTHING_TO_UNDO: &str = "nothing to undo";

/// Applies to a saga what is due by now.
pub fn apply_due(draft: &mut Draft) {
    end_reservation(draft);
    expire_lease(draft);
    give_up_compensating(draft);
}

/// When something is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The instant, but for absences of the coordinator.
    pub at: Timestamp,
    /// Since when it has been running, if an absence since then puts it off.
    pub running_since: Option<Timestamp>,
}

impl Due {
    const fn fixed(at: Timestamp) -> Self {
        Due { at, running_since: None }
    }

    const fn running(since: Timestamp, at: Timestamp) -> Self {
        Due { at, running_since: Some(since) }
    }

    /// The instant, given the last absence.
    pub fn effective(&self, absence: &Absence) -> Timestamp {
        self.running_since.map_or(self.at, |since| absence.put_off(self.at, since))
    }
}

/// The next instant after `now` at which something happens to a saga by itself, or at which it becomes claimable.
/// To be asked after [`apply_due`].
pub fn next_due(saga: &Saga, now: Timestamp, absence: &Absence) -> Option<Due> {
    let later = |instant: Option<Timestamp>| instant.filter(|t| *t > now).map(Due::fixed);
    match saga.state {
        State::Planned => later(saga.not_before),
        // Its assignee can take it once its delay has passed.
        State::Dispatched => {
            let ends = saga.reservation.as_ref().map(|reservation| Due::fixed(reservation.expire_time));
            [later(saga.not_before), ends].into_iter().flatten().min_by_key(|due| due.at)
        }
        State::Running => held_until(saga),
        State::Compensating => held_until(saga).or_else(|| {
            let candidates = [later(saga.not_before.max(saga.settle_until)), compensation_deadline(saga)];
            candidates.into_iter().flatten().min_by_key(|due| due.effective(absence))
        }),
        State::Completed | State::Failed | State::Compensated | State::Quarantined => None,
    }
}

/// For which purposes `ClaimNext` may be able to hand a saga out once what is due to it next has happened. It never leaves
/// out a purpose, but may name one too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyAfterDue {
    /// To do the work.
    pub execute: bool,
    /// To undo it.
    pub compensate: bool,
}

impl ReadyAfterDue {
    const NOTHING: Self = ReadyAfterDue { execute: false, compensate: false };
    const EXECUTE: Self = ReadyAfterDue { execute: true, compensate: false };
    const COMPENSATE: Self = ReadyAfterDue { execute: false, compensate: true };

    /// As far as the state alone tells.
    pub const fn of_state(state: State) -> Self {
        match state {
            State::Planned | State::Dispatched => Self::EXECUTE,
            State::Running => ReadyAfterDue { execute: true, compensate: true },
            State::Compensating => Self::COMPENSATE,
            State::Completed | State::Failed | State::Compensated | State::Quarantined => Self::NOTHING,
        }
    }

    /// As far as the whole saga tells: what its policy makes of a lease that runs out.
    pub fn of(saga: &Saga) -> Self {
        if saga.state != State::Running {
            return Self::of_state(saga.state);
        }
        let action = match &saga.cancel {
            Some(_) => StaleAction::Compensate,
            None if requeues_no_more(saga, saga.expirations.saturating_add(1)) => StaleAction::Compensate,
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

/// Whether the policy requeues, but not after so many expirations.
fn requeues_no_more(saga: &Saga, expirations: u32) -> bool {
    let policy = &saga.spec.policy;
    policy.on_stale == StaleAction::Requeue && expirations >= policy.max_expirations
}

/// When a lease that is held ends.
fn held_until(saga: &Saga) -> Option<Due> {
    let lease = saga.lease.as_ref()?;
    match lease.standing {
        Standing::Held => Some(Due::running(lease.heartbeat_time, lease.expire_time)),
        Standing::Expired { .. } | Standing::EndedByHolder(_) | Standing::EndedByOther => None,
    }
}

/// When a saga that nobody compensates is given up. The time in which the coordinator was away, and so nobody could, is
/// made up for like a lease's.
fn compensation_deadline(saga: &Saga) -> Option<Due> {
    let since = saga.idle_since?;
    Some(Due::running(since, since.plus(saga.spec.policy.compensation_timeout)))
}

fn end_reservation(draft: &mut Draft) {
    let Some(reservation) = &draft.saga.reservation else { return };
    if draft.saga.state != State::Dispatched || draft.now < reservation.expire_time {
        return;
    }
    let reason = format!("the reservation for {} ended", reservation.assignee);
    let not_before = draft.saga.not_before;
    draft.become_planned(not_before);
    emit_own(draft, EventType::Requeued, State::Dispatched, &reason, &[]);
}

fn expire_lease(draft: &mut Draft) {
    let state = draft.saga.state;
    if state.is_terminal() {
        return;
    }
    let (absence, now) = (draft.absence, draft.now);
    let Some(lease) = &draft.saga.lease else { return };
    let at = lease.effective_expiry(&absence);
    if lease.standing != Standing::Held || now < at {
        return;
    }
    let reason = match lease.limit {
        StaleCause::Ttl => format!("{} did not heartbeat in time", lease.owner),
        StaleCause::ExecutionTimeout => format!("{} reached the execution timeout", lease.owner),
        StaleCause::ProgressTimeout => format!("{} made no progress in time", lease.owner),
        // No lease is bounded by it.
        StaleCause::Revoked => String::new(),
    };
    become_stale(draft, at, &Actor::coordinator(), &Text::own(&reason));
}

/// Ends a lease that is live, as if it had run out now: what is due to a stale saga happens to this one.
pub(super) fn revoke_lease(draft: &mut Draft, actor: &Actor, reason: &Text) {
    let now = draft.now;
    if let Some(lease) = &mut draft.saga.lease {
        // One that lives on by its grace is past its own end.
        lease.expire_time = lease.expire_time.max(now.plus(JUST_AFTER));
        become_stale(draft, now, actor, reason);
    }
}

/// A lease ends at `at`, and not by its holder: the saga is stale, and its policy decides what comes of it.
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
    draft.emit(EventType::LeaseExpired, state, Said::by(actor, reason), Some(token), &details);
    if state == State::Running {
        follow_policy(draft, at);
    }
}

/// What becomes of a running saga whose lease ran out at `at`: a cancellation that was asked for, else its policy.
fn follow_policy(draft: &mut Draft, at: Timestamp) {
    let (action, reason) = match &draft.saga.cancel {
        // A person decided to undo it; that there is nothing to undo does not change the decision.
        Some(cancel) => (StaleAction::Compensate, format!("cancelled by {}: {}", cancel.actor, cancel.reason)),
        None => policy_action(&draft.saga),
    };
    match action {
        StaleAction::Hold => {}
        StaleAction::Requeue => {
            decide(draft, "REQUEUE", &reason);
            draft.end_by_other();
            draft.become_planned(None);
            emit_own(draft, EventType::Requeued, State::Running, &reason, &[]);
        }
        StaleAction::Compensate => {
            decide(draft, "COMPENSATE", &reason);
            draft.end_by_other();
            draft.become_compensating(None, at);
            emit_own(draft, EventType::Compensating, State::Running, &reason, &[]);
            if draft.saga.cancel.is_none() {
                end_if_nothing_to_undo(draft);
            }
        }
        StaleAction::Quarantine => {
            decide(draft, "QUARANTINE", &reason);
            quarantine(draft, State::Running, &reason);
        }
    }
}

/// What the policy makes of an expiry that was just counted, and why.
fn policy_action(saga: &Saga) -> (StaleAction, String) {
    let policy = &saga.spec.policy;
    match policy.on_stale {
        StaleAction::Hold => (StaleAction::Hold, String::new()),
        StaleAction::Requeue if requeues_no_more(saga, saga.expirations) => (
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

/// Ends a saga that its policy has just made compensating, if no compensation was ever registered: what is registered is
/// what is left behind, so there is nothing that a compensator could do.
pub(super) fn end_if_nothing_to_undo(draft: &mut Draft) {
    if draft.saga.compensations.is_empty() {
        draft.become_terminal(State::Compensated, &Text::own(NOTHING_TO_UNDO));
        emit_own(draft, EventType::Compensated, State::Compensating, NOTHING_TO_UNDO, &[]);
    }
}

fn give_up_compensating(draft: &mut Draft) {
    if draft.saga.state != State::Compensating || draft.live_lease().is_some() {
        return;
    }
    let Some(deadline) = compensation_deadline(&draft.saga) else { return };
    if draft.now < deadline.effective(&draft.absence) {
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
    emit_own(draft, EventType::Quarantined, from, reason, &[]);
}

fn decide(draft: &mut Draft, decision: &str, reason: &str) {
    emit_own(draft, EventType::RecoveryDecided, State::Running, reason, &[("decision", decision.to_owned())]);
}

/// An event of the coordinator's own making, about the last lease if there is one.
fn emit_own(draft: &mut Draft, kind: EventType, from: State, reason: &str, details: super::draft::Details<'_>) {
    let coordinator = Actor::coordinator();
    let token = draft.token();
    draft.emit(kind, from, Said { actor: Some(&coordinator), reason: Text::own(reason).as_str() }, token, details);
}
