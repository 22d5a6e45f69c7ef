//! Operations that don't require the lease: dispatch, claim, waive, quarantine, recover, revoke, cancel, annotate.

use super::{
    command::{RecoveryDecision, UnleasedOperation},
    compensation::CompensationState,
    compensation_rules::{emit_settled, unsettled_index},
    draft::{Attribution, Draft, actor_of},
    due::revoke_lease,
    event::{ClaimDetails, EventDetails, EventType},
    ids::{FencingToken, OwnerId},
    lease::{Lease, LeasePurpose, Standing},
    rejection::Rejection,
    saga::{CancelRequest, Reservation, State},
    text::{Actor, Labels, Text},
    time::Span,
    transition_effect::TransitionEffect,
};

/// Checks an operation and applies it to the draft.
pub(super) fn apply(draft: &mut Draft, operation: &UnleasedOperation) -> Result<TransitionEffect, Rejection> {
    match operation {
        UnleasedOperation::Annotate { .. } => {}
        UnleasedOperation::Dispatch { .. }
        | UnleasedOperation::Claim { .. }
        | UnleasedOperation::WaiveCompensation { .. }
        | UnleasedOperation::Quarantine { .. }
        | UnleasedOperation::Recover { .. }
        | UnleasedOperation::RevokeLease { .. }
        | UnleasedOperation::RequestCancel { .. } => {
            if draft.saga.state.is_terminal() {
                return Err(Rejection::SagaTerminal);
            }
        }
    }
    match operation {
        UnleasedOperation::Annotate { actor, note, details, terminal_reason } => {
            annotate(draft, actor, note, details, terminal_reason.as_ref())
        }
        UnleasedOperation::Dispatch { assignee, ttl, actor, reason } => dispatch(draft, assignee, *ttl, actor, reason),
        UnleasedOperation::Claim { owner, ttl, purpose, reason } => {
            check_claimable(draft, owner, *purpose)?;
            take_lease(draft, owner, *ttl, *purpose, reason);
            Ok(TransitionEffect::Changed)
        }
        UnleasedOperation::WaiveCompensation { position, actor, reason } => waive(draft, *position, actor, reason),
        UnleasedOperation::Quarantine { actor, reason, revoke_lease } => {
            quarantine(draft, actor, reason, *revoke_lease)
        }
        UnleasedOperation::Recover { decision, actor, reason, token, validate_only } => {
            check_recoverable(draft, *decision, *token)?;
            if *validate_only {
                return Ok(TransitionEffect::Unchanged);
            }
            recover(draft, *decision, actor, reason);
            Ok(TransitionEffect::Changed)
        }
        UnleasedOperation::RevokeLease { token, actor, reason } => {
            if draft.live_lease().is_none_or(|lease| lease.token != *token) {
                return Err(Rejection::LeaseSuperseded);
            }
            revoke_lease(draft, actor, reason);
            Ok(TransitionEffect::Changed)
        }
        UnleasedOperation::RequestCancel { actor, reason, revoke_lease } => {
            Ok(cancel(draft, actor, reason, *revoke_lease))
        }
    }
}

fn dispatch(
    draft: &mut Draft,
    assignee: &OwnerId,
    ttl: Span,
    actor: &Actor,
    reason: &Text,
) -> Result<TransitionEffect, Rejection> {
    let from = draft.saga.state;
    match from {
        State::Planned | State::Dispatched => {}
        State::Running
        | State::Compensating
        | State::Completed
        | State::Failed
        | State::Compensated
        | State::Quarantined => return Err(Rejection::wrong_state(&format!("the saga is {}", from.name()))),
    }
    let expire_time = draft.now.plus(ttl);
    draft.saga.state = State::Dispatched;
    draft.saga.reservation = Some(Reservation { assignee: assignee.clone(), expire_time });
    let details = [("assignee", assignee.to_string()), ("expire_time", expire_time.to_string())];
    draft.emit(EventType::Dispatched, from, Attribution::by(actor, reason), None, &details);
    Ok(TransitionEffect::Changed)
}

/// Checks whether the lease can be taken now. The order of the refusals is part of the contract.
fn check_claimable(draft: &Draft, owner: &OwnerId, purpose: LeasePurpose) -> Result<(), Rejection> {
    let saga = &draft.saga;
    if purpose == LeasePurpose::Execute {
        if saga.state == State::Compensating {
            return Err(Rejection::wrong_state("the saga is COMPENSATING, which is one-way"));
        }
        if saga.cancel.is_some() {
            return Err(Rejection::wrong_state("its cancellation was requested"));
        }
    }
    if let Some(lease) = draft.live_lease() {
        return Err(lease_held(draft, lease));
    }
    let for_others = |r: &&Reservation| purpose == LeasePurpose::Compensate || r.assignee != *owner;
    if let Some(reservation) = saga.reservation.as_ref().filter(for_others) {
        return Err(Rejection::DispatchedElsewhere {
            assignee: reservation.assignee.clone(),
            expire_time: reservation.expire_time,
            retry_after: draft.until(reservation.expire_time),
        });
    }
    // A claim for compensation ignores the delay of a planned saga; the delay of a compensating one was requested with
    // its `Release` and counts.
    let delay_counts = purpose == LeasePurpose::Execute || saga.state == State::Compensating;
    if let Some(not_before) = saga.not_before.filter(|ready| delay_counts && draft.now < *ready) {
        return Err(Rejection::NotReady { not_before, retry_after: draft.until(not_before) });
    }
    let settling = saga.settle_until.filter(|until| purpose == LeasePurpose::Compensate && draft.now < *until);
    if let Some(settle_until) = settling {
        return Err(Rejection::Settling { settle_until, retry_after: draft.until(settle_until) });
    }
    Ok(())
}

fn lease_held(draft: &Draft, lease: &Lease) -> Rejection {
    Rejection::LeaseHeld {
        owner: lease.owner.clone(),
        token: lease.token,
        expire_time: lease.expire_time,
        retry_after: draft.until(lease.effective_expiry(&draft.grace)),
    }
}

fn take_lease(draft: &mut Draft, owner: &OwnerId, ttl: Span, purpose: LeasePurpose, reason: &Text) {
    let from = draft.saga.state;
    let now = draft.now;
    let token = FencingToken::from(draft.next_revision());
    let (expire_time, limit) = draft.clamp(purpose, now, now, ttl);
    draft.saga.lease = Some(Lease {
        owner: owner.clone(),
        token,
        purpose,
        acquire_time: now,
        heartbeat_time: now,
        expire_time,
        ttl,
        limit,
        progress_time: now,
        standing: Standing::Held,
    });
    match purpose {
        LeasePurpose::Execute => {
            draft.saga.attempt = draft.saga.attempt.saturating_add(1);
            draft.saga.state = State::Running;
            draft.saga.idle_since = None;
        }
        LeasePurpose::Compensate => {
            draft.saga.state = State::Compensating;
            draft.saga.idle_since = Some(now);
        }
    }
    draft.saga.reservation = None;
    draft.saga.not_before = None;
    draft.saga.settle_until = None;
    let details = EventDetails::of_claim(ClaimDetails { purpose, expire_time, attempt: draft.saga.attempt });
    draft.emit_with(EventType::Claimed, from, Attribution::by(&actor_of(owner), reason), Some(token), details);
}

fn waive(draft: &mut Draft, position: u32, actor: &Actor, reason: &Text) -> Result<TransitionEffect, Rejection> {
    if draft.saga.state != State::Compensating {
        return Err(Rejection::wrong_state(&format!("the saga is {}", draft.saga.state.name())));
    }
    let index = unsettled_index(&draft.saga, position)?;
    let now = draft.now;
    draft.saga.idle_since = Some(now);
    waive_at(draft, index, actor, reason);
    Ok(TransitionEffect::Changed)
}

fn waive_at(draft: &mut Draft, index: usize, actor: &Actor, reason: &Text) {
    let compensation = &mut draft.saga.compensations[index];
    compensation.state = CompensationState::Waived;
    compensation.settled_by = Some(actor.as_str().into());
    compensation.settle_time = Some(draft.now);
    emit_settled(draft, index, "WAIVED", Attribution::by(actor, reason), None);
}

fn quarantine(draft: &mut Draft, actor: &Actor, reason: &Text, revoke: bool) -> Result<TransitionEffect, Rejection> {
    if let Some(lease) = draft.live_lease().filter(|_| !revoke) {
        return Err(lease_held(draft, lease));
    }
    let (from, token) = (draft.saga.state, draft.token());
    draft.end_by_other();
    draft.become_terminal(State::Quarantined, reason);
    draft.emit(EventType::Quarantined, from, Attribution::by(actor, reason), token, &[]);
    Ok(TransitionEffect::Changed)
}

fn check_recoverable(draft: &Draft, decision: RecoveryDecision, token: Option<FencingToken>) -> Result<(), Rejection> {
    let saga = &draft.saga;
    match decision {
        RecoveryDecision::Requeue if saga.state == State::Compensating => {
            return Err(Rejection::wrong_state("the saga is COMPENSATING, which is one-way"));
        }
        RecoveryDecision::Requeue if saga.cancel.is_some() => {
            return Err(Rejection::wrong_state("its cancellation was requested"));
        }
        RecoveryDecision::Requeue | RecoveryDecision::Compensate | RecoveryDecision::Quarantine => {}
    }
    let last = draft.token();
    let stale = saga.is_stale(draft.now, &draft.grace);
    if !stale || token.is_some_and(|token| Some(token) != last) {
        return Err(Rejection::NotStale { token: last, stale, state: saga.state });
    }
    Ok(())
}

fn recover(draft: &mut Draft, decision: RecoveryDecision, actor: &Actor, reason: &Text) {
    let (from, token, now) = (draft.saga.state, draft.token(), draft.now);
    let details = [("decision", decision.name().to_owned())];
    draft.emit(EventType::RecoveryDecided, from, Attribution::by(actor, reason), token, &details);
    draft.end_by_other();
    let kind = match decision {
        RecoveryDecision::Requeue => {
            draft.become_planned(None);
            EventType::Requeued
        }
        RecoveryDecision::Compensate => {
            // A decision settles no compensation: if the saga is compensating already, its compensation timeout keeps
            // running.
            let since = draft.saga.idle_since.filter(|_| from == State::Compensating).unwrap_or(now);
            draft.become_compensating(None, since);
            EventType::Compensating
        }
        RecoveryDecision::Quarantine => {
            draft.become_terminal(State::Quarantined, reason);
            EventType::Quarantined
        }
    };
    draft.emit(kind, from, Attribution::by(actor, reason), token, &[]);
}

fn cancel(draft: &mut Draft, actor: &Actor, reason: &Text, revoke: bool) -> TransitionEffect {
    let from = draft.saga.state;
    if from == State::Compensating {
        // It is being compensated already.
        return TransitionEffect::Unchanged;
    }
    let live = draft.live_lease().is_some();
    let asked_before = draft.saga.cancel.is_some();
    if asked_before && live && !revoke {
        return TransitionEffect::Unchanged;
    }
    let token = draft.token();
    if !asked_before {
        draft.saga.cancel = Some(CancelRequest { actor: actor.clone(), reason: reason.clone() });
    }
    let details = [("revoke_lease", revoke.to_string())];
    draft.emit(EventType::CancelRequested, from, Attribution::by(actor, reason), token, &details);
    if draft.saga.lease.is_none() {
        for index in (0..draft.saga.compensations.len()).rev() {
            waive_at(draft, index, actor, &Text::own(&format!("never started: {reason}")));
        }
        draft.become_terminal(State::Compensated, reason);
        draft.emit(EventType::Compensated, from, Attribution::by(actor, reason), None, &[]);
    } else if !live || revoke {
        draft.end_by_other();
        let now = draft.now;
        draft.become_compensating(None, now);
        draft.emit(EventType::Compensating, from, Attribution::by(actor, reason), token, &[]);
    }
    TransitionEffect::Changed
}

fn annotate(
    draft: &mut Draft,
    actor: &Actor,
    note: &Text,
    details: &Labels,
    terminal_reason: Option<&Text>,
) -> Result<TransitionEffect, Rejection> {
    let state = draft.saga.state;
    let mut told: Vec<(&str, String)> =
        details.pairs().iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    if let Some(amended) = terminal_reason {
        if !state.is_terminal() {
            return Err(Rejection::wrong_state(&format!(
                "the saga is {}: it has no terminal reason yet",
                state.name()
            )));
        }
        let amended = if amended.is_empty() { Text::own(state.name()) } else { amended.clone() };
        told.push(("terminal_reason", amended.to_string()));
        let before = draft.saga.terminal_reason.replace(amended).unwrap_or_default();
        told.push(("previous_terminal_reason", before.to_string()));
    }
    draft.emit(EventType::Annotated, state, Attribution::by(actor, note), None, &told);
    Ok(TransitionEffect::Changed)
}
