//! Who counts as the holder of a lease, and which of its calls are let in.
//!
//! The order is part of the contract: a repetition of what was accepted, then whose lease it is and whether it still
//! stands, then whether the call belongs to the saga's state.

use super::{
    command::{HeldVerb, Holder},
    compensation::{CompensationOutcome, CompensationSpec, CompensationState},
    draft::Draft,
    earlier_lease::EarlierLease,
    ids::FencingToken,
    lease::{HolderEnd, Lease, Standing},
    rejection::Rejection,
    saga::{Saga, State},
    undo::{at_position, find},
};

/// Whether this lease has made this very change already: its answer got lost, and the caller asks again.
///
/// A failed attempt to undo is counted each time it is reported, so while the lease can still report one, a second
/// report is a second attempt; a `request_id` tells a repetition of the call apart.
pub(super) fn is_repeat(draft: &Draft, holder: &Holder, verb: &HeldVerb, earlier: Option<&EarlierLease>) -> bool {
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
    let lease_is_over = current.is_none_or(|lease| match lease.standing {
        Standing::EndedByHolder(_) | Standing::EndedByOther => true,
        Standing::Held | Standing::Expired { .. } => lease.is_revoked(),
    });
    match verb {
        HeldVerb::Heartbeat { .. } => false,
        HeldVerb::Release { .. } => end == Some(HolderEnd::Released),
        HeldVerb::Complete { result, .. } => end == Some(HolderEnd::Completed) && saga.result == *result,
        HeldVerb::Fail { .. } => end == Some(HolderEnd::Failed),
        HeldVerb::Compensate { .. } => end == Some(HolderEnd::Compensated),
        HeldVerb::Quarantine { .. } => end == Some(HolderEnd::Quarantined),
        HeldVerb::RegisterCompensation { compensations } => registered_before(saga, holder.token, compensations),
        HeldVerb::RecordCompensation { position, outcome, .. } => at_position(saga, *position).is_some_and(|known| {
            known.recorded_under == Some(holder.token)
                && match outcome {
                    CompensationOutcome::Done => known.state == CompensationState::Done,
                    CompensationOutcome::Failed => known.state == CompensationState::Failed && lease_is_over,
                }
        }),
    }
}

/// Whether a lease can have registered all of these in one call. What was known before it changed nothing and left no
/// trace of the call, so at least one must be the lease's own: else a worker whose lease ran out would be told to go on
/// with an effect because somebody else had registered its undo.
fn registered_before(saga: &Saga, token: FencingToken, wanted: &[CompensationSpec]) -> bool {
    wanted.iter().all(|spec| find(saga, spec).is_some())
        && wanted.iter().any(|spec| find(saga, spec).is_some_and(|known| known.registered_under == Some(token)))
}

/// The lease, if it is the caller's and still good for this call. The order of the refusals is part of the contract.
pub(super) fn admit<'a>(draft: &'a Draft, holder: &Holder, verb: &HeldVerb) -> Result<&'a Lease, Rejection> {
    let Some(lease) = &draft.saga.lease else { return Err(Rejection::NoLease) };
    let ended_by_other = lease.standing == Standing::EndedByOther || lease.is_revoked();
    if holder.token < lease.token || (holder.token == lease.token && ended_by_other) {
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
pub(super) fn allow(state: State, verb: &HeldVerb) -> Result<(), Rejection> {
    let belongs = match verb {
        HeldVerb::Heartbeat { .. } | HeldVerb::Release { .. } | HeldVerb::Quarantine { .. } => {
            matches!(state, State::Running | State::Compensating)
        }
        HeldVerb::RegisterCompensation { .. } | HeldVerb::Complete { .. } | HeldVerb::Fail { .. } => {
            state == State::Running
        }
        HeldVerb::RecordCompensation { .. } | HeldVerb::Compensate { .. } => state == State::Compensating,
    };
    if belongs { Ok(()) } else { Err(Rejection::wrong_state(&format!("the saga is {}", state.name()))) }
}
