//! Renders sagas and their parts.

use std::borrow::Borrow;

use crate::{
    domain::{
        compensation::Compensation,
        lease::{Lease, Standing},
        policy::Policy,
        saga::{Saga, State},
    },
    proto,
    store::Moment,
};

use super::{
    ResponseBudget,
    enums::{compensation_state, failure_action, purpose, stale_action, standing, state},
    span, time,
};

/// Sagas in full, if they fit into one answer. New and claimed ones do. A repeated request gets the same sagas as they are
/// now, and they may have grown; then all are rendered without progress and result, or also without payload, or else only
/// with their ids and state.
pub fn sagas(sagas: &[impl Borrow<Saga>], moment: &Moment) -> Vec<proto::Saga> {
    for form in DETAIL_LEVELS {
        let mut budget = ResponseBudget::full();
        let shown: Vec<proto::Saga> =
            sagas.iter().map(|one| form(one.borrow(), moment)).take_while(|shown| budget.take(shown)).collect();
        if shown.len() == sagas.len() {
            return shown;
        }
    }
    sagas.iter().map(|one| ids_only(one.borrow())).collect()
}

/// The same for one saga.
pub fn single_saga(saga: &Saga, moment: &Moment) -> proto::Saga {
    for form in DETAIL_LEVELS {
        let shown = form(saga, moment);
        if ResponseBudget::full().take(&shown) {
            return shown;
        }
    }
    ids_only(saga)
}

/// Ways to render a saga, the fullest first.
const DETAIL_LEVELS: [fn(&Saga, &Moment) -> proto::Saga; 3] = [saga, without_outcome, without_contents];

fn without_outcome(saga: &Saga, moment: &Moment) -> proto::Saga {
    let omitted = !saga.progress.bytes().is_empty() || !saga.result.bytes().is_empty();
    proto::Saga {
        payload: saga.spec.payload.bytes().clone(),
        contents_omitted: saga.contents_omitted || omitted,
        ..summary(saga, moment)
    }
}

fn without_contents(saga: &Saga, moment: &Moment) -> proto::Saga {
    let contents_omitted = without_outcome(saga, moment).contents_omitted || !saga.spec.payload.bytes().is_empty();
    proto::Saga { contents_omitted, ..summary(saga, moment) }
}

fn ids_only(saga: &Saga) -> proto::Saga {
    proto::Saga {
        task_id: saga.spec.task_id.to_string(),
        saga_id: saga.spec.saga_id.to_string(),
        state: state(saga.state).into(),
        revision: saga.revision.0,
        contents_omitted: true,
        ..proto::Saga::default()
    }
}

/// A saga in full. Whether it is stale is judged at `moment`.
pub fn saga(saga: &Saga, moment: &Moment) -> proto::Saga {
    proto::Saga {
        payload: saga.spec.payload.bytes().clone(),
        progress: saga.progress.bytes().clone(),
        result: saga.result.bytes().clone(),
        ..summary(saga, moment)
    }
}

/// A saga as listings have it: without payload, progress and result.
pub fn summary(saga: &Saga, moment: &Moment) -> proto::Saga {
    let spec = &saga.spec;
    let reservation = match saga.state {
        State::Dispatched => saga.reservation.as_ref(),
        State::Planned
        | State::Running
        | State::Compensating
        | State::Completed
        | State::Failed
        | State::Compensated
        | State::Quarantined => None,
    };
    proto::Saga {
        task_id: spec.task_id.to_string(),
        saga_id: spec.saga_id.to_string(),
        state: state(saga.state).into(),
        queue: spec.queue.to_string(),
        priority: spec.priority,
        issue: spec.issue,
        branch: spec.branch.to_string(),
        worktree: spec.worktree.to_string(),
        labels: spec.labels.pairs().clone(),
        payload: bytes::Bytes::new(),
        compensations: saga.compensations.iter().map(compensation).collect(),
        lease: saga.lease.as_ref().map(|last| lease(last, moment)),
        stale: saga.is_stale(moment.now, &moment.grace),
        cancel_requested: saga.cancel.is_some(),
        cancel_reason: saga.cancel.as_ref().map(|cancel| cancel.reason.to_string()).unwrap_or_default(),
        assignee: reservation.map(|reservation| reservation.assignee.to_string()).unwrap_or_default(),
        dispatch_expire_time: reservation.map(|reservation| time(reservation.expire_time)),
        attempt: number(saga.attempt),
        expirations: number(saga.expirations),
        failures: number(saga.failures),
        policy: Some(policy(&spec.policy)),
        progress: bytes::Bytes::new(),
        result: bytes::Bytes::new(),
        terminal_reason: terminal_reason(saga),
        contents_omitted: saga.contents_omitted,
        create_time: Some(time(spec.create_time)),
        update_time: Some(time(saga.update_time)),
        end_time: saga.end_time.map(time),
        not_before: saga.not_before.map(time),
        retry_of: spec.retry_of.as_ref().map(ToString::to_string).unwrap_or_default(),
        revision: saga.revision.0,
    }
}

/// Why a saga ended: the reason that was given, or the state's name.
fn terminal_reason(saga: &Saga) -> String {
    if !saga.state.is_terminal() {
        return String::new();
    }
    match &saga.terminal_reason {
        Some(reason) if !reason.is_empty() => reason.to_string(),
        Some(_) | None => saga.state.name().to_owned(),
    }
}

/// A lease. Its standing is judged at `moment`.
pub fn lease(lease: &Lease, moment: &Moment) -> proto::Lease {
    proto::Lease {
        owner_id: lease.owner.to_string(),
        fencing_token: lease.token.0,
        purpose: purpose(lease.purpose).into(),
        acquire_time: Some(time(lease.acquire_time)),
        heartbeat_time: Some(time(lease.heartbeat_time)),
        expire_time: Some(time(lease.expire_time)),
        ttl: Some(span(lease.ttl)),
        heartbeat_interval: Some(span(lease.heartbeat_interval())),
        standing: standing(lease, moment).into(),
        effective_expire_time: match lease.standing {
            Standing::Held => Some(time(lease.effective_expiry(&moment.grace))),
            Standing::Expired { .. } if lease.is_revoked() => None,
            // As it was judged when it was noticed; an absence since then doesn't change it.
            Standing::Expired { at, .. } => Some(time(at)),
            Standing::EndedByHolder(_) | Standing::EndedByOther => None,
        },
    }
}

fn compensation(compensation: &Compensation) -> proto::Compensation {
    proto::Compensation {
        position: number(compensation.position),
        kind: compensation.spec.kind.to_string(),
        target: compensation.spec.target.to_string(),
        reason: compensation.spec.reason.to_string(),
        state: compensation_state(compensation.state).into(),
        attempts: number(compensation.attempts),
        last_error: compensation.last_error.to_string(),
        settled_by: compensation.settled_by.as_deref().unwrap_or_default().to_owned(),
        settle_time: compensation.settle_time.map(time),
    }
}

fn policy(policy: &Policy) -> proto::Policy {
    proto::Policy {
        on_stale: stale_action(policy.on_stale).into(),
        max_expirations: number(policy.max_expirations),
        on_failure: failure_action(policy.on_failure).into(),
        max_attempts: number(policy.max_attempts),
        retry_backoff: Some(span(policy.retry_backoff)),
        retry_backoff_max: Some(span(policy.retry_backoff_max)),
        execution_timeout: policy.execution_timeout.map(span),
        progress_timeout: policy.progress_timeout.map(span),
        settle: Some(span(policy.settle)),
        compensation_timeout: Some(span(policy.compensation_timeout)),
    }
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
