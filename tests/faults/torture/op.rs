//! [`Op`]: a change of a client, its call, and its events in the history.

use sagad::proto::*;
use tonic::Status;

use crate::support::Sagas;

/// The answer to an accepted change.
pub enum Answer {
    Sagas(Vec<Saga>),
    Lease(Lease),
}

/// A changing call. Each except a heartbeat has a `request_id`.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are few of them at a time")]
pub enum Op {
    Create(CreateSagaRequest),
    Batch(BatchCreateSagasRequest),
    Dispatch(DispatchRequest),
    Claim(ClaimRequest),
    /// With the sagas that it may claim.
    ClaimNext(ClaimNextRequest, Vec<String>),
    Heartbeat(HeartbeatRequest),
    Register(RegisterCompensationRequest),
    Record(RecordCompensationRequest),
    Complete(CompleteRequest),
    Fail(FailRequest),
    Release(ReleaseRequest),
    Recover(RecoverRequest),
    Cancel(RequestCancelRequest),
    Compensate(CompensateRequest),
    Quarantine(QuarantineRequest),
    Waive(WaiveCompensationRequest),
    Annotate(AnnotateRequest),
}

macro_rules! one_saga {
    ($sagas:expr, $rpc:ident, $request:expr) => {
        $sagas.$rpc($request.clone()).await?.into_inner().saga.into_iter().collect()
    };
}

impl Op {
    pub async fn send(&self, sagas: &mut Sagas) -> Result<Answer, Status> {
        let answer: Vec<Saga> = match self {
            Op::Heartbeat(request) => {
                let lease = sagas.heartbeat(request.clone()).await?.into_inner().lease;
                return Ok(Answer::Lease(lease.expect("a heartbeat's answer carries the lease")));
            }
            Op::Batch(request) => sagas.batch_create_sagas(request.clone()).await?.into_inner().sagas,
            Op::ClaimNext(request, _) => sagas.claim_next(request.clone()).await?.into_inner().sagas,
            Op::Create(request) => one_saga!(sagas, create_saga, request),
            Op::Dispatch(request) => one_saga!(sagas, dispatch, request),
            Op::Claim(request) => one_saga!(sagas, claim, request),
            Op::Register(request) => one_saga!(sagas, register_compensation, request),
            Op::Record(request) => one_saga!(sagas, record_compensation, request),
            Op::Complete(request) => one_saga!(sagas, complete, request),
            Op::Fail(request) => one_saga!(sagas, fail, request),
            Op::Release(request) => one_saga!(sagas, release, request),
            Op::Recover(request) => one_saga!(sagas, recover, request),
            Op::Cancel(request) => one_saga!(sagas, request_cancel, request),
            Op::Compensate(request) => one_saga!(sagas, compensate, request),
            Op::Quarantine(request) => one_saga!(sagas, quarantine, request),
            Op::Waive(request) => one_saga!(sagas, waive_compensation, request),
            Op::Annotate(request) => one_saga!(sagas, annotate, request),
        };
        Ok(Answer::Sagas(answer))
    }

    /// The sagas that it may change.
    pub fn tasks(&self) -> Vec<String> {
        let one = |id: &String| vec![id.clone()];
        match self {
            Op::Batch(r) => r.requests.iter().map(|create| create.task_id.clone()).collect(),
            Op::ClaimNext(_, candidates) => candidates.clone(),
            Op::Create(r) => one(&r.task_id),
            Op::Dispatch(r) => one(&r.task_id),
            Op::Claim(r) => one(&r.task_id),
            Op::Heartbeat(r) => one(&r.task_id),
            Op::Register(r) => one(&r.task_id),
            Op::Record(r) => one(&r.task_id),
            Op::Complete(r) => one(&r.task_id),
            Op::Fail(r) => one(&r.task_id),
            Op::Release(r) => one(&r.task_id),
            Op::Recover(r) => one(&r.task_id),
            Op::Cancel(r) => one(&r.task_id),
            Op::Compensate(r) => one(&r.task_id),
            Op::Quarantine(r) => one(&r.task_id),
            Op::Waive(r) => one(&r.task_id),
            Op::Annotate(r) => one(&r.task_id),
        }
    }

    /// True if all of its sagas change or none. Otherwise at most one of them changes.
    pub fn is_all_or_none(&self) -> bool {
        !matches!(self, Op::ClaimNext(..))
    }

    /// True if this call alone can have caused these events (without lease_expired).
    pub fn explains(&self, events: &[SagaEvent]) -> bool {
        use EventType as E;
        let (main, further): (&[E], &[E]) = match self {
            Op::Create(_) | Op::Batch(_) => (&[E::Created], &[]),
            Op::Dispatch(_) => (&[E::Dispatched], &[]),
            Op::Claim(_) | Op::ClaimNext(..) => (&[E::Claimed], &[]),
            Op::Heartbeat(_) => (&[], &[]),
            Op::Register(_) => (&[E::CompensationRegistered], &[]),
            Op::Record(_) | Op::Waive(_) => (&[E::CompensationSettled], &[]),
            Op::Complete(_) => (&[E::Completed], &[]),
            Op::Fail(_) => (&[E::Failed, E::RetryScheduled, E::Compensating], &[E::CompensationRegistered]),
            Op::Release(_) => (&[E::Released, E::Compensating], &[]),
            Op::Recover(_) => (&[E::Requeued, E::Compensating, E::Quarantined], &[E::RecoveryDecided]),
            Op::Cancel(_) => {
                (&[E::CancelRequested, E::Compensating, E::Compensated], &[E::CancelRequested, E::CompensationSettled])
            }
            Op::Compensate(_) => (&[E::Compensated], &[]),
            Op::Quarantine(_) => (&[E::Quarantined], &[]),
            Op::Annotate(_) => (&[E::Annotated], &[]),
        };
        let (last, before) = match events.split_last() {
            Some((last, before)) => (last, before),
            None => return true,
        };
        // A registration of several compensations has an event for each.
        let repeats = matches!(self, Op::Register(_));
        main.contains(&last.r#type())
            && before.iter().all(|event| further.contains(&event.r#type()) || repeats && main.contains(&event.r#type()))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Op::Create(_) => "create",
            Op::Batch(_) => "batch create",
            Op::Dispatch(_) => "dispatch",
            Op::Claim(_) => "claim",
            Op::ClaimNext(..) => "claim next",
            Op::Heartbeat(_) => "heartbeat",
            Op::Register(_) => "register",
            Op::Record(_) => "record",
            Op::Complete(_) => "complete",
            Op::Fail(_) => "fail",
            Op::Release(_) => "release",
            Op::Recover(_) => "recover",
            Op::Cancel(_) => "cancel",
            Op::Compensate(_) => "compensate",
            Op::Quarantine(_) => "quarantine",
            Op::Waive(_) => "waive",
            Op::Annotate(_) => "annotate",
        }
    }
}
