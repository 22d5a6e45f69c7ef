//! The SagaService's rpcs that only read, or watch.

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
    caller::AuthenticatedCaller,
    handler_context::HandlerContext,
    pages,
    parse::queries,
    permissions,
    problem::Problem,
    render,
    streams::{self, ResponseStream, StreamEnd, StreamLimiter},
};

pub(super) async fn get_saga(
    context: &HandlerContext,
    caller: &AuthenticatedCaller,
    request: &proto::GetSagaRequest,
) -> Result<proto::GetSagaResponse, Problem> {
    let key = queries::get_saga(request)?;
    let authorization = caller.authorize("GetSaga", false)?;
    let store = context.store(&authorization, caller)?;
    let task_id = match &key {
        SagaKey::Task(task_id) => Some(task_id.clone()),
        SagaKey::Saga(_) => None,
    };
    // A saga that the caller may not see is answered like one that does not exist.
    match store.get(key).await?.filter(|saga| authorization.sees(&saga.spec.queue)) {
        Some(saga) => Ok(proto::GetSagaResponse { saga: Some(render::saga::saga(&saga, &store.moment())) }),
        None => {
            let refusal = CommandRefusal { task_id, ..CommandRefusal::plain(Rejection::SagaNotFound) };
            Err(StoreError::Refused(Box::new(refusal)).into())
        }
    }
}

pub(super) async fn list_sagas(
    context: &HandlerContext,
    caller: &AuthenticatedCaller,
    request: proto::ListSagasRequest,
) -> Result<proto::ListSagasResponse, Problem> {
    let mut listing = queries::list_sagas(request)?;
    let authorization = caller.authorize("ListSagas", false)?;
    listing.filter.queues = authorization.confine(listing.filter.queues)?;
    pages::sagas(&context.store(&authorization, caller)?, listing).await
}

pub(super) async fn list_events(
    context: &HandlerContext,
    caller: &AuthenticatedCaller,
    request: proto::ListEventsRequest,
) -> Result<proto::ListEventsResponse, Problem> {
    let history = queries::list_events(request)?;
    let authorization = caller.authorize("ListEvents", false)?;
    pages::events(&context.store(&authorization, caller)?, history, |saga| authorization.sees(&saga.spec.queue)).await
}

pub(super) async fn get_stats(
    context: &HandlerContext,
    caller: &AuthenticatedCaller,
) -> Result<proto::GetStatsResponse, Problem> {
    let stats = context.store(&caller.authorize("GetStats", false)?, caller)?.stats().await?;
    Ok(render::server::stats(&stats))
}

pub(super) fn watch_stale(
    context: &HandlerContext,
    request: Request<proto::WatchStaleRequest>,
    limiter: &StreamLimiter,
    stop: &CancellationToken,
) -> Result<ResponseStream<proto::WatchStaleResponse>, Problem> {
    const RPC: &str = "WatchStale";
    let (caller, request) = context.authenticate(RPC, request)?;
    let end = StreamEnd::new(stop, &caller, RPC);
    let begin = || {
        let queries::WatchQuery { task_id: _, queues, after } = queries::watch_stale(&request)?;
        let authorization = caller.authorize(RPC, false)?;
        let queues = authorization.confine(queues)?;
        let store = context.store(&authorization, &caller)?;
        let permit = limiter.take(&caller)?;
        let clock = store.clone();
        let (refusal_context, refused_caller) = (context.clone(), caller.clone());
        let items = watch::watch_stale(store, queues, after, request.snapshot_only);
        let cut = end.clone();
        let items = end.until_end(items).map(move |item| match item {
            Ok(item) => Ok(render::watch::stale_item(item, &clock.moment())),
            Err(error) => Err(stream_error(&refusal_context, &refused_caller, RPC, error, &cut)),
        });
        Ok(streams::limited_stream(items, permit, end))
    };
    log_opened(context, RPC, &caller, begin())
}

/// Its messages are framed: see [`super::framed_stream`].
pub(super) fn watch_events(
    context: &HandlerContext,
    request: Request<proto::WatchEventsRequest>,
    limiter: &StreamLimiter,
    stop: &CancellationToken,
) -> Result<ResponseStream<Bytes>, Problem> {
    const RPC: &str = "WatchEvents";
    let (caller, request) = context.authenticate(RPC, request)?;
    let end = StreamEnd::new(stop, &caller, RPC);
    let begin = || {
        let queries::WatchQuery { task_id, queues, after } = queries::watch_events(&request)?;
        let authorization = caller.authorize(RPC, false)?;
        let queues = authorization.confine(queues)?;
        let store = context.store(&authorization, &caller)?;
        let permit = limiter.take(&caller)?;
        let (refusal_context, refused_caller) = (context.clone(), caller.clone());
        let items = watch::watch_events(store, task_id, queues, after);
        let cut = end.clone();
        let items = end.until_end(items).map(move |item| match item {
            Ok(item) => Ok(render::watch::event_frames(&item)),
            Err(error) => Err(stream_error(&refusal_context, &refused_caller, RPC, error, &cut)),
        });
        Ok(streams::limited_stream(items, permit, end))
    };
    log_opened(context, RPC, &caller, begin())
}

fn log_opened<T>(
    context: &HandlerContext,
    rpc: &'static str,
    caller: &AuthenticatedCaller,
    stream: Result<ResponseStream<T>, Problem>,
) -> Result<ResponseStream<T>, Problem> {
    let stream = stream.map_err(|problem| caller.complete_denial(problem, rpc));
    match &stream {
        // Its end is logged when it comes.
        Ok(_) => tracing::debug!(rpc, "opened"),
        Err(problem) => context.log_refused(caller, rpc, "", problem),
    }
    stream
}

fn stream_error(
    context: &HandlerContext,
    caller: &AuthenticatedCaller,
    rpc: &'static str,
    error: StoreError,
    cut: &StreamEnd,
) -> tonic::Status {
    let problem = match error {
        // The read noticed the revocation before the stream was ended by it.
        StoreError::Revoked => cut.reason().unwrap_or_else(|| permissions::unauthenticated(rpc)),
        error => error.into(),
    };
    context.log_refused(caller, rpc, "", &problem);
    problem.into()
}
