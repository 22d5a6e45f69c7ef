//! Checks whether a call may act under the lease it names.
//!
//! The checks run in an order that is part of the contract: first whether the call repeats an accepted one, then
//! whether the lease is the caller's and still held, then whether the saga's state allows the call.

use super::{
    command::{Holder, HolderOperation},
    compensation::{CompensationOutcome, CompensationSpec, CompensationState},
    compensation_rules::{at_position, find_compensation},
    draft::Draft,
    earlier_lease::EarlierLease,
    ids::FencingToken,
    lease::{HolderEnd, Lease, Standing},
    rejection::Rejection,
    saga::{Saga, State},
};

/// True if this lease already made this change: the answer was lost and the caller asks again.
///
/// While the lease can still report, each `FAILED` counts as a new failure; a repeated call is recognized by its
/// `request_id` only.
pub(super) fn is_repeat(
    draft: &Draft,
    holder: &Holder,
    operation: &HolderOperation,
    earlier: Option<&EarlierLease>,
) -> bool {
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
    match operation {
        HolderOperation::Heartbeat { .. } => false,
        HolderOperation::Release { .. } => end == Some(HolderEnd::Released),
        HolderOperation::Complete { result, .. } => end == Some(HolderEnd::Completed) && saga.result == *result,
        HolderOperation::Fail { .. } => end == Some(HolderEnd::Failed),
        HolderOperation::Compensate { .. } => end == Some(HolderEnd::Compensated),
        HolderOperation::Quarantine { .. } => end == Some(HolderEnd::Quarantined),
        HolderOperation::RegisterCompensation { compensations } => registered_before(saga, holder.token, compensations),
        HolderOperation::RecordCompensation { position, outcome, .. } => {
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

/// True if this lease may have registered all of these in one call. At least one of them must have been registered
/// under it: a call whose compensations were all known already leaves no trace, and a worker whose lease ran out must
/// not be told to proceed because somebody else registered the same compensation.
fn registered_before(saga: &Saga, token: FencingToken, wanted: &[CompensationSpec]) -> bool {
    wanted.iter().all(|spec| find_compensation(saga, spec).is_some())
        && wanted
            .iter()
            .any(|spec| find_compensation(saga, spec).is_some_and(|known| known.registered_under == Some(token)))
}

/// Returns the lease if the caller holds it and it still allows this call. The order of the refusals is part of the
/// contract.
pub(super) fn check_holder<'a>(
    draft: &'a Draft,
    holder: &Holder,
    operation: &HolderOperation,
) -> Result<&'a Lease, Rejection> {
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
        Standing::Expired { .. } if !is_accepted_late(operation) => {
            Err(Rejection::LeaseExpired { expire_time: lease.expire_time })
        }
        Standing::Held | Standing::Expired { .. } => Ok(lease),
    }
}

/// Returns the lease's error if it no longer holds. A repeated claim is answered with that error.
pub fn check_lease(draft: &Draft, holder: &Holder) -> Result<(), Rejection> {
    check_holder(draft, holder, &HolderOperation::Heartbeat { ttl: None, progress: None }).map(|_| ())
}

/// True if the call is accepted under a lease that expired but was not ended: the work is done, and refusing the
/// result would only cause it to be done again.
fn is_accepted_late(operation: &HolderOperation) -> bool {
    match operation {
        HolderOperation::Heartbeat { .. }
        | HolderOperation::Release { .. }
        | HolderOperation::RegisterCompensation { .. } => false,
        HolderOperation::Complete { .. }
        | HolderOperation::Fail { .. }
        | HolderOperation::RecordCompensation { .. }
        | HolderOperation::Compensate { .. }
        | HolderOperation::Quarantine { .. } => true,
    }
}

/// Refuses a call that the saga's state does not allow.
pub(super) fn check_state(state: State, operation: &HolderOperation) -> Result<(), Rejection> {
    let belongs = match operation {
        HolderOperation::Heartbeat { .. } | HolderOperation::Release { .. } | HolderOperation::Quarantine { .. } => {
            matches!(state, State::Running | State::Compensating)
        }
        HolderOperation::RegisterCompensation { .. }
        | HolderOperation::Complete { .. }
        | HolderOperation::Fail { .. } => state == State::Running,
        HolderOperation::RecordCompensation { .. } | HolderOperation::Compensate { .. } => state == State::Compensating,
    };
    if belongs { Ok(()) } else { Err(Rejection::wrong_state(&format!("the saga is {}", state.name()))) }
}
