//! What the holder of a lease can do.

use super::{
    accepted::Accepted,
    admission::{admit, allow, is_repeat},
    command::{HeldVerb, Holder},
    compensation::CompensationSpec,
    draft::{Draft, Said, actor_of},
    due::end_if_nothing_to_undo,
    earlier_lease::EarlierLease,
    event::EventType,
    lease::{HolderEnd, Lease, StaleCause},
    policy::FailureAction,
    rejection::{Rejection, StandingLease},
    saga::{Saga, State},
    text::{Blob, Text},
    time::Span,
    undo::{record, register},
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
        HeldVerb::Release { delay, reason, progress } => {
            note_progress(draft, progress.as_ref());
            release(draft, holder, *delay, reason);
        }
        HeldVerb::RegisterCompensation { compensations } => return register(draft, holder, compensations),
        HeldVerb::Complete { result, reason, progress } => {
            note_progress(draft, progress.as_ref());
            draft.end_by_holder(HolderEnd::Completed);
            draft.saga.result = result.clone();
            end(draft, holder, State::Completed, EventType::Completed, reason);
        }
        HeldVerb::Fail { reason, compensations, retryable, progress } => {
            fail(draft, holder, reason, compensations, *retryable)?;
            note_progress(draft, progress.as_ref());
        }
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

fn heartbeat(draft: &mut Draft, lease: &Lease, ttl: Option<Span>, progress: Option<&Blob>) -> Result<(), Rejection> {
    let ttl = ttl.unwrap_or(lease.ttl);
    let changed = progress.filter(|progress| **progress != draft.saga.progress);
    let progress_time = if changed.is_some() { draft.now } else { lease.progress_time };
    let (expire_time, limit) = draft.clamp(lease.purpose, lease.acquire_time, progress_time, ttl);
    // A timeout's end is a moment of the coordinator's clock. Where that was ahead after an absence, it may come before the end
    // that the worker was promised, which the grace keeps: a heartbeat must not bring it forward.
    let present = match limit {
        StaleCause::ExecutionTimeout => lease.effective_expiry(&draft.absence),
        StaleCause::ProgressTimeout if changed.is_none() => lease.effective_expiry(&draft.absence),
        StaleCause::ProgressTimeout | StaleCause::Ttl | StaleCause::Revoked => lease.expire_time,
    };
    let extended = expire_time > present;
    // Two heartbeats within a microsecond, and the second may bring progress. But where a timeout of the policy keeps the
    // expiry as it is, however late the heartbeat comes, its caller has to know; for `progress_timeout`, unless there is
    // progress.
    let unchanged = expire_time == lease.expire_time
        && match limit {
            // No lease is bounded by a revocation.
            StaleCause::Ttl | StaleCause::Revoked => true,
            StaleCause::ExecutionTimeout => false,
            StaleCause::ProgressTimeout => changed.is_some(),
        };
    if expire_time <= draft.now || !(extended || unchanged) {
        let standing = StandingLease { expire_time: lease.expire_time, cancel_reason: cancel_reason(&draft.saga) };
        return Err(match limit {
            StaleCause::Ttl | StaleCause::Revoked => Rejection::LeaseNotExtended(standing),
            StaleCause::ExecutionTimeout => Rejection::ExecutionTimeout(standing),
            StaleCause::ProgressTimeout => Rejection::ProgressTimeout(standing),
        });
    }
    if let Some(progress) = changed {
        draft.saga.progress = progress.clone();
    }
    draft.saga.lease =
        Some(Lease { heartbeat_time: draft.now, expire_time, ttl, limit, progress_time, ..lease.clone() });
    Ok(())
}

/// The worker's last word of how far it came, for the next attempt and for who looks. The lease ends with this call, so
/// no limit on progress is reckoned from it any more.
fn note_progress(draft: &mut Draft, progress: Option<&Blob>) {
    if let Some(progress) = progress {
        draft.saga.progress = progress.clone();
    }
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
    let failures = draft.saga.failures.saturating_add(u32::from(retryable));
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
    let mut by_policy = false;
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
            FailureAction::Compensate => {
                by_policy = true;
                draft.become_compensating(None, now);
                EventType::Compensating
            }
        }
    };
    let actor = actor_of(&holder.owner);
    draft.emit(kind, State::Running, Said::by(&actor, reason), Some(holder.token), &details);
    if by_policy {
        end_if_nothing_to_undo(draft);
    }
    Ok(())
}

fn end(draft: &mut Draft, holder: &Holder, state: State, kind: EventType, reason: &Text) {
    let from = draft.saga.state;
    draft.become_terminal(state, reason);
    let actor = actor_of(&holder.owner);
    draft.emit(kind, from, Said::by(&actor, reason), Some(holder.token), &[]);
}
