//! P6: neither a step of the wall clock, nor a stopped process, nor a restart makes leases expire early, late, or all at once.
//!
//! The real binary under `faketime`, which steps the wall clock but not the monotonic ones; and stopped by SIGSTOP, which looks
//! to the daemon like a suspended machine or a stalled hypervisor.

mod stepped;
mod stopped;
mod suspended;

use sagad::proto::*;
use tonic::Status;

use crate::support::Sagas;

/// Microseconds since 1970.
fn micros(time: &prost_types::Timestamp) -> i64 {
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1000
}

async fn claimed(sagas: &mut Sagas, task_id: &str, ttl_ms: i64) -> Saga {
    let request = CreateSagaRequest { task_id: task_id.into(), ..CreateSagaRequest::default() };
    sagas.create_saga(request).await.unwrap();
    claim(sagas, task_id, "owner", ttl_ms).await.unwrap()
}

async fn claim(sagas: &mut Sagas, task_id: &str, owner_id: &str, ttl_ms: i64) -> Result<Saga, Status> {
    let ttl = Some(prost_types::Duration { seconds: ttl_ms / 1000, nanos: (ttl_ms % 1000) as i32 * 1_000_000 });
    let request = ClaimRequest { task_id: task_id.into(), owner_id: owner_id.into(), ttl, ..ClaimRequest::default() };
    Ok(sagas.claim(request).await?.into_inner().saga.unwrap())
}

async fn heartbeat(sagas: &mut Sagas, saga: &Saga) -> Result<Lease, Status> {
    let lease = saga.lease.clone().unwrap();
    let request = HeartbeatRequest {
        task_id: saga.task_id.clone(),
        owner_id: lease.owner_id,
        fencing_token: lease.fencing_token,
        ..HeartbeatRequest::default()
    };
    Ok(sagas.heartbeat(request).await?.into_inner().lease.unwrap())
}

async fn annotate(sagas: &mut Sagas, task_id: &str) -> Saga {
    let request = AnnotateRequest {
        task_id: task_id.into(),
        actor: "somebody".into(),
        note: "noted".into(),
        ..AnnotateRequest::default()
    };
    sagas.annotate(request).await.unwrap().into_inner().saga.unwrap()
}

async fn get(sagas: &mut Sagas, task_id: &str) -> Saga {
    let request = GetSagaRequest { task_id: task_id.into(), ..GetSagaRequest::default() };
    sagas.get_saga(request).await.unwrap().into_inner().saga.unwrap()
}

/// A saga's history.
async fn history(sagas: &mut Sagas, task_id: &str) -> Vec<SagaEvent> {
    let request = ListEventsRequest { task_id: task_id.into(), page_size: 1000, ..ListEventsRequest::default() };
    sagas.list_events(request).await.unwrap().into_inner().events
}

/// The time of a saga's lease_expired event, if it has one.
async fn expiry_time(sagas: &mut Sagas, task_id: &str) -> Option<i64> {
    let events = history(sagas, task_id).await;
    let found = events.iter().find(|event| event.r#type() == EventType::LeaseExpired);
    found.and_then(|event| event.time.as_ref()).map(micros)
}
