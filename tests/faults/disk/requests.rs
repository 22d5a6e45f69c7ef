//! Short forms of requests.

use std::path::Path;

use sagad::proto::*;
use tonic::Status;

use crate::support::{self, Launch, Sagas, key, sagas};

/// Creates a saga with a payload.
pub async fn create(sagas: &mut Sagas, task_id: &str, payload_bytes: usize) -> Result<Saga, Status> {
    let payload = vec![b'x'; payload_bytes].into();
    let request = CreateSagaRequest { task_id: task_id.into(), payload, ..CreateSagaRequest::default() };
    Ok(sagas.create_saga(request).await?.into_inner().saga.expect("the answer carries it"))
}

pub async fn claim(sagas: &mut Sagas, task_id: &str, ttl_s: u64) -> Result<Saga, Status> {
    let request = support::claim(task_id, "owner", ttl_s * 1000);
    Ok(sagas.claim(request).await?.into_inner().saga.expect("the answer carries it"))
}

pub async fn heartbeat(sagas: &mut Sagas, saga: &Saga) -> Result<Lease, Status> {
    Ok(sagas.heartbeat(key(saga).heartbeat()).await?.into_inner().lease.expect("the answer carries it"))
}

pub async fn annotate(sagas: &mut Sagas, task_id: &str, note: &str) -> Result<Saga, Status> {
    let request = AnnotateRequest {
        task_id: task_id.into(),
        actor: "operator".into(),
        note: note.into(),
        ..AnnotateRequest::default()
    };
    Ok(sagas.annotate(request).await?.into_inner().saga.expect("the answer carries it"))
}

pub async fn get(sagas: &mut Sagas, task_id: &str) -> Result<Saga, Status> {
    let request = GetSagaRequest { task_id: task_id.into(), ..GetSagaRequest::default() };
    Ok(sagas.get_saga(request).await?.into_inner().saga.expect("the answer carries it"))
}

/// Makes a store with claimed and annotated sagas and kills its daemon, so that the log has them. Returns the highest
/// acknowledged revision.
pub async fn killed_store(data: &Path, count: usize) -> i64 {
    let mut daemon = Launch::on(data).start();
    let address = daemon.address();
    let mut client = sagas(address).await;
    let mut told = 0;
    for number in 0..count {
        let task_id = format!("task-{number}");
        create(&mut client, &task_id, 2000).await.unwrap();
        claim(&mut client, &task_id, 3600).await.unwrap();
        told = annotate(&mut client, &task_id, "noted").await.unwrap().revision;
    }
    daemon.kill().await;
    told
}
