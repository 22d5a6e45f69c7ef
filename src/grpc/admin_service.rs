//! The AdminService: for the person who runs the coordinator.

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    domain::{
        bounds,
        command::{self, Answer, Command, Purge, Purged},
    },
    proto::{self, admin_service_server::AdminService},
};

use super::{
    ServerFacts, backup,
    desk::{Desk, unexpected},
    parse::{Change, free},
    render::{count, server, signed, span, time},
    status::Problem,
    streams::{Answers, Seats},
};

/// Sagas purged by one command: what the writer does at a stretch while others wait behind it.
const PURGE_STEP: usize = 500;

type Outcome<T> = Result<Response<T>, Status>;

/// The AdminService over a store.
#[derive(Clone)]
pub struct Admin {
    desk: Desk,
    facts: ServerFacts,
    backups: Seats,
    stop: CancellationToken,
}

impl Admin {
    pub(super) fn new(desk: Desk, facts: ServerFacts, stop: CancellationToken) -> Self {
        // A copy takes the disk that the writer needs, and room on it: one at a time.
        Admin { desk, facts, backups: Seats::new(1, "backups"), stop }
    }

    async fn server_info(&self) -> Result<proto::GetServerInfoResponse, Problem> {
        let store = self.desk.store()?;
        let now = store.moment().now;
        let ahead = now.micros().saturating_sub(store.utc().micros());
        Ok(proto::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: store.description().to_owned(),
            start_time: Some(time(self.desk.slot().start_time()?)),
            current_time: Some(time(now)),
            clock_offset: Some(signed(ahead)),
            restart_grace: Some(span(self.facts.restart_grace)),
            bounds: bounds::ALL.iter().chain(&self.facts.bounds).map(server::bound).collect(),
        })
    }

    async fn list(&self) -> Result<proto::ListQueuesResponse, Problem> {
        let queues = self.desk.store()?.queues().await?;
        Ok(server::queues(&queues))
    }

    async fn set_paused<M: Change>(&self, message: M) -> Result<Option<proto::Queue>, Problem> {
        match self.desk.change(message).await? {
            Answer::Queue(status) => Ok(Some(server::queue(&status))),
            Answer::Saga(_) | Answer::Sagas(_) | Answer::Lease(_) | Answer::Purged(_) => Err(unexpected(M::RPC)),
        }
    }

    /// Purges in steps, each a command of its own, so that others are served in between.
    async fn purge(&self, request: &proto::PurgeSagasRequest) -> Result<Purged, Problem> {
        const RPC: &str = "PurgeSagas";
        let whole = free::purge(request)?;
        let mut total = Purged::default();
        loop {
            let left = whole.max_sagas - total.sagas;
            // What is only counted is not gone in the next step, so it is counted in one.
            let max_sagas = if whole.validate_only { left } else { left.min(PURGE_STEP) };
            let command = Command::Purge(Purge { max_sagas, ..whole.clone() });
            let purged = match self.desk.submit(RPC, Ok(command::Request { command, key: None })).await? {
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
    async fn get_server_info(&self, _: Request<proto::GetServerInfoRequest>) -> Outcome<proto::GetServerInfoResponse> {
        self.desk.look("GetServerInfo", "", self.server_info()).await
    }

    async fn pause_queue(&self, request: Request<proto::PauseQueueRequest>) -> Outcome<proto::PauseQueueResponse> {
        let queue = self.set_paused(request.into_inner()).await?;
        Ok(Response::new(proto::PauseQueueResponse { queue }))
    }

    async fn resume_queue(&self, request: Request<proto::ResumeQueueRequest>) -> Outcome<proto::ResumeQueueResponse> {
        let queue = self.set_paused(request.into_inner()).await?;
        Ok(Response::new(proto::ResumeQueueResponse { queue }))
    }

    async fn list_queues(&self, _: Request<proto::ListQueuesRequest>) -> Outcome<proto::ListQueuesResponse> {
        self.desk.look("ListQueues", "", self.list()).await
    }

    async fn purge_sagas(&self, request: Request<proto::PurgeSagasRequest>) -> Outcome<proto::PurgeSagasResponse> {
        let purged = self.purge(&request.into_inner()).await?;
        Ok(Response::new(proto::PurgeSagasResponse {
            purged_sagas: count(purged.sagas),
            purged_events: count(purged.events),
            more: purged.more,
        }))
    }

    type BackupStream = Answers<proto::BackupResponse>;

    async fn backup(&self, _: Request<proto::BackupRequest>) -> Outcome<Self::BackupStream> {
        let store = self.desk.store()?.clone();
        let seat = self.backups.take()?;
        tracing::info!(rpc = "Backup", "request");
        Ok(Response::new(backup::stream(store, self.facts.backup_dir.clone(), seat, self.stop.clone())))
    }
}
