//! The numbers that stand for enum values in the database.

use crate::domain::{
    compensation::CompensationState,
    event::{EventType, Resolution, StaleMark},
    ids::Revision,
    lease::{HolderEnd, LeasePurpose, StaleCause, Standing},
    policy::{FailureAction, StaleAction},
    saga::{Saga, State},
    time::Timestamp,
};

/// A type of the domain that is stored as a small number.
pub trait Coded: Copy + PartialEq + Sized + 'static {
    /// Every value with its number.
    const CODES: &'static [(Self, i64)];

    /// Its number.
    fn code(self) -> i64 {
        Self::CODES.iter().find(|(value, _)| *value == self).map_or(0, |(_, code)| *code)
    }

    /// The value that a number stands for.
    fn decode(code: i64) -> Option<Self> {
        Self::CODES.iter().find(|(_, known)| *known == code).map(|(value, _)| *value)
    }
}

impl Coded for State {
    const CODES: &'static [(Self, i64)] = &[
        (State::Planned, 1),
        (State::Dispatched, 2),
        (State::Running, 3),
        (State::Compensating, 4),
        (State::Completed, 5),
        (State::Failed, 6),
        (State::Compensated, 7),
        (State::Quarantined, 8),
    ];
}

impl Coded for LeasePurpose {
    const CODES: &'static [(Self, i64)] = &[(LeasePurpose::Execute, 1), (LeasePurpose::Compensate, 2)];
}

impl Coded for StaleCause {
    const CODES: &'static [(Self, i64)] = &[
        (StaleCause::Ttl, 1),
        (StaleCause::ExecutionTimeout, 2),
        (StaleCause::ProgressTimeout, 3),
        (StaleCause::Revoked, 4),
    ];
}

impl Coded for StaleAction {
    const CODES: &'static [(Self, i64)] = &[
        (StaleAction::Hold, 1),
        (StaleAction::Requeue, 2),
        (StaleAction::Compensate, 3),
        (StaleAction::Quarantine, 4),
    ];
}

impl Coded for FailureAction {
    const CODES: &'static [(Self, i64)] = &[(FailureAction::Fail, 1), (FailureAction::Compensate, 2)];
}

impl Coded for CompensationState {
    const CODES: &'static [(Self, i64)] = &[
        (CompensationState::Pending, 1),
        (CompensationState::Done, 2),
        (CompensationState::Failed, 3),
        (CompensationState::Waived, 4),
    ];
}

impl Coded for EventType {
    const CODES: &'static [(Self, i64)] = &[
        (EventType::Created, 1),
        (EventType::Dispatched, 2),
        (EventType::Claimed, 3),
        (EventType::Released, 4),
        (EventType::Requeued, 5),
        (EventType::LeaseExpired, 6),
        (EventType::RecoveryDecided, 7),
        (EventType::CancelRequested, 8),
        (EventType::CompensationRegistered, 9),
        (EventType::CompensationSettled, 10),
        (EventType::Compensating, 11),
        (EventType::Completed, 12),
        (EventType::Failed, 13),
        (EventType::RetryScheduled, 14),
        (EventType::Compensated, 15),
        (EventType::Quarantined, 16),
        (EventType::Annotated, 17),
    ];
}

/// Marks of events that end staleness; `MARK_STALE` starts it.
impl Coded for Resolution {
    const CODES: &'static [(Self, i64)] = &[
        (Resolution::Reclaimed, 2),
        (Resolution::Requeued, 3),
        (Resolution::Compensating, 4),
        (Resolution::Terminal, 5),
    ];
}

/// The mark of an event that starts staleness.
pub const MARK_STALE: i64 = 1;
const STANDING_EXPIRED: i64 = 2;

/// The number of a lease's standing: 1 held, 2 expired, 3 ended by somebody else, 11 to 15 ended by the holder.
pub fn standing_code(standing: Standing) -> i64 {
    match standing {
        Standing::Held => 1,
        Standing::Expired { .. } => STANDING_EXPIRED,
        Standing::EndedByOther => 3,
        Standing::EndedByHolder(HolderEnd::Released) => 11,
        Standing::EndedByHolder(HolderEnd::Completed) => 12,
        Standing::EndedByHolder(HolderEnd::Failed) => 13,
        Standing::EndedByHolder(HolderEnd::Compensated) => 14,
        Standing::EndedByHolder(HolderEnd::Quarantined) => 15,
    }
}

/// The standing with this number; an expired lease needs its time and revision.
pub fn standing(code: i64, expired: Option<(Timestamp, Revision)>) -> Option<Standing> {
    Some(match code {
        1 => Standing::Held,
        STANDING_EXPIRED => {
            let (at, revision) = expired?;
            Standing::Expired { at, revision }
        }
        3 => Standing::EndedByOther,
        11 => Standing::EndedByHolder(HolderEnd::Released),
        12 => Standing::EndedByHolder(HolderEnd::Completed),
        13 => Standing::EndedByHolder(HolderEnd::Failed),
        14 => Standing::EndedByHolder(HolderEnd::Compensated),
        15 => Standing::EndedByHolder(HolderEnd::Quarantined),
        _ => return None,
    })
}

/// The number of an event's mark.
pub fn mark_code(mark: Option<&StaleMark>) -> i64 {
    match mark {
        None => 0,
        Some(StaleMark::Stale { .. }) => MARK_STALE,
        Some(StaleMark::Resolved(resolution)) => resolution.code(),
    }
}

/// The number of the purpose for which a saga is ready; 0: it is not ready.
pub fn ready_code(ready: Option<LeasePurpose>) -> i64 {
    ready.map_or(0, Coded::code)
}

/// The revision of the `lease_expired` event of a stale saga: the column indexed by `work_stale`.
pub fn expired_revision(saga: &Saga) -> Option<i64> {
    match saga.lease.as_ref()?.standing {
        Standing::Expired { revision, .. } => Some(revision.0),
        Standing::Held | Standing::EndedByHolder(_) | Standing::EndedByOther => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Coded + std::fmt::Debug>(all: impl IntoIterator<Item = T>) {
        for value in all {
            assert_eq!(T::decode(value.code()), Some(value));
        }
        assert_eq!(T::decode(0), None);
        assert_eq!(T::decode(99), None);
    }

    #[test]
    fn every_code_decodes_to_its_value() {
        round_trip(State::ALL);
        round_trip([LeasePurpose::Execute, LeasePurpose::Compensate]);
        round_trip([StaleCause::Ttl, StaleCause::ExecutionTimeout, StaleCause::ProgressTimeout, StaleCause::Revoked]);
        round_trip([Resolution::Reclaimed, Resolution::Requeued, Resolution::Compensating, Resolution::Terminal]);
        assert_eq!(EventType::CODES.len(), 17);
        assert_eq!(standing(99, None), None);
        assert_eq!(standing(STANDING_EXPIRED, None), None, "an expired lease needs a time and a revision");
    }
}
