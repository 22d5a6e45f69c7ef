//! [`AdminHandlers`]: the AdminService, for the operators of the coordinator.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    domain::{
        bounds,
        command::{self, Answer, Command, Purge, PurgeResult},
    },
    proto::{self, admin_service_server::AdminService},
};

use super::{
    ServerSettings, backup,
    caller::{AuthenticatedCaller, Principals},
    handler_context::{HandlerContext, unexpected},
    pages,
    parse::{self, ChangeRequest, queries, unleased_operations},
    problem::Problem,
    render::{count, server, signed, span, time},
    revoke,
    streams::{ResponseStream, StreamEnd, StreamLimiter},
    vitals::{self, SystemVitals},
};

/// Sagas purged by one command: what the writer does in one turn while other requests wait.
const PURGE_STEP: usize = 500;

type Outcome<T> = Result<Response<T>, Status>;

/// The AdminService over a store.
#[derive(Clone)]
pub struct AdminHandlers {
    context: HandlerContext,
    settings: ServerSettings,
    principals: Option<Arc<dyn Principals>>,
    backups: StreamLimiter,
    stop: CancellationToken,
}

impl AdminHandlers {
    pub(super) fn new(
        context: HandlerContext,
        settings: ServerSettings,
        principals: Option<Arc<dyn Principals>>,
        stop: CancellationToken,
    ) -> Self {
        // One at a time: a backup uses the disk that the writer needs, and takes room on it.
        AdminHandlers { context, settings, principals, backups: StreamLimiter::new(1, "backups"), stop }
    }

    async fn server_info(&self, caller: &AuthenticatedCaller) -> Result<proto::GetServerInfoResponse, Problem> {
        let store = self.context.store(&caller.authorize("GetServerInfo", false)?, caller)?;
        let now = store.read_time().now;
        let ahead = now.micros().saturating_sub(store.utc().micros());
        Ok(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: if caller.is_admin() { store.description() } else { store.kind() }.to_owned(),
            start_time: Some(time(self.context.slot().start_time()?)),
            current_time: Some(time(now)),
            clock_offset: Some(signed(ahead)),
            restart_grace: Some(span(self.settings.restart_grace)),
            bounds: bounds::ALL.iter().chain(&self.settings.bounds).map(server::bound).collect(),
        })
    }

    async fn vitals(
        &self,
        caller: &AuthenticatedCaller,
        request: proto::GetVitalsRequest,
    ) -> Result<proto::GetVitalsResponse, Problem> {
        let store = self.context.store(&caller.authorize("GetVitals", false)?, caller)?;
        let data = self.settings.backup_dir.clone();
        // On a blocking thread: a disk that hangs must not hold up other calls.
        let system = tokio::task::spawn_blocking(move || SystemVitals::read(&data)).await.unwrap_or_default();
        let mut answer = vitals::answer(&store, &self.settings, system).await;
        if let Some(principals) = self.principals.as_ref().filter(|_| request.look_for_unknown_holders) {
            answer.unknown_holders = revoke::unknown_holders(&store, principals.names()).await?;
        }
        Ok(answer)
    }

    async fn list(
        &self,
        caller: &AuthenticatedCaller,
        request: proto::ListQueuesRequest,
    ) -> Result<proto::ListQueuesResponse, Problem> {
        let wanted = queries::list_queues(request)?;
        pages::queues(&self.context.store(&caller.authorize("ListQueues", false)?, caller)?, wanted).await
    }

    async fn set_paused<M: ChangeRequest>(&self, request: Request<M>) -> Result<Option<proto::Queue>, Problem> {
        match self.context.change(request).await? {
            Answer::Queue(status) => Ok(Some(server::queue(&status))),
            Answer::Saga(_) | Answer::Sagas(_) | Answer::Lease(_) | Answer::Purged(_) => Err(unexpected(M::RPC)),
        }
    }

    /// Purges in steps, each a command of its own, so that other calls are served in between.
    async fn purge(&self, request: Request<proto::PurgeSagasRequest>) -> Result<PurgeResult, Problem> {
        const RPC: &str = "PurgeSagas";
        let (caller, mut request) = self.context.authenticate(RPC, request)?;
        if let Some(principal) = caller.principal_name() {
            parse::set_actor(principal, &mut request.actor);
        }
        let request_total = unleased_operations::purge(&request)?;
        let mut total = PurgeResult::default();
        loop {
            let left = request_total.max_sagas - total.sagas;
            // With `validate_only` nothing is removed, so a second step would count the same sagas again: one step does it.
            let max_sagas = if request_total.validate_only { left } else { left.min(PURGE_STEP) };
            let command = Command::Purge(Purge { max_sagas, ..request_total.clone() });
            let request = command::Request { command, key: None, by: None };
            let purged = match self.context.submit(RPC, &caller, Ok(request)).await? {
                Answer::Purged(purged) => purged,
                Answer::Saga(_) | Answer::Sagas(_) | Answer::Lease(_) | Answer::Queue(_) => {
                    return Err(unexpected(RPC));
                }
            };
            total.sagas += purged.sagas;
            total.events += purged.events;
            total.more = purged.more;
            if !purged.more
                || purged.sagas == 0
                || request_total.validate_only
                || total.sagas >= request_total.max_sagas
            {
                return Ok(total);
            }
        }
    }
}

#[tonic::async_trait]
impl AdminService for AdminHandlers {
    async fn get_server_info(
        &self,
        request: Request<proto::GetServerInfoRequest>,
    ) -> Outcome<proto::GetServerInfoResponse> {
        let (caller, _) = self.context.authenticate("GetServerInfo", request)?;
        self.context.answer_read("GetServerInfo", "", &caller, self.server_info(&caller)).await
    }

    async fn pause_queue(&self, request: Request<proto::PauseQueueRequest>) -> Outcome<proto::PauseQueueResponse> {
        let queue = self.set_paused(request).await?;
        Ok(Response::new(proto::PauseQueueResponse { queue }))
    }

    async fn resume_queue(&self, request: Request<proto::ResumeQueueRequest>) -> Outcome<proto::ResumeQueueResponse> {
        let queue = self.set_paused(request).await?;
        Ok(Response::new(proto::ResumeQueueResponse { queue }))
    }

    async fn list_queues(&self, request: Request<proto::ListQueuesRequest>) -> Outcome<proto::ListQueuesResponse> {
        let (caller, request) = self.context.authenticate("ListQueues", request)?;
        self.context.answer_read("ListQueues", "", &caller, self.list(&caller, request)).await
    }

    async fn get_vitals(&self, request: Request<proto::GetVitalsRequest>) -> Outcome<proto::GetVitalsResponse> {
        let (caller, request) = self.context.authenticate("GetVitals", request)?;
        self.context.answer_read("GetVitals", "", &caller, self.vitals(&caller, request)).await
    }

    async fn purge_sagas(&self, request: Request<proto::PurgeSagasRequest>) -> Outcome<proto::PurgeSagasResponse> {
        let purged = self.purge(request).await?;
        Ok(Response::new(proto::PurgeSagasResponse {
            purged_sagas: count(purged.sagas),
            purged_events: count(purged.events),
            more: purged.more,
        }))
    }

    async fn revoke_principal(
        &self,
        request: Request<proto::RevokePrincipalRequest>,
    ) -> Outcome<proto::RevokePrincipalResponse> {
        let (caller, request) = self.context.authenticate("RevokePrincipal", request)?;
        let subject = request.principal.clone();
        let revoked = revoke::revoke_principal(&self.context, self.principals.as_deref(), &caller, request);
        self.context.answer_read("RevokePrincipal", &subject, &caller, revoked).await
    }

    type BackupStream = ResponseStream<proto::BackupResponse>;

    async fn backup(&self, request: Request<proto::BackupRequest>) -> Outcome<Self::BackupStream> {
        const RPC: &str = "Backup";
        let (caller, _) = self.context.authenticate(RPC, request)?;
        let authorization =
            caller.authorize(RPC, false).inspect_err(|problem| self.context.log_refused(&caller, RPC, "", problem))?;
        let store = self.context.store(&authorization, &caller)?;
        let permit = self.backups.take(&caller)?;
        tracing::info!(rpc = RPC, "request");
        let end = StreamEnd::new(&self.stop, &caller, RPC);
        Ok(Response::new(backup::stream(
            (self.context.clone(), caller),
            store,
            self.settings.backup_dir.clone(),
            permit,
            end,
        )))
    }
}
