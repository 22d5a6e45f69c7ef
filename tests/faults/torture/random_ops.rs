//! Random calls of a client, chosen by its saga's state so that most of them are accepted.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use sagad::proto::*;

use super::op::Op;

/// The length of leases that outlive the test, in seconds.
const LONG: i64 = 3600;

fn length(duration: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: duration.as_secs() as i64, nanos: duration.subsec_nanos() as i32 })
}

pub fn uuid(rng: &mut StdRng) -> String {
    uuid::Uuid::from_u128(rng.random()).to_string()
}

fn spec(rng: &mut StdRng) -> CompensationSpec {
    let number: u16 = rng.random();
    CompensationSpec { kind: format!("kind-{}", number % 3), target: format!("target-{number}"), reason: "made".into() }
}

pub fn create(rng: &mut StdRng, queue: &str, task_id: String) -> CreateSagaRequest {
    let payload_bytes = [0, 10, 300, 5000][rng.random_range(0..4)];
    CreateSagaRequest {
        task_id,
        queue: queue.into(),
        priority: rng.random_range(-2..3),
        issue: Some(rng.random_range(0..100)),
        labels: [("seed".to_owned(), rng.random::<u32>().to_string())].into(),
        payload: vec![rng.random(); payload_bytes].into(),
        compensations: (0..rng.random_range(0..3)).map(|_| spec(rng)).collect(),
        policy: Some(Policy { max_attempts: 2, retry_backoff: length(Duration::from_millis(1)), ..Policy::default() }),
        request_id: uuid(rng),
        ..CreateSagaRequest::default()
    }
}

/// A random change of a saga by its client, from its last acknowledged state.
pub fn change(rng: &mut StdRng, saga: &Saga, owner: &str, planned: &[String]) -> Op {
    match rng.random_range(0..20) {
        0 => return annotate(rng, saga, owner),
        1 => return cancel(rng, saga, owner),
        2 if rng.random_bool(0.3) => return quarantine(rng, saga, owner),
        _ => {}
    }
    match saga.state() {
        SagaState::Planned | SagaState::Dispatched => start(rng, saga, owner, planned),
        SagaState::Running => run(rng, saga, owner),
        SagaState::Compensating => undo(rng, saga, owner),
        SagaState::Unspecified
        | SagaState::Completed
        | SagaState::Failed
        | SagaState::Compensated
        | SagaState::Quarantined => annotate(rng, saga, owner),
    }
}

fn annotate(rng: &mut StdRng, saga: &Saga, owner: &str) -> Op {
    let terminal = saga.end_time.is_some();
    Op::Annotate(AnnotateRequest {
        task_id: saga.task_id.clone(),
        actor: owner.into(),
        note: format!("note {}", rng.random::<u32>()),
        terminal_reason: if terminal { format!("reason {}", rng.random::<u32>()) } else { String::new() },
        request_id: uuid(rng),
        ..AnnotateRequest::default()
    })
}

fn cancel(rng: &mut StdRng, saga: &Saga, owner: &str) -> Op {
    Op::Cancel(RequestCancelRequest {
        task_id: saga.task_id.clone(),
        actor: owner.into(),
        reason: "not wanted".into(),
        revoke_lease: rng.random(),
        request_id: uuid(rng),
    })
}

fn quarantine(rng: &mut StdRng, saga: &Saga, owner: &str) -> Op {
    Op::Quarantine(QuarantineRequest {
        task_id: saga.task_id.clone(),
        reason: "strange".into(),
        actor: owner.into(),
        revoke_lease: true,
        request_id: uuid(rng),
        ..QuarantineRequest::default()
    })
}

fn claim(rng: &mut StdRng, saga: &Saga, owner: &str, purpose: LeasePurpose) -> Op {
    // Some leases expire soon, so that there are stale sagas to recover.
    let ttl = if rng.random_bool(0.2) { Duration::from_millis(100) } else { Duration::from_secs(LONG as u64) };
    Op::Claim(ClaimRequest {
        task_id: saga.task_id.clone(),
        owner_id: owner.into(),
        ttl: length(ttl),
        purpose: purpose.into(),
        reason: "to work".into(),
        request_id: uuid(rng),
    })
}

fn start(rng: &mut StdRng, saga: &Saga, owner: &str, planned: &[String]) -> Op {
    match rng.random_range(0..4) {
        0 => Op::Dispatch(DispatchRequest {
            task_id: saga.task_id.clone(),
            assignee: owner.into(),
            ttl: length(Duration::from_secs(LONG as u64)),
            actor: owner.into(),
            reason: "reserved".into(),
            request_id: uuid(rng),
        }),
        1 => Op::ClaimNext(
            ClaimNextRequest {
                queues: vec![saga.queue.clone()],
                owner_id: owner.into(),
                ttl: length(Duration::from_secs(LONG as u64)),
                max_sagas: 1,
                request_id: uuid(rng),
                ..ClaimNextRequest::default()
            },
            planned.to_vec(),
        ),
        _ => claim(rng, saga, owner, LeasePurpose::Execute),
    }
}

fn run(rng: &mut StdRng, saga: &Saga, owner: &str) -> Op {
    let lease = saga.lease.clone().unwrap_or_default();
    let (task_id, owner_id, fencing_token) = (saga.task_id.clone(), lease.owner_id, lease.fencing_token);
    if lease.ttl.is_some_and(|ttl| ttl.seconds < LONG) && rng.random_bool(0.7) {
        let decisions = [RecoveryDecision::Requeue, RecoveryDecision::Compensate, RecoveryDecision::Quarantine];
        return Op::Recover(RecoverRequest {
            task_id,
            decision: decisions[rng.random_range(0..3)].into(),
            actor: owner.into(),
            reason: "it ran out".into(),
            fencing_token,
            request_id: uuid(rng),
            ..RecoverRequest::default()
        });
    }
    let request_id = uuid(rng);
    match rng.random_range(0..10) {
        0..4 => Op::Heartbeat(HeartbeatRequest {
            task_id,
            owner_id,
            fencing_token,
            ttl: length(Duration::from_secs(LONG as u64)),
            progress: rng.random::<bool>().then(|| rng.random::<u64>().to_le_bytes().to_vec().into()),
        }),
        4 | 5 => {
            let compensations = (0..rng.random_range(1..3)).map(|_| spec(rng)).collect();
            Op::Register(RegisterCompensationRequest { task_id, owner_id, fencing_token, compensations, request_id })
        }
        6 => {
            let result = rng.random::<u64>().to_le_bytes().to_vec().into();
            Op::Complete(CompleteRequest {
                task_id,
                owner_id,
                fencing_token,
                result,
                reason: "done".into(),
                request_id,
                progress: None,
            })
        }
        7 | 8 => Op::Fail(FailRequest {
            task_id,
            owner_id,
            fencing_token,
            reason: "it broke".into(),
            compensations: vec![spec(rng)],
            retryable: rng.random(),
            request_id,
            progress: None,
        }),
        _ => Op::Release(ReleaseRequest {
            task_id,
            owner_id,
            fencing_token,
            reason: "later".into(),
            request_id,
            ..ReleaseRequest::default()
        }),
    }
}

fn undo(rng: &mut StdRng, saga: &Saga, owner: &str) -> Op {
    let lease = saga.lease.clone().unwrap_or_default();
    if lease.purpose() != LeasePurpose::Compensate {
        return claim(rng, saga, owner, LeasePurpose::Compensate);
    }
    // The last lease may have been released or have expired.
    if rng.random_bool(if lease.ttl.is_some_and(|ttl| ttl.seconds < LONG) { 0.3 } else { 0.1 }) {
        return claim(rng, saga, owner, LeasePurpose::Compensate);
    }
    let (task_id, owner_id, fencing_token) = (saga.task_id.clone(), lease.owner_id, lease.fencing_token);
    let request_id = uuid(rng);
    let open = saga
        .compensations
        .iter()
        .rev()
        .find(|c| matches!(c.state(), CompensationState::Pending | CompensationState::Failed));
    let Some(open) = open else {
        return Op::Compensate(CompensateRequest {
            task_id,
            owner_id,
            fencing_token,
            reason: "undone".into(),
            request_id,
        });
    };
    match rng.random_range(0..6) {
        0 => Op::Waive(WaiveCompensationRequest {
            task_id,
            position: open.position,
            actor: owner.into(),
            reason: "not needed".into(),
            request_id,
        }),
        1 => Op::Release(ReleaseRequest {
            task_id,
            owner_id,
            fencing_token,
            reason: "later".into(),
            request_id,
            ..ReleaseRequest::default()
        }),
        choice => Op::Record(RecordCompensationRequest {
            task_id,
            owner_id,
            fencing_token,
            position: open.position,
            outcome: if choice == 2 { CompensationOutcome::Failed } else { CompensationOutcome::Done }.into(),
            detail: "tried".into(),
            request_id,
        }),
    }
}
