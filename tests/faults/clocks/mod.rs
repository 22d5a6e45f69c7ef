//! P6: neither a step of the wall clock, nor a stopped process, nor a restart makes leases expire early, late, or all at once.
//!
//! The real binary under `faketime`, which steps the wall clock but not the monotonic ones; and stopped by SIGSTOP, which looks
//! to the daemon like a suspended machine or a stalled hypervisor.

mod stepped;
mod stopped;
mod suspended;

use sagad::proto::*;
use tonic::Status;

use crate::{
    disk::requests::create,
    support::{self, Sagas, micros},
};

async fn claimed(sagas: &mut Sagas, task_id: &str, ttl_ms: u64) -> Saga {
    create(sagas, task_id, 0).await.unwrap();
    claim(sagas, task_id, "owner", ttl_ms).await.unwrap()
}

async fn claim(sagas: &mut Sagas, task_id: &str, owner_id: &str, ttl_ms: u64) -> Result<Saga, Status> {
    Ok(sagas.claim(support::claim(task_id, owner_id, ttl_ms)).await?.into_inner().saga.unwrap())
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
    found.map(|event| micros(event.time.as_ref()))
}
