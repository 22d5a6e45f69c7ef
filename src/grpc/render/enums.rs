//! Renders enums, each by one exhaustive match.

use crate::{
    domain::{
        compensation::CompensationState,
        event::{EventType, Resolution},
        lease::{Lease, LeasePurpose, StaleCause, Standing},
        policy::{FailureAction, StaleAction},
        saga::State,
    },
    proto,
    store::ReadTime,
};

pub fn state(state: State) -> proto::SagaState {
    match state {
        State::Planned => proto::SagaState::Planned,
        State::Dispatched => proto::SagaState::Dispatched,
        State::Running => proto::SagaState::Running,
        State::Compensating => proto::SagaState::Compensating,
        State::Completed => proto::SagaState::Completed,
        State::Failed => proto::SagaState::Failed,
        State::Compensated => proto::SagaState::Compensated,
        State::Quarantined => proto::SagaState::Quarantined,
    }
}

pub fn purpose(purpose: LeasePurpose) -> proto::LeasePurpose {
    match purpose {
        LeasePurpose::Execute => proto::LeasePurpose::Execute,
        LeasePurpose::Compensate => proto::LeasePurpose::Compensate,
    }
}

/// The standing of a lease as the rules would judge a call under it at `read_time`.
pub fn standing(lease: &Lease, read_time: &ReadTime) -> proto::LeaseStanding {
    match lease.standing {
        Standing::Held if lease.is_live(read_time.now, &read_time.grace) => proto::LeaseStanding::Held,
        Standing::Expired { .. } if lease.is_revoked() => proto::LeaseStanding::EndedByOther,
        Standing::Held | Standing::Expired { .. } => proto::LeaseStanding::Expired,
        Standing::EndedByHolder(_) => proto::LeaseStanding::EndedByHolder,
        Standing::EndedByOther => proto::LeaseStanding::EndedByOther,
    }
}

pub fn compensation_state(state: CompensationState) -> proto::CompensationState {
    match state {
        CompensationState::Pending => proto::CompensationState::Pending,
        CompensationState::Done => proto::CompensationState::Done,
        CompensationState::Failed => proto::CompensationState::Failed,
        CompensationState::Waived => proto::CompensationState::Waived,
    }
}

pub fn stale_action(action: StaleAction) -> proto::StaleAction {
    match action {
        StaleAction::Hold => proto::StaleAction::Hold,
        StaleAction::Requeue => proto::StaleAction::Requeue,
        StaleAction::Compensate => proto::StaleAction::Compensate,
        StaleAction::Quarantine => proto::StaleAction::Quarantine,
    }
}

pub fn failure_action(action: FailureAction) -> proto::FailureAction {
    match action {
        FailureAction::Fail => proto::FailureAction::Fail,
        FailureAction::Compensate => proto::FailureAction::Compensate,
    }
}

pub fn event_type(kind: EventType) -> proto::EventType {
    match kind {
        EventType::Created => proto::EventType::Created,
        EventType::Dispatched => proto::EventType::Dispatched,
        EventType::Claimed => proto::EventType::Claimed,
        EventType::Released => proto::EventType::Released,
        EventType::Requeued => proto::EventType::Requeued,
        EventType::LeaseExpired => proto::EventType::LeaseExpired,
        EventType::RecoveryDecided => proto::EventType::RecoveryDecided,
        EventType::CancelRequested => proto::EventType::CancelRequested,
        EventType::CompensationRegistered => proto::EventType::CompensationRegistered,
        EventType::CompensationSettled => proto::EventType::CompensationSettled,
        EventType::Compensating => proto::EventType::Compensating,
        EventType::Completed => proto::EventType::Completed,
        EventType::Failed => proto::EventType::Failed,
        EventType::RetryScheduled => proto::EventType::RetryScheduled,
        EventType::Compensated => proto::EventType::Compensated,
        EventType::Quarantined => proto::EventType::Quarantined,
        EventType::Annotated => proto::EventType::Annotated,
    }
}

pub fn stale_cause(cause: StaleCause) -> proto::StaleCause {
    match cause {
        StaleCause::Ttl => proto::StaleCause::Ttl,
        StaleCause::ExecutionTimeout => proto::StaleCause::ExecutionTimeout,
        StaleCause::ProgressTimeout => proto::StaleCause::ProgressTimeout,
        StaleCause::Revoked => proto::StaleCause::Revoked,
    }
}

pub fn resolution(resolution: Resolution) -> proto::Resolution {
    match resolution {
        Resolution::Reclaimed => proto::Resolution::Reclaimed,
        Resolution::Requeued => proto::Resolution::Requeued,
        Resolution::Compensating => proto::Resolution::Compensating,
        Resolution::Terminal => proto::Resolution::Terminal,
    }
}
