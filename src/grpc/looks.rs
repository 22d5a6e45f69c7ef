//! The SagaService's rpcs that only look, or follow.

use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    domain::rejection::{CommandRefusal, Rejection},
    proto,
    store::{SagaKey, StoreError},
    watch,
};

use super::{
    caller::Visitor,
    desk::Desk,
    pages,
    parse::queries,
    permits, render,
    status::Problem,
    streams::{self, Answers, End, Seats},
};

pub(super) async fn get_saga(
    desk: &Desk,
    visitor: &Visitor,
    request: &proto::GetSagaRequest,
) -> Result<proto::GetSagaResponse, Problem> {
    let key = queries::get_saga(request)?;
    let permit = visitor.permit("GetSaga", false)?;
    let store = desk.store(&permit, visitor)?;
    let task_id = match &key {
        SagaKey::Task(task_id) => Some(task_id.clone()),
        SagaKey::Saga(_) => None,
    };
    // What the caller may not see is answered as what is not there.
    match store.get(key).await?.filter(|saga| permit.sees(&saga.spec.queue)) {
        Some(saga) => Ok(proto::GetSagaResponse { saga: Some(render::saga::saga(&saga, &store.read_time())) }),
        None => {
            let refusal = CommandRefusal { task_id, ..CommandRefusal::plain(Rejection::SagaNotFound) };
            Err(StoreError::Refused(Box::new(refusal)).into())
        }
    }
}

pub(super) async fn list_sagas(
    desk: &Desk,
    visitor: &Visitor,
    request: proto::ListSagasRequest,
) -> Result<proto::ListSagasResponse, Problem> {
    let mut listing = queries::list_sagas(request)?;
    let permit = visitor.permit("ListSagas", false)?;
    listing.filter.queues = permit.confine(listing.filter.queues)?;
    pages::sagas(&desk.store(&permit, visitor)?, listing).await
}

pub(super) async fn list_events(
    desk: &Desk,
    visitor: &Visitor,
    request: proto::ListEventsRequest,
) -> Result<proto::ListEventsResponse, Problem> {
    let history = queries::list_events(request)?;
    let permit = visitor.permit("ListEvents", false)?;
    pages::events(&desk.store(&permit, visitor)?, history, |saga| permit.sees(&saga.spec.queue)).await
}

pub(super) async fn get_stats(desk: &Desk, visitor: &Visitor) -> Result<proto::GetStatsResponse, Problem> {
    let stats = desk.store(&visitor.permit("GetStats", false)?, visitor)?.stats().await?;
    Ok(render::server::stats(&stats))
}

pub(super) fn watch_stale(
    desk: &Desk,
    request: Request<proto::WatchStaleRequest>,
    seats: &Seats,
    stop: &CancellationToken,
) -> Result<Answers<proto::WatchStaleResponse>, Problem> {
    const RPC: &str = "WatchStale";
    let (visitor, request) = desk.open(RPC, request)?;
    let end = End::new(stop, &visitor, RPC);
    let begin = || {
        let queries::Watch { task_id: _, queues, after } = queries::watch_stale(&request)?;
        let permit = visitor.permit(RPC, false)?;
        let queues = permit.confine(queues)?;
        let store = desk.store(&permit, &visitor)?;
        let seat = seats.take(&visitor)?;
        let clock = store.clone();
        let (refused, caller) = (desk.clone(), visitor.clone());
        let items = watch::watch_stale(store, queues, after, request.snapshot_only);
        let cut = end.clone();
        let items = end.cuts(items).map(move |item| match item {
            Ok(item) => Ok(render::watch::stale_item(item, &clock.read_time())),
            Err(error) => Err(ended(&refused, &caller, RPC, error, &cut)),
        });
        Ok(streams::answers(items, seat, end))
    };
    opened(desk, RPC, &visitor, begin())
}

/// The answers are in frames: see [`super::frames`].
pub(super) fn watch_events(
    desk: &Desk,
    request: Request<proto::WatchEventsRequest>,
    seats: &Seats,
    stop: &CancellationToken,
) -> Result<Answers<Bytes>, Problem> {
    const RPC: &str = "WatchEvents";
    let (visitor, request) = desk.open(RPC, request)?;
    let end = End::new(stop, &visitor, RPC);
    let begin = || {
        let queries::Watch { task_id, queues, after } = queries::watch_events(&request)?;
        let permit = visitor.permit(RPC, false)?;
        let queues = permit.confine(queues)?;
        let store = desk.store(&permit, &visitor)?;
        let seat = seats.take(&visitor)?;
        let (refused, caller) = (desk.clone(), visitor.clone());
        let items = watch::watch_events(store, task_id, queues, after);
        let cut = end.clone();
        let items = end.cuts(items).map(move |item| match item {
            Ok(item) => Ok(render::watch::event_frames(&item)),
            Err(error) => Err(ended(&refused, &caller, RPC, error, &cut)),
        });
        Ok(streams::answers(items, seat, end))
    };
    opened(desk, RPC, &visitor, begin())
}

fn opened<T>(
    desk: &Desk,
    rpc: &'static str,
    visitor: &Visitor,
    stream: Result<Answers<T>, Problem>,
) -> Result<Answers<T>, Problem> {
    let stream = stream.map_err(|problem| visitor.complete(problem, rpc));
    match &stream {
        // Its end is told when it comes.
        Ok(_) => tracing::debug!(rpc, "opened"),
        Err(problem) => desk.refused(visitor, rpc, "", problem),
    }
    stream
}

fn ended(desk: &Desk, visitor: &Visitor, rpc: &'static str, error: StoreError, cut: &End) -> tonic::Status {
    let problem = match error {
        // A read noticed it before the stream was cut.
        StoreError::Revoked => cut.why().unwrap_or_else(|| permits::unauthenticated(rpc)),
        error => error.into(),
    };
    desk.refused(visitor, rpc, "", &problem);
    problem.into()
}
