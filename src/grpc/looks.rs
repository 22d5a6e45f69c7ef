//! The SagaService's rpcs that only look, or follow.

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::rejection::{Refusal, Rejection},
    proto,
    store::{SagaKey, StoreError},
    watch,
};

use super::{
    desk::{Desk, refused},
    pages,
    parse::queries,
    render,
    status::Problem,
    streams::{self, Answers, Seats},
};

pub(super) async fn get_saga(desk: &Desk, request: &proto::GetSagaRequest) -> Result<proto::GetSagaResponse, Problem> {
    let key = queries::get_saga(request)?;
    let store = desk.store()?;
    let task_id = match &key {
        SagaKey::Task(task_id) => Some(task_id.clone()),
        SagaKey::Saga(_) => None,
    };
    match store.get(key).await? {
        Some(saga) => Ok(proto::GetSagaResponse { saga: Some(render::saga::saga(&saga, &store.moment())) }),
        None => {
            let refusal = Refusal { task_id, ..Refusal::plain(Rejection::SagaNotFound) };
            Err(StoreError::Refused(Box::new(refusal)).into())
        }
    }
}

pub(super) async fn list_sagas(
    desk: &Desk,
    request: proto::ListSagasRequest,
) -> Result<proto::ListSagasResponse, Problem> {
    let listing = queries::list_sagas(request)?;
    pages::sagas(desk.store()?, listing).await
}

pub(super) async fn list_events(
    desk: &Desk,
    request: proto::ListEventsRequest,
) -> Result<proto::ListEventsResponse, Problem> {
    let history = queries::list_events(request)?;
    pages::events(desk.store()?, history).await
}

pub(super) async fn get_stats(desk: &Desk) -> Result<proto::GetStatsResponse, Problem> {
    let stats = desk.store()?.stats().await?;
    Ok(render::server::stats(&stats))
}

pub(super) fn watch_stale(
    desk: &Desk,
    request: &proto::WatchStaleRequest,
    seats: &Seats,
    stop: &CancellationToken,
) -> Result<Answers<proto::WatchStaleResponse>, Problem> {
    const RPC: &str = "WatchStale";
    let begin = || {
        let queries::Watch { task_id: _, queues, after } = queries::watch_stale(request)?;
        let store = desk.store()?.clone();
        let seat = seats.take()?;
        let clock = store.clone();
        let items = watch::watch_stale(store, queues, after, request.snapshot_only);
        let items = streams::until_stopped(items, stop.clone()).map(move |item| match item {
            Ok(item) => Ok(render::watch::stale_item(item, &clock.moment())),
            Err(error) => Err(ended(RPC, error)),
        });
        Ok(streams::answers(items, seat, stop.clone()))
    };
    opened(RPC, begin())
}

pub(super) fn watch_events(
    desk: &Desk,
    request: &proto::WatchEventsRequest,
    seats: &Seats,
    stop: &CancellationToken,
) -> Result<Answers<proto::WatchEventsResponse>, Problem> {
    const RPC: &str = "WatchEvents";
    let begin = || {
        let queries::Watch { task_id, queues, after } = queries::watch_events(request)?;
        let store = desk.store()?.clone();
        let seat = seats.take()?;
        let items = watch::watch_events(store, task_id, queues, after);
        let items = streams::until_stopped(items, stop.clone()).map(|item| match item {
            Ok(item) => Ok(render::watch::event_item(item)),
            Err(error) => Err(ended(RPC, error)),
        });
        Ok(streams::answers(items, seat, stop.clone()))
    };
    opened(RPC, begin())
}

fn opened<T>(rpc: &'static str, stream: Result<Answers<T>, Problem>) -> Result<Answers<T>, Problem> {
    match &stream {
        Ok(_) => tracing::debug!(rpc, accepted = true, "request"),
        Err(problem) => refused(rpc, "", problem),
    }
    stream
}

fn ended(rpc: &'static str, error: StoreError) -> tonic::Status {
    let problem = Problem::from(error);
    refused(rpc, "", &problem);
    problem.into()
}
