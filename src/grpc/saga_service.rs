//! The SagaService: each rpc hands its request to the [`Desk`], or looks, and hands its answer out.

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::{self, saga_service_server::SagaService};

use super::{
    GrpcLimits,
    desk::Desk,
    keep_alive, looks, render,
    streams::{Answers, Seats},
};

type Outcome<T> = Result<Response<T>, Status>;

/// The SagaService over a store.
#[derive(Clone)]
pub struct Sagas {
    desk: Desk,
    watches: Seats,
    keepalives: Seats,
    stop: CancellationToken,
}

impl Sagas {
    pub(super) fn new(desk: Desk, limits: GrpcLimits, stop: CancellationToken) -> Self {
        Sagas {
            desk,
            watches: Seats::new(limits.max_watches, "watches"),
            keepalives: Seats::new(limits.max_keepalives, "KeepAlive streams"),
            stop,
        }
    }
}

#[tonic::async_trait]
impl SagaService for Sagas {
    async fn create_saga(&self, request: Request<proto::CreateSagaRequest>) -> Outcome<proto::CreateSagaResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::CreateSagaResponse { saga }))
    }

    async fn batch_create_sagas(
        &self,
        request: Request<proto::BatchCreateSagasRequest>,
    ) -> Outcome<proto::BatchCreateSagasResponse> {
        let sagas = self.desk.change_sagas(request.into_inner()).await?;
        Ok(Response::new(proto::BatchCreateSagasResponse { sagas }))
    }

    async fn get_saga(&self, request: Request<proto::GetSagaRequest>) -> Outcome<proto::GetSagaResponse> {
        let request = request.into_inner();
        let subject = format!("{}{}", request.task_id, request.saga_id);
        self.desk.look("GetSaga", &subject, looks::get_saga(&self.desk, &request)).await
    }

    async fn list_sagas(&self, request: Request<proto::ListSagasRequest>) -> Outcome<proto::ListSagasResponse> {
        self.desk.look("ListSagas", "", looks::list_sagas(&self.desk, request.into_inner())).await
    }

    async fn dispatch(&self, request: Request<proto::DispatchRequest>) -> Outcome<proto::DispatchResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::DispatchResponse { saga }))
    }

    async fn claim(&self, request: Request<proto::ClaimRequest>) -> Outcome<proto::ClaimResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::ClaimResponse { saga }))
    }

    async fn claim_next(&self, request: Request<proto::ClaimNextRequest>) -> Outcome<proto::ClaimNextResponse> {
        let (metadata, _, message) = request.into_parts();
        let sagas = self.desk.claim_next(message, &metadata).await?;
        Ok(Response::new(proto::ClaimNextResponse { sagas }))
    }

    async fn heartbeat(&self, request: Request<proto::HeartbeatRequest>) -> Outcome<proto::HeartbeatResponse> {
        let answer = self.desk.heartbeat(request.into_inner()).await?;
        Ok(Response::new(proto::HeartbeatResponse {
            lease: Some(render::saga::lease(&answer.lease)),
            directive: keep_alive::directive(answer.cancel_reason.is_some()).into(),
            cancel_reason: answer.cancel_reason.map(|reason| reason.to_string()).unwrap_or_default(),
        }))
    }

    type KeepAliveStream = Answers<proto::KeepAliveResponse>;

    async fn keep_alive(&self, request: Request<Streaming<proto::KeepAliveRequest>>) -> Outcome<Self::KeepAliveStream> {
        let seat = self.keepalives.take()?;
        let answers = keep_alive::answers(self.desk.clone(), request.into_inner(), seat, self.stop.clone());
        Ok(Response::new(answers))
    }

    async fn release(&self, request: Request<proto::ReleaseRequest>) -> Outcome<proto::ReleaseResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::ReleaseResponse { saga }))
    }

    async fn register_compensation(
        &self,
        request: Request<proto::RegisterCompensationRequest>,
    ) -> Outcome<proto::RegisterCompensationResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::RegisterCompensationResponse { saga }))
    }

    async fn complete(&self, request: Request<proto::CompleteRequest>) -> Outcome<proto::CompleteResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::CompleteResponse { saga }))
    }

    async fn fail(&self, request: Request<proto::FailRequest>) -> Outcome<proto::FailResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::FailResponse { saga }))
    }

    async fn record_compensation(
        &self,
        request: Request<proto::RecordCompensationRequest>,
    ) -> Outcome<proto::RecordCompensationResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::RecordCompensationResponse { saga }))
    }

    async fn waive_compensation(
        &self,
        request: Request<proto::WaiveCompensationRequest>,
    ) -> Outcome<proto::WaiveCompensationResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::WaiveCompensationResponse { saga }))
    }

    async fn compensate(&self, request: Request<proto::CompensateRequest>) -> Outcome<proto::CompensateResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::CompensateResponse { saga }))
    }

    async fn quarantine(&self, request: Request<proto::QuarantineRequest>) -> Outcome<proto::QuarantineResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::QuarantineResponse { saga }))
    }

    async fn recover(&self, request: Request<proto::RecoverRequest>) -> Outcome<proto::RecoverResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::RecoverResponse { saga }))
    }

    async fn request_cancel(
        &self,
        request: Request<proto::RequestCancelRequest>,
    ) -> Outcome<proto::RequestCancelResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::RequestCancelResponse { saga }))
    }

    async fn annotate(&self, request: Request<proto::AnnotateRequest>) -> Outcome<proto::AnnotateResponse> {
        let saga = self.desk.change_saga(request.into_inner()).await?;
        Ok(Response::new(proto::AnnotateResponse { saga }))
    }

    type WatchStaleStream = Answers<proto::WatchStaleResponse>;

    async fn watch_stale(&self, request: Request<proto::WatchStaleRequest>) -> Outcome<Self::WatchStaleStream> {
        let items = looks::watch_stale(&self.desk, &request.into_inner(), &self.watches, &self.stop)?;
        Ok(Response::new(items))
    }

    type WatchEventsStream = Answers<proto::WatchEventsResponse>;

    async fn watch_events(&self, request: Request<proto::WatchEventsRequest>) -> Outcome<Self::WatchEventsStream> {
        let items = looks::watch_events(&self.desk, &request.into_inner(), &self.watches, &self.stop)?;
        Ok(Response::new(items))
    }

    async fn list_events(&self, request: Request<proto::ListEventsRequest>) -> Outcome<proto::ListEventsResponse> {
        let request = request.into_inner();
        let subject = request.task_id.clone();
        self.desk.look("ListEvents", &subject, looks::list_events(&self.desk, request)).await
    }

    async fn get_stats(&self, _: Request<proto::GetStatsRequest>) -> Outcome<proto::GetStatsResponse> {
        self.desk.look("GetStats", "", looks::get_stats(&self.desk)).await
    }
}
