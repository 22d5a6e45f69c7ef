//! The rules of compensations: registered before the effect, settled in reverse order.

use super::{
    bounds::COMPENSATIONS,
    command::Holder,
    compensation::{Compensation, CompensationOutcome, CompensationSpec, CompensationState},
    draft::{Attribution, Draft, actor_of},
    event::EventType,
    ids::FencingToken,
    rejection::Rejection,
    saga::Saga,
    text::Text,
    transition_effect::TransitionEffect,
};

/// Registers the compensations that are not registered yet.
pub(super) fn register(
    draft: &mut Draft,
    holder: &Holder,
    wanted: &[CompensationSpec],
) -> Result<TransitionEffect, Rejection> {
    let new: Vec<_> = wanted.iter().filter(|spec| find_compensation(&draft.saga, spec).is_none()).cloned().collect();
    if draft.saga.compensations.len() + new.len() > COMPENSATIONS {
        return Err(Rejection::CompensationLimit);
    }
    let accepted = if new.is_empty() { TransitionEffect::Unchanged } else { TransitionEffect::Changed };
    let state = draft.saga.state;
    let actor = actor_of(&holder.owner);
    for spec in new {
        let position = draft.saga.compensations.len() as u32 + 1;
        let details =
            [("position", position.to_string()), ("kind", spec.kind.to_string()), ("target", spec.target.to_string())];
        let reason = spec.reason.clone();
        draft.saga.compensations.push(Compensation::pending(position, spec, Some(holder.token)));
        let said = Attribution::by(&actor, &reason);
        draft.emit(EventType::CompensationRegistered, state, said, Some(holder.token), &details);
    }
    Ok(accepted)
}

/// Records how an attempt at a compensation went.
pub(super) fn record(
    draft: &mut Draft,
    holder: &Holder,
    position: u32,
    outcome: CompensationOutcome,
    detail: &Text,
) -> Result<(), Rejection> {
    let index = unsettled_index(&draft.saga, position)?;
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
            compensation.attempts = compensation.attempts.saturating_add(1);
            compensation.last_error = detail.clone();
            "FAILED"
        }
    };
    let actor = actor_of(&holder.owner);
    emit_settled(draft, index, name, Attribution::by(&actor, detail), Some(holder.token));
    Ok(())
}

/// Appends the event of a compensation that failed, was done, or was waived.
pub(super) fn emit_settled(
    draft: &mut Draft,
    index: usize,
    outcome: &str,
    said: Attribution<'_>,
    token: Option<FencingToken>,
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
pub(super) fn unsettled_index(saga: &Saga, position: u32) -> Result<usize, Rejection> {
    let Some(compensation) = at_position(saga, position) else {
        return Err(Rejection::CompensationNotFound { position });
    };
    if compensation.is_settled() {
        return Err(Rejection::wrong_state(&format!("compensation {position} is settled already")));
    }
    Ok(position as usize - 1)
}

/// The compensation at a position, counted from 1.
pub(super) fn at_position(saga: &Saga, position: u32) -> Option<&Compensation> {
    saga.compensations.get((position as usize).checked_sub(1)?)
}

/// The compensation of this kind and target.
pub(super) fn find_compensation<'a>(saga: &'a Saga, spec: &CompensationSpec) -> Option<&'a Compensation> {
    saga.compensations.iter().find(|known| known.spec.kind == spec.kind && known.spec.target == spec.target)
}
