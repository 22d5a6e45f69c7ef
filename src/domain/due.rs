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
    time::Timestamp,
};

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
    let (absence, now, next) = (draft.absence, draft.now, draft.next_revision());
    let Some(lease) = &mut draft.saga.lease else { return };
    let at = lease.effective_expiry(&absence);
    if lease.standing != Standing::Held || now < at {
        return;
    }
    lease.standing = Standing::Expired { at, revision: next };
    let (token, purpose, cause) = (lease.token, lease.purpose, lease.limit);
    let reason = match cause {
        StaleCause::Ttl => format!("{} did not heartbeat in time", lease.owner),
        StaleCause::ExecutionTimeout => format!("{} reached the execution timeout", lease.owner),
        StaleCause::ProgressTimeout => format!("{} made no progress in time", lease.owner),
    };
    let details = [
        ("owner_id", lease.owner.to_string()),
        ("expire_time", lease.expire_time.to_string()),
        ("cause", cause.name().to_owned()),
    ];
    draft.saga.settle_until = Some(at.plus(draft.saga.spec.policy.settle)).filter(|until| *until > at);
    match purpose {
        LeasePurpose::Execute => draft.saga.expirations += 1,
        LeasePurpose::Compensate => draft.saga.idle_since = Some(at),
    }
    let coordinator = Actor::coordinator();
    let event = Said { actor: Some(&coordinator), reason: &reason };
    draft.emit(EventType::LeaseExpired, state, event, Some(token), &details);
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
    let (action, reason) = match policy.on_stale {
        StaleAction::Hold => (StaleAction::Hold, String::new()),
        StaleAction::Requeue if saga.expirations >= policy.max_expirations => (
            StaleAction::Compensate,
            format!(
                "policy: on_stale is REQUEUE, and this was expiration {} of {}",
                saga.expirations, policy.max_expirations
            ),
        ),
        StaleAction::Requeue => (StaleAction::Requeue, "policy: on_stale is REQUEUE".to_owned()),
        StaleAction::Compensate => (StaleAction::Compensate, "policy: on_stale is COMPENSATE".to_owned()),
        StaleAction::Quarantine => (StaleAction::Quarantine, "policy: on_stale is QUARANTINE".to_owned()),
    };
    if action == StaleAction::Compensate && saga.compensations.is_empty() {
        return (StaleAction::Quarantine, format!("{reason}; there is no compensation to run"));
    }
    (action, reason)
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
