//! What the holder of a lease can do, and who counts as the holder.

use super::{
    bounds::COMPENSATIONS,
    command::{HeldVerb, Holder},
    compensation::{Compensation, CompensationOutcome, CompensationSpec, CompensationState},
    draft::{Draft, Said, actor_of},
    event::EventType,
    lease::{HolderEnd, Lease, StaleCause, Standing},
    policy::FailureAction,
    rejection::{Rejection, StandingLease},
    saga::{Saga, State},
    text::{Blob, Text},
    time::Span,
    transition::{Accepted, EarlierLease, wrong_state},
};

/// Judges a call under a lease, and makes its change.
pub(super) fn apply(
    draft: &mut Draft,
    holder: &Holder,
    verb: &HeldVerb,
    earlier: Option<&EarlierLease>,
) -> Result<Accepted, Rejection> {
    if is_repeat(draft, holder, verb, earlier) {
        return Ok(Accepted::Repeated);
    }
    let lease = admit(draft, holder, verb)?.clone();
    allow(draft.saga.state, verb)?;
    match verb {
        HeldVerb::Heartbeat { ttl, progress } => heartbeat(draft, &lease, *ttl, progress.as_ref())?,
        HeldVerb::Release { delay, reason } => release(draft, holder, *delay, reason),
        HeldVerb::RegisterCompensation { compensations } => register(draft, holder, compensations)?,
        HeldVerb::Complete { result, reason } => {
            draft.end_by_holder(HolderEnd::Completed);
            draft.saga.result = result.clone();
            end(draft, holder, State::Completed, EventType::Completed, reason);
        }
        HeldVerb::Fail { reason, compensations, retryable } => fail(draft, holder, reason, compensations, *retryable)?,
        HeldVerb::RecordCompensation { position, outcome, detail } => {
            record(draft, holder, *position, *outcome, detail)?;
        }
        HeldVerb::Compensate { reason } => {
            let kinds = draft.saga.pending_kinds().join(",");
            if !kinds.is_empty() {
                return Err(Rejection::CompensationPending { kinds: kinds.into() });
            }
            draft.end_by_holder(HolderEnd::Compensated);
            end(draft, holder, State::Compensated, EventType::Compensated, reason);
        }
        HeldVerb::Quarantine { reason } => {
            draft.end_by_holder(HolderEnd::Quarantined);
            end(draft, holder, State::Quarantined, EventType::Quarantined, reason);
        }
    }
    Ok(Accepted::Changed)
}

/// Whether this lease has made this very change already: its answer got lost, and the caller asks again.
///
/// A failed attempt to undo is counted each time it is reported, so while the lease can still report one, a second
/// report is a second attempt; a `request_id` tells a repetition of the call apart.
fn is_repeat(draft: &Draft, holder: &Holder, verb: &HeldVerb, earlier: Option<&EarlierLease>) -> bool {
    let saga = &draft.saga;
    let current = saga.lease.as_ref().filter(|lease| lease.token == holder.token);
    let (owner, end) = match (current, earlier) {
        (Some(lease), _) => match lease.standing {
            Standing::EndedByHolder(end) => (&lease.owner, Some(end)),
            Standing::Held | Standing::Expired { .. } | Standing::EndedByOther => (&lease.owner, None),
        },
        (None, Some(earlier)) => (&earlier.owner, earlier.end),
        (None, None) => return false,
    };
    if *owner != holder.owner {
        return false;
    }
    match verb {
        HeldVerb::Heartbeat { .. } => false,
        HeldVerb::Release { .. } => end == Some(HolderEnd::Released),
        HeldVerb::Complete { result, .. } => end == Some(HolderEnd::Completed) && saga.result == *result,
        HeldVerb::Fail { .. } => end == Some(HolderEnd::Failed),
        HeldVerb::Compensate { .. } => end == Some(HolderEnd::Compensated),
        HeldVerb::Quarantine { .. } => end == Some(HolderEnd::Quarantined),
        HeldVerb::RegisterCompensation { compensations } => compensations
            .iter()
            .all(|wanted| find(saga, wanted).is_some_and(|known| known.registered_under == Some(holder.token))),
        HeldVerb::RecordCompensation { position, outcome, .. } => {
            let lease_is_over = current.is_none_or(|lease| match lease.standing {
                Standing::EndedByHolder(_) | Standing::EndedByOther => true,
                Standing::Held | Standing::Expired { .. } => false,
            });
            at_position(saga, *position).is_some_and(|known| {
                known.recorded_under == Some(holder.token)
                    && match outcome {
                        CompensationOutcome::Done => known.state == CompensationState::Done,
                        CompensationOutcome::Failed => known.state == CompensationState::Failed && lease_is_over,
                    }
            })
        }
    }
}

/// The lease, if it is the caller's and still good for this call. The order of the refusals is part of the contract.
fn admit<'a>(draft: &'a Draft, holder: &Holder, verb: &HeldVerb) -> Result<&'a Lease, Rejection> {
    let Some(lease) = &draft.saga.lease else { return Err(Rejection::NoLease) };
    if holder.token < lease.token || (holder.token == lease.token && lease.standing == Standing::EndedByOther) {
        return Err(Rejection::LeaseSuperseded);
    }
    if holder.token > lease.token {
        return Err(Rejection::NoLease);
    }
    if holder.owner != lease.owner {
        return Err(Rejection::NotOwner { owner: lease.owner.clone() });
    }
    if draft.saga.state.is_terminal() {
        return Err(Rejection::SagaTerminal);
    }
    match lease.standing {
        Standing::EndedByHolder(_) | Standing::EndedByOther => Err(Rejection::NoLease),
        Standing::Expired { .. } if !accepted_late(verb) => {
            Err(Rejection::LeaseExpired { expire_time: lease.expire_time })
        }
        Standing::Held | Standing::Expired { .. } => Ok(lease),
    }
}

/// Whether a lease that was once given still stands: what a repeated claim is answered with, or the lease's error.
pub fn check_lease(draft: &Draft, holder: &Holder) -> Result<(), Rejection> {
    admit(draft, holder, &HeldVerb::Heartbeat { ttl: None, progress: None }).map(|_| ())
}

/// Whether a call is accepted from a lease that ran out and that nothing has ended: the work is done, and redoing it
/// helps nobody.
fn accepted_late(verb: &HeldVerb) -> bool {
    match verb {
        HeldVerb::Heartbeat { .. } | HeldVerb::Release { .. } | HeldVerb::RegisterCompensation { .. } => false,
        HeldVerb::Complete { .. }
        | HeldVerb::Fail { .. }
        | HeldVerb::RecordCompensation { .. }
        | HeldVerb::Compensate { .. }
        | HeldVerb::Quarantine { .. } => true,
    }
}

/// Which call belongs to which state.
fn allow(state: State, verb: &HeldVerb) -> Result<(), Rejection> {
    let belongs = match verb {
        HeldVerb::Heartbeat { .. } | HeldVerb::Release { .. } | HeldVerb::Quarantine { .. } => {
            matches!(state, State::Running | State::Compensating)
        }
        HeldVerb::RegisterCompensation { .. } | HeldVerb::Complete { .. } | HeldVerb::Fail { .. } => {
            state == State::Running
        }
        HeldVerb::RecordCompensation { .. } | HeldVerb::Compensate { .. } => state == State::Compensating,
    };
    if belongs { Ok(()) } else { Err(wrong_state(&format!("the saga is {}", state.name()))) }
}

fn heartbeat(draft: &mut Draft, lease: &Lease, ttl: Option<Span>, progress: Option<&Blob>) -> Result<(), Rejection> {
    let ttl = ttl.unwrap_or(lease.ttl);
    let changed = progress.filter(|progress| **progress != draft.saga.progress);
    let progress_time = if changed.is_some() { draft.now } else { lease.progress_time };
    let (expire_time, limit) = draft.clamp(lease.purpose, lease.acquire_time, progress_time, ttl);
    if expire_time <= lease.expire_time.max(draft.now) {
        let standing = StandingLease { expire_time: lease.expire_time, cancel_reason: cancel_reason(&draft.saga) };
        return Err(match limit {
            StaleCause::Ttl => Rejection::LeaseNotExtended(standing),
            StaleCause::ExecutionTimeout => Rejection::ExecutionTimeout(standing),
            StaleCause::ProgressTimeout => Rejection::ProgressTimeout(standing),
        });
    }
    if let Some(progress) = changed {
        draft.saga.progress = progress.clone();
    }
    let extended = Lease { heartbeat_time: draft.now, expire_time, ttl, limit, progress_time, ..lease.clone() };
    draft.saga.lease = Some(extended);
    Ok(())
}

/// Why the worker is to stop, if it is: a cancellation is a directive to those who execute, not to those who undo.
pub fn cancel_reason(saga: &Saga) -> Option<Text> {
    saga.cancel.as_ref().filter(|_| saga.state == State::Running).map(|cancel| cancel.reason.clone())
}

fn release(draft: &mut Draft, holder: &Holder, delay: Span, reason: &Text) {
    let from = draft.saga.state;
    let not_before = Some(draft.now.plus(delay)).filter(|ready| *ready > draft.now);
    let now = draft.now;
    draft.end_by_holder(HolderEnd::Released);
    let kind = if from == State::Compensating {
        draft.become_compensating(not_before, now);
        EventType::Released
    } else if draft.saga.cancel.is_some() {
        draft.become_compensating(not_before, now);
        EventType::Compensating
    } else {
        draft.become_planned(not_before);
        EventType::Released
    };
    let actor = actor_of(&holder.owner);
    let mut details = vec![("ended_by", HolderEnd::Released.name().to_owned())];
    details.extend(not_before.map(|ready| ("not_before", ready.to_string())));
    draft.emit(kind, from, Said::by(&actor, reason), Some(holder.token), &details);
}

fn fail(
    draft: &mut Draft,
    holder: &Holder,
    reason: &Text,
    compensations: &[CompensationSpec],
    retryable: bool,
) -> Result<(), Rejection> {
    let policy = draft.saga.spec.policy.clone();
    let failures = draft.saga.failures + u32::from(retryable);
    let retried = retryable && failures < policy.max_attempts && draft.saga.cancel.is_none();
    let nothing_to_undo = draft.saga.compensations.is_empty() && compensations.is_empty();
    if draft.saga.cancel.is_none() && !retried && policy.on_failure == FailureAction::Fail && nothing_to_undo {
        return Err(Rejection::CompensationRequired);
    }
    register(draft, holder, compensations)?;
    draft.saga.failures = failures;
    draft.end_by_holder(HolderEnd::Failed);
    let now = draft.now;
    let mut details = vec![("ended_by", HolderEnd::Failed.name().to_owned()), ("retryable", retryable.to_string())];
    let mut why = reason.clone();
    let kind = if draft.saga.cancel.is_some() {
        draft.become_compensating(None, now);
        EventType::Compensating
    } else if retried {
        let not_before = now.plus(policy.backoff(failures));
        draft.become_planned(Some(not_before).filter(|ready| *ready > now));
        details.push(("failures", format!("{failures} of {}", policy.max_attempts)));
        details.push(("not_before", not_before.to_string()));
        EventType::RetryScheduled
    } else {
        match policy.on_failure {
            FailureAction::Fail => {
                draft.become_terminal(State::Failed, reason);
                EventType::Failed
            }
            FailureAction::Compensate if nothing_to_undo => {
                why = Text::own(&format!("failed, and there is no compensation to run: {reason}"));
                draft.become_terminal(State::Quarantined, &why);
                EventType::Quarantined
            }
            FailureAction::Compensate => {
                draft.become_compensating(None, now);
                EventType::Compensating
            }
        }
    };
    let actor = actor_of(&holder.owner);
    draft.emit(kind, State::Running, Said::by(&actor, &why), Some(holder.token), &details);
    Ok(())
}

fn register(draft: &mut Draft, holder: &Holder, wanted: &[CompensationSpec]) -> Result<(), Rejection> {
    let new: Vec<_> = wanted.iter().filter(|spec| find(&draft.saga, spec).is_none()).cloned().collect();
    if draft.saga.compensations.len() + new.len() > COMPENSATIONS {
        return Err(Rejection::CompensationLimit);
    }
    let state = draft.saga.state;
    let actor = actor_of(&holder.owner);
    for spec in new {
        let position = draft.saga.compensations.len() as u32 + 1;
        let details =
            [("position", position.to_string()), ("kind", spec.kind.to_string()), ("target", spec.target.to_string())];
        let reason = spec.reason.clone();
        draft.saga.compensations.push(Compensation::pending(position, spec, Some(holder.token)));
        let said = Said::by(&actor, &reason);
        draft.emit(EventType::CompensationRegistered, state, said, Some(holder.token), &details);
    }
    Ok(())
}

fn record(
    draft: &mut Draft,
    holder: &Holder,
    position: u32,
    outcome: CompensationOutcome,
    detail: &Text,
) -> Result<(), Rejection> {
    let index = unsettled(&draft.saga, position)?;
    let later = draft.saga.compensations[index + 1..].iter().rev().find(|c| !c.is_settled());
    if let Some(first) = later {
        return Err(Rejection::CompensationOrder { first: first.position });
    }
    let now = draft.now;
    let compensation = &mut draft.saga.compensations[index];
    compensation.recorded_under = Some(holder.token);
    let name = match outcome {
        CompensationOutcome::Done => {
            compensation.state = CompensationState::Done;
            compensation.settled_by = Some(holder.owner.as_str().into());
            compensation.settle_time = Some(now);
            draft.saga.idle_since = Some(now);
            "DONE"
        }
        CompensationOutcome::Failed => {
            compensation.state = CompensationState::Failed;
            compensation.attempts += 1;
            compensation.last_error = detail.clone();
            "FAILED"
        }
    };
    let actor = actor_of(&holder.owner);
    settled(draft, index, name, Said::by(&actor, detail), Some(holder.token));
    Ok(())
}

/// Appends the event of a compensation that was tried, done or waived.
pub(super) fn settled(
    draft: &mut Draft,
    index: usize,
    outcome: &str,
    said: Said<'_>,
    token: Option<super::ids::FencingToken>,
) {
    let compensation = &draft.saga.compensations[index];
    let details = [
        ("position", compensation.position.to_string()),
        ("kind", compensation.spec.kind.to_string()),
        ("target", compensation.spec.target.to_string()),
        ("outcome", outcome.to_owned()),
        ("attempts", compensation.attempts.to_string()),
    ];
    let state = draft.saga.state;
    draft.emit(EventType::CompensationSettled, state, said, token, &details);
}

/// The index of a compensation that can still be settled.
pub(super) fn unsettled(saga: &Saga, position: u32) -> Result<usize, Rejection> {
    let Some(compensation) = at_position(saga, position) else {
        return Err(Rejection::CompensationNotFound { position });
    };
    if compensation.is_settled() {
        return Err(wrong_state(&format!("compensation {position} is settled already")));
    }
    Ok(position as usize - 1)
}

fn at_position(saga: &Saga, position: u32) -> Option<&Compensation> {
    saga.compensations.get((position as usize).checked_sub(1)?)
}

fn find<'a>(saga: &'a Saga, spec: &CompensationSpec) -> Option<&'a Compensation> {
    saga.compensations.iter().find(|known| known.spec.kind == spec.kind && known.spec.target == spec.target)
}

fn end(draft: &mut Draft, holder: &Holder, state: State, kind: EventType, reason: &Text) {
    let from = draft.saga.state;
    draft.become_terminal(state, reason);
    let actor = actor_of(&holder.owner);
    draft.emit(kind, from, Said::by(&actor, reason), Some(holder.token), &[]);
}
