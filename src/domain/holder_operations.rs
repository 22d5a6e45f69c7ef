//! Operations that require the lease.

use super::{
    command::{Holder, HolderOperation},
    compensation::CompensationSpec,
    compensation_rules::{record, register},
    draft::{Attribution, Draft, actor_of},
    due::end_if_nothing_to_undo,
    earlier_lease::EarlierLease,
    event::EventType,
    lease::{HolderEnd, Lease, StaleCause},
    lease_check::{check_holder, check_state, is_repeat},
    policy::FailureAction,
    rejection::{Rejection, UnextendedLease},
    saga::{Saga, State},
    text::{Blob, Text},
    time::Span,
    transition_effect::TransitionEffect,
};

/// Checks a call under a lease and applies it to the draft.
pub(super) fn apply(
    draft: &mut Draft,
    holder: &Holder,
    operation: &HolderOperation,
    earlier: Option<&EarlierLease>,
) -> Result<TransitionEffect, Rejection> {
    if is_repeat(draft, holder, operation, earlier) {
        return Ok(TransitionEffect::Unchanged);
    }
    let lease = check_holder(draft, holder, operation)?.clone();
    check_state(draft.saga.state, operation)?;
    match operation {
        HolderOperation::Heartbeat { ttl, progress } => heartbeat(draft, &lease, *ttl, progress.as_ref())?,
        HolderOperation::Release { delay, reason, progress } => {
            note_progress(draft, progress.as_ref());
            release(draft, holder, *delay, reason);
        }
        HolderOperation::RegisterCompensation { compensations } => return register(draft, holder, compensations),
        HolderOperation::Complete { result, reason, progress } => {
            note_progress(draft, progress.as_ref());
            draft.end_by_holder(HolderEnd::Completed);
            draft.saga.result = result.clone();
            end(draft, holder, State::Completed, EventType::Completed, reason);
        }
        HolderOperation::Fail { reason, compensations, retryable, progress } => {
            fail(draft, holder, reason, compensations, *retryable)?;
            note_progress(draft, progress.as_ref());
        }
        HolderOperation::RecordCompensation { position, outcome, detail } => {
            record(draft, holder, *position, *outcome, detail)?;
        }
        HolderOperation::Compensate { reason } => {
            let kinds = draft.saga.pending_kinds().join(",");
            if !kinds.is_empty() {
                return Err(Rejection::CompensationPending { kinds: kinds.into() });
            }
            draft.end_by_holder(HolderEnd::Compensated);
            end(draft, holder, State::Compensated, EventType::Compensated, reason);
        }
        HolderOperation::Quarantine { reason } => {
            draft.end_by_holder(HolderEnd::Quarantined);
            end(draft, holder, State::Quarantined, EventType::Quarantined, reason);
        }
    }
    Ok(TransitionEffect::Changed)
}

fn heartbeat(draft: &mut Draft, lease: &Lease, ttl: Option<Span>, progress: Option<&Blob>) -> Result<(), Rejection> {
    let ttl = ttl.unwrap_or(lease.ttl);
    let changed = progress.filter(|progress| **progress != draft.saga.progress);
    let progress_time = if changed.is_some() { draft.now } else { lease.progress_time };
    let (expire_time, limit) = draft.clamp(lease.purpose, lease.acquire_time, progress_time, ttl);
    // The end of a timeout is an instant on the coordinator's clock. If that clock was ahead after an absence, the
    // timeout may end before the time that the worker was promised and that the grace preserves. A heartbeat must not
    // shorten that.
    let present = match limit {
        StaleCause::ExecutionTimeout => lease.effective_expiry(&draft.grace),
        StaleCause::ProgressTimeout if changed.is_none() => lease.effective_expiry(&draft.grace),
        StaleCause::ProgressTimeout | StaleCause::Ttl | StaleCause::Revoked => lease.expire_time,
    };
    let extended = expire_time > present;
    // Two heartbeats within a microsecond leave the expiry unchanged and are accepted; the second may bring progress.
    // But if a timeout of the policy fixes the expiry, however late the heartbeat comes, the caller has to know; with
    // `progress_timeout`, unless there is progress.
    let unchanged = expire_time == lease.expire_time
        && match limit {
            // A lease's limit is never `Revoked`.
            StaleCause::Ttl | StaleCause::Revoked => true,
            StaleCause::ExecutionTimeout => false,
            StaleCause::ProgressTimeout => changed.is_some(),
        };
    if expire_time <= draft.now || !(extended || unchanged) {
        let standing = UnextendedLease { expire_time: lease.expire_time, cancel_reason: cancel_reason(&draft.saga) };
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

/// Stores the worker's last progress, for the next attempt and for readers. The lease ends with this call, so
/// `progress_timeout` no longer matters.
fn note_progress(draft: &mut Draft, progress: Option<&Blob>) {
    if let Some(progress) = progress {
        draft.saga.progress = progress.clone();
    }
}

/// Why the worker must stop, if it must. A cancellation concerns only executing workers, not compensating ones.
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
    draft.emit(kind, from, Attribution::by(&actor, reason), Some(holder.token), &details);
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
    draft.emit(kind, State::Running, Attribution::by(&actor, reason), Some(holder.token), &details);
    if by_policy {
        end_if_nothing_to_undo(draft);
    }
    Ok(())
}

fn end(draft: &mut Draft, holder: &Holder, state: State, kind: EventType, reason: &Text) {
    let from = draft.saga.state;
    draft.become_terminal(state, reason);
    let actor = actor_of(&holder.owner);
    draft.emit(kind, from, Attribution::by(&actor, reason), Some(holder.token), &[]);
}
