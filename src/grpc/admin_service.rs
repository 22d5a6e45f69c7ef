//! The AdminService: for the person who runs the coordinator.

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
    ServerFacts, backup,
    caller::{Principals, Visitor},
    desk::{Desk, unexpected},
    pages,
    parse::{self, Change, free, queries},
    render::{count, server, signed, span, time},
    revoke,
    status::Problem,
    streams::{Answers, End, Seats},
    vitals::{self, Machine},
};

/// Sagas purged by one command: what the writer does at a stretch while others wait behind it.
const PURGE_STEP: usize = 500;

type Outcome<T> = Result<Response<T>, Status>;

/// The AdminService over a store.
#[derive(Clone)]
pub struct Admin {
    desk: Desk,
    facts: ServerFacts,
    principals: Option<Arc<dyn Principals>>,
    backups: Seats,
    stop: CancellationToken,
}

impl Admin {
    pub(super) fn new(
        desk: Desk,
        facts: ServerFacts,
        principals: Option<Arc<dyn Principals>>,
        stop: CancellationToken,
    ) -> Self {
        // A copy takes the disk that the writer needs, and room on it: one at a time.
        Admin { desk, facts, principals, backups: Seats::new(1, "backups"), stop }
    }

    async fn server_info(&self, visitor: &Visitor) -> Result<proto::GetServerInfoResponse, Problem> {
        let store = self.desk.store(&visitor.permit("GetServerInfo", false)?, visitor)?;
        let now = store.read_time().now;
        let ahead = now.micros().saturating_sub(store.utc().micros());
        Ok(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: if visitor.is_admin() { store.description() } else { store.kind() }.to_owned(),
            start_time: Some(time(self.desk.slot().start_time()?)),
            current_time: Some(time(now)),
            clock_offset: Some(signed(ahead)),
            restart_grace: Some(span(self.facts.restart_grace)),
            bounds: bounds::ALL.iter().chain(&self.facts.bounds).map(server::bound).collect(),
        })
    }

    async fn vitals(
        &self,
        visitor: &Visitor,
        request: proto::GetVitalsRequest,
    ) -> Result<proto::GetVitalsResponse, Problem> {
        let store = self.desk.store(&visitor.permit("GetVitals", false)?, visitor)?;
        let data = self.facts.backup_dir.clone();
        // What the file system is asked may take as long as a disk that hangs: not on a thread that serves others.
        let machine = tokio::task::spawn_blocking(move || Machine::look(&data)).await.unwrap_or_default();
        let mut answer = vitals::answer(&store, &self.facts, machine).await;
        if let Some(principals) = self.principals.as_ref().filter(|_| request.look_for_unknown_holders) {
            answer.unknown_holders = revoke::unknown_holders(&store, principals.names()).await?;
        }
        Ok(answer)
    }

    async fn list(
        &self,
        visitor: &Visitor,
        request: proto::ListQueuesRequest,
    ) -> Result<proto::ListQueuesResponse, Problem> {
        let wanted = queries::list_queues(request)?;
        pages::queues(&self.desk.store(&visitor.permit("ListQueues", false)?, visitor)?, wanted).await
    }

    async fn set_paused<M: Change>(&self, request: Request<M>) -> Result<Option<proto::Queue>, Problem> {
        match self.desk.change(request).await? {
            Answer::Queue(status) => Ok(Some(server::queue(&status))),
            Answer::Saga(_) | Answer::Sagas(_) | Answer::Lease(_) | Answer::Purged(_) => Err(unexpected(M::RPC)),
        }
    }

    /// Purges in steps, each a command of its own, so that others are served in between.
    async fn purge(&self, request: Request<proto::PurgeSagasRequest>) -> Result<PurgeResult, Problem> {
        const RPC: &str = "PurgeSagas";
        let (visitor, mut request) = self.desk.open(RPC, request)?;
        if let Some(principal) = visitor.name() {
            parse::sign(principal, &mut request.actor);
        }
        let whole = free::purge(&request)?;
        let mut total = PurgeResult::default();
        loop {
            let left = whole.max_sagas - total.sagas;
            // What is only counted is not gone in the next step, so it is counted in one.
            let max_sagas = if whole.validate_only { left } else { left.min(PURGE_STEP) };
            let command = Command::Purge(Purge { max_sagas, ..whole.clone() });
            let request = command::Request { command, key: None, by: None };
            let purged = match self.desk.submit(RPC, &visitor, Ok(request)).await? {
                Answer::Purged(purged) => purged,
                Answer::Saga(_) | Answer::Sagas(_) | Answer::Lease(_) | Answer::Queue(_) => {
                    return Err(unexpected(RPC));
                }
            };
            total.sagas += purged.sagas;
            total.events += purged.events;
            total.more = purged.more;
            if !purged.more || purged.sagas == 0 || whole.validate_only || total.sagas >= whole.max_sagas {
                return Ok(total);
            }
        }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_server_info(
        &self,
        request: Request<proto::GetServerInfoRequest>,
    ) -> Outcome<proto::GetServerInfoResponse> {
        let (visitor, _) = self.desk.open("GetServerInfo", request)?;
        self.desk.look("GetServerInfo", "", &visitor, self.server_info(&visitor)).await
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
        let (visitor, request) = self.desk.open("ListQueues", request)?;
        self.desk.look("ListQueues", "", &visitor, self.list(&visitor, request)).await
    }

    async fn get_vitals(&self, request: Request<proto::GetVitalsRequest>) -> Outcome<proto::GetVitalsResponse> {
        let (visitor, request) = self.desk.open("GetVitals", request)?;
        self.desk.look("GetVitals", "", &visitor, self.vitals(&visitor, request)).await
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
        let (visitor, request) = self.desk.open("RevokePrincipal", request)?;
        let subject = request.principal.clone();
        let revoked = revoke::principal(&self.desk, self.principals.as_deref(), &visitor, request);
        self.desk.look("RevokePrincipal", &subject, &visitor, revoked).await
    }

    type BackupStream = Answers<proto::BackupResponse>;

    async fn backup(&self, request: Request<proto::BackupRequest>) -> Outcome<Self::BackupStream> {
        const RPC: &str = "Backup";
        let (visitor, _) = self.desk.open(RPC, request)?;
        let permit = visitor.permit(RPC, false).inspect_err(|problem| self.desk.refused(&visitor, RPC, "", problem))?;
        let store = self.desk.store(&permit, &visitor)?;
        let seat = self.backups.take(&visitor)?;
        tracing::info!(rpc = RPC, "request");
        let end = End::new(&self.stop, &visitor, RPC);
        Ok(Response::new(backup::stream((self.desk.clone(), visitor), store, self.facts.backup_dir.clone(), seat, end)))
    }
}
