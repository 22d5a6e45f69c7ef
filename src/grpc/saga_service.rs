//! [`SagaHandlers`]: the SagaService. Each rpc is a change through [`HandlerContext`], or a read (`read_rpcs`).

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::{self, saga_service_server::SagaService};

use super::{
    GrpcLimits, framed_stream,
    handler_context::HandlerContext,
    keep_alive, read_rpcs, session,
    streams::{ResponseStream, StreamLimiter},
};

type Outcome<T> = Result<Response<T>, Status>;

/// The SagaService over a store.
#[derive(Clone)]
pub struct SagaHandlers {
    context: HandlerContext,
    watches: StreamLimiter,
    /// Limits `KeepAlive` and `Session`.
    worker_streams: StreamLimiter,
    max_session_calls: usize,
    stop: CancellationToken,
}

impl SagaHandlers {
    pub(super) fn new(context: HandlerContext, limits: GrpcLimits, stop: CancellationToken) -> Self {
        SagaHandlers {
            context,
            watches: StreamLimiter::new(limits.max_watches, "watches"),
            worker_streams: StreamLimiter::new(limits.max_worker_streams, "KeepAlive and Session streams"),
            max_session_calls: limits.max_session_calls,
            stop,
        }
    }
}

#[tonic::async_trait]
impl SagaService for SagaHandlers {
    async fn create_saga(&self, request: Request<proto::CreateSagaRequest>) -> Outcome<proto::CreateSagaResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::CreateSagaResponse { saga }))
    }

    async fn batch_create_sagas(
        &self,
        request: Request<proto::BatchCreateSagasRequest>,
    ) -> Outcome<proto::BatchCreateSagasResponse> {
        let sagas = self.context.change_sagas(request).await?;
        Ok(Response::new(proto::BatchCreateSagasResponse { sagas }))
    }

    async fn get_saga(&self, request: Request<proto::GetSagaRequest>) -> Outcome<proto::GetSagaResponse> {
        let (caller, request) = self.context.authenticate("GetSaga", request)?;
        let subject = format!("{}{}", request.task_id, request.saga_id);
        self.context
            .answer_read("GetSaga", &subject, &caller, read_rpcs::get_saga(&self.context, &caller, &request))
            .await
    }

    async fn list_sagas(&self, request: Request<proto::ListSagasRequest>) -> Outcome<proto::ListSagasResponse> {
        let (caller, request) = self.context.authenticate("ListSagas", request)?;
        self.context.answer_read("ListSagas", "", &caller, read_rpcs::list_sagas(&self.context, &caller, request)).await
    }

    async fn dispatch(&self, request: Request<proto::DispatchRequest>) -> Outcome<proto::DispatchResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::DispatchResponse { saga }))
    }

    async fn claim(&self, request: Request<proto::ClaimRequest>) -> Outcome<proto::ClaimResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::ClaimResponse { saga }))
    }

    async fn claim_next(&self, request: Request<proto::ClaimNextRequest>) -> Outcome<proto::ClaimNextResponse> {
        let (metadata, extensions, message) = request.into_parts();
        Ok(Response::new(self.context.claim_next(message, &metadata, &extensions).await?))
    }

    async fn heartbeat(&self, request: Request<proto::HeartbeatRequest>) -> Outcome<proto::HeartbeatResponse> {
        let (caller, message) = self.context.authenticate("Heartbeat", request)?;
        Ok(Response::new(keep_alive::heartbeat(self.context.heartbeat(&caller, message).await?)))
    }

    type KeepAliveStream = ResponseStream<proto::KeepAliveResponse>;

    async fn keep_alive(&self, request: Request<Streaming<proto::KeepAliveRequest>>) -> Outcome<Self::KeepAliveStream> {
        let answers = keep_alive::answers(&self.context, request, &self.worker_streams, &self.stop)?;
        Ok(Response::new(answers))
    }

    type SessionStream = ResponseStream<proto::SessionResponse>;

    async fn session(&self, request: Request<Streaming<proto::SessionRequest>>) -> Outcome<Self::SessionStream> {
        let answers =
            session::answers(&self.context, request, &self.worker_streams, self.max_session_calls, &self.stop)?;
        Ok(framed_stream::framed_response(answers))
    }

    async fn release(&self, request: Request<proto::ReleaseRequest>) -> Outcome<proto::ReleaseResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::ReleaseResponse { saga }))
    }

    async fn register_compensation(
        &self,
        request: Request<proto::RegisterCompensationRequest>,
    ) -> Outcome<proto::RegisterCompensationResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::RegisterCompensationResponse { saga }))
    }

    async fn complete(&self, request: Request<proto::CompleteRequest>) -> Outcome<proto::CompleteResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::CompleteResponse { saga }))
    }

    async fn fail(&self, request: Request<proto::FailRequest>) -> Outcome<proto::FailResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::FailResponse { saga }))
    }

    async fn record_compensation(
        &self,
        request: Request<proto::RecordCompensationRequest>,
    ) -> Outcome<proto::RecordCompensationResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::RecordCompensationResponse { saga }))
    }

    async fn waive_compensation(
        &self,
        request: Request<proto::WaiveCompensationRequest>,
    ) -> Outcome<proto::WaiveCompensationResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::WaiveCompensationResponse { saga }))
    }

    async fn compensate(&self, request: Request<proto::CompensateRequest>) -> Outcome<proto::CompensateResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::CompensateResponse { saga }))
    }

    async fn quarantine(&self, request: Request<proto::QuarantineRequest>) -> Outcome<proto::QuarantineResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::QuarantineResponse { saga }))
    }

    async fn recover(&self, request: Request<proto::RecoverRequest>) -> Outcome<proto::RecoverResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::RecoverResponse { saga }))
    }

    async fn request_cancel(
        &self,
        request: Request<proto::RequestCancelRequest>,
    ) -> Outcome<proto::RequestCancelResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::RequestCancelResponse { saga }))
    }

    async fn annotate(&self, request: Request<proto::AnnotateRequest>) -> Outcome<proto::AnnotateResponse> {
        let saga = self.context.change_saga(request).await?;
        Ok(Response::new(proto::AnnotateResponse { saga }))
    }

    type WatchStaleStream = ResponseStream<proto::WatchStaleResponse>;

    async fn watch_stale(&self, request: Request<proto::WatchStaleRequest>) -> Outcome<Self::WatchStaleStream> {
        let items = read_rpcs::watch_stale(&self.context, request, &self.watches, &self.stop)?;
        Ok(Response::new(items))
    }

    type WatchEventsStream = ResponseStream<proto::WatchEventsResponse>;

    async fn watch_events(&self, request: Request<proto::WatchEventsRequest>) -> Outcome<Self::WatchEventsStream> {
        let frames = read_rpcs::watch_events(&self.context, request, &self.watches, &self.stop)?;
        Ok(framed_stream::framed_response(frames))
    }

    async fn list_events(&self, request: Request<proto::ListEventsRequest>) -> Outcome<proto::ListEventsResponse> {
        let (caller, request) = self.context.authenticate("ListEvents", request)?;
        let subject = request.task_id.clone();
        self.context
            .answer_read("ListEvents", &subject, &caller, read_rpcs::list_events(&self.context, &caller, request))
            .await
    }

    async fn get_stats(&self, request: Request<proto::GetStatsRequest>) -> Outcome<proto::GetStatsResponse> {
        let (caller, _) = self.context.authenticate("GetStats", request)?;
        self.context.answer_read("GetStats", "", &caller, read_rpcs::get_stats(&self.context, &caller)).await
    }
}
