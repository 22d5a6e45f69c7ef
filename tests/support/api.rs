//! Clients, and short forms of requests.

use std::net::SocketAddr;

use sagad::proto::{admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient, *};
use tonic::{Code, Status, Streaming, transport::Channel};

/// A client of the SagaService.
pub type Sagas = SagaServiceClient<Channel>;

/// A client on a connection of its own, whose calls end after 20 s.
pub async fn sagas(address: SocketAddr) -> Sagas {
    Sagas::new(super::channel(address).await.expect("it serves"))
}

/// Clients of both services on one connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    pub sagas: Sagas,
    pub admin: AdminServiceClient<Channel>,
    pub channel: Channel,
}

/// Calls whose answer is a saga.
macro_rules! answered_with_saga {
    ($($rpc:ident: $request:ty,)*) => {
        $(
            pub async fn $rpc(&self, request: $request) -> Result<Saga, Status> {
                let answer = self.sagas.clone().$rpc(request).await?.into_inner();
                Ok(answer.saga.expect("the saga is never absent"))
            }
        )*
    };
}

impl Api {
    /// Clients on a connection.
    pub fn new(channel: Channel) -> Self {
        Api { sagas: SagaServiceClient::new(channel.clone()), admin: AdminServiceClient::new(channel.clone()), channel }
    }

    answered_with_saga! {
        create_saga: CreateSagaRequest,
        dispatch: DispatchRequest,
        claim: ClaimRequest,
        release: ReleaseRequest,
        register_compensation: RegisterCompensationRequest,
        complete: CompleteRequest,
        fail: FailRequest,
        record_compensation: RecordCompensationRequest,
        waive_compensation: WaiveCompensationRequest,
        compensate: CompensateRequest,
        quarantine: QuarantineRequest,
        recover: RecoverRequest,
        request_cancel: RequestCancelRequest,
        annotate: AnnotateRequest,
    }

    pub async fn claim_next(&self, request: ClaimNextRequest) -> Result<Vec<Saga>, Status> {
        Ok(self.sagas.clone().claim_next(request).await?.into_inner().sagas)
    }

    pub async fn batch_create_sagas(&self, request: BatchCreateSagasRequest) -> Result<Vec<Saga>, Status> {
        Ok(self.sagas.clone().batch_create_sagas(request).await?.into_inner().sagas)
    }

    pub async fn heartbeat(&self, request: HeartbeatRequest) -> Result<HeartbeatResponse, Status> {
        Ok(self.sagas.clone().heartbeat(request).await?.into_inner())
    }

    pub async fn list_sagas(&self, request: ListSagasRequest) -> Result<ListSagasResponse, Status> {
        Ok(self.sagas.clone().list_sagas(request).await?.into_inner())
    }

    pub async fn list_events(&self, request: ListEventsRequest) -> Result<ListEventsResponse, Status> {
        Ok(self.sagas.clone().list_events(request).await?.into_inner())
    }

    pub async fn stats(&self) -> GetStatsResponse {
        self.sagas.clone().get_stats(GetStatsRequest {}).await.unwrap().into_inner()
    }

    pub async fn purge(&self, request: PurgeSagasRequest) -> Result<PurgeSagasResponse, Status> {
        Ok(self.admin.clone().purge_sagas(request).await?.into_inner())
    }

    pub async fn watch_stale(&self, request: WatchStaleRequest) -> Result<Streaming<WatchStaleResponse>, Status> {
        Ok(self.sagas.clone().watch_stale(request).await?.into_inner())
    }

    pub async fn watch_events(&self, request: WatchEventsRequest) -> Result<Streaming<WatchEventsResponse>, Status> {
        Ok(self.sagas.clone().watch_events(request).await?.into_inner())
    }

    /// The saga with this id, if there is one.
    pub async fn find(&self, task_id: &str) -> Result<Option<Saga>, Status> {
        let request = GetSagaRequest { task_id: task_id.into(), ..Default::default() };
        match self.sagas.clone().get_saga(request).await {
            Ok(answer) => Ok(answer.into_inner().saga),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// The saga with this id, which must exist.
    pub async fn get(&self, task_id: &str) -> Saga {
        self.find(task_id).await.unwrap().unwrap_or_else(|| panic!("there is no {task_id}"))
    }

    /// A saga's whole history, page by page.
    pub async fn history(&self, task_id: &str) -> Vec<SagaEvent> {
        let mut request = ListEventsRequest { task_id: task_id.into(), page_size: 1000, ..Default::default() };
        let mut events = Vec::new();
        loop {
            let page = self.list_events(request.clone()).await.unwrap();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The ids of stale sagas, as they are listed.
    pub async fn stale_ids(&self) -> Vec<String> {
        let request = ListSagasRequest { stale_only: true, ..Default::default() };
        self.list_sagas(request).await.unwrap().sagas.into_iter().map(|saga| saga.task_id).collect()
    }

    /// A new saga with these ids, claimed for a minute.
    pub async fn running(&self, task_id: &str, owner_id: &str) -> Saga {
        self.create_saga(create(task_id)).await.unwrap();
        self.claim(claim(task_id, owner_id, 60_000)).await.unwrap()
    }

    /// A new stale saga: its lease of 100 ms has expired.
    pub async fn stale(&self, request: CreateSagaRequest, owner_id: &str) -> Saga {
        let task_id = request.task_id.clone();
        self.create_saga(request).await.unwrap();
        self.claim(claim(&task_id, owner_id, 100)).await.unwrap();
        self.until_stale(&task_id).await
    }

    /// Waits until a saga is stale in its history and for its watchers, too: reads show it as stale a moment earlier.
    pub async fn until_stale(&self, task_id: &str) -> Saga {
        super::eventually(&format!("{task_id} is stale"), || async {
            let last = self.history(task_id).await.pop()?;
            let saga = self.get(task_id).await;
            let published = self.stats().await.revision >= saga.revision;
            (last.r#type() == EventType::LeaseExpired && saga.stale && published).then_some(saga)
        })
        .await
    }

    /// Waits until watchers are sent a revision, which is a moment after its caller was answered.
    pub async fn until_published(&self, revision: i64) {
        super::eventually("it is published", || async { (self.stats().await.revision >= revision).then_some(()) })
            .await;
    }

    /// Waits until a saga is as wanted.
    pub async fn until(&self, task_id: &str, what: &str, wanted: impl Fn(&Saga) -> bool) -> Saga {
        super::eventually(&format!("{task_id} {what}"), || async {
            Some(self.get(task_id).await).filter(|saga| wanted(saga))
        })
        .await
    }
}

/// A saga to be created.
pub fn create(task_id: &str) -> CreateSagaRequest {
    CreateSagaRequest { task_id: task_id.into(), ..Default::default() }
}

/// A saga to be created, with a compensation of each kind; its target is the kind's name.
pub fn held(task_id: &str, kinds: &[&str]) -> CreateSagaRequest {
    CreateSagaRequest { compensations: kinds.iter().map(|kind| compensation(kind)).collect(), ..create(task_id) }
}

/// A compensation to be registered.
pub fn compensation(kind: &str) -> CompensationSpec {
    CompensationSpec { kind: kind.into(), target: format!("the {kind}"), reason: "it was made".into() }
}

/// A claim for execution.
pub fn claim(task_id: &str, owner_id: &str, ttl_ms: u64) -> ClaimRequest {
    ClaimRequest { task_id: task_id.into(), owner_id: owner_id.into(), ttl: super::ms(ttl_ms), ..Default::default() }
}

/// A claim for compensation.
pub fn claim_undo(task_id: &str, owner_id: &str, ttl_ms: u64) -> ClaimRequest {
    ClaimRequest { purpose: LeasePurpose::Compensate.into(), ..claim(task_id, owner_id, ttl_ms) }
}

/// A UUID derived from a name, so that a test can name its requests.
pub fn named(name: &str) -> String {
    let mut bytes = [0; 16];
    for (place, byte) in name.bytes().enumerate() {
        bytes[place % 16] ^= byte.rotate_left((place / 16) as u32);
    }
    uuid::Uuid::from_bytes(bytes).to_string()
}

/// What identifies a lease in a call.
#[derive(Clone, Debug)]
pub struct Key {
    pub task_id: String,
    pub owner_id: String,
    pub fencing_token: i64,
}

/// The lease of a claimed saga.
pub fn key(saga: &Saga) -> Key {
    let lease = saga.lease.as_ref().expect("the saga was claimed");
    Key { task_id: saga.task_id.clone(), owner_id: lease.owner_id.clone(), fencing_token: lease.fencing_token }
}

/// Requests under a lease.
macro_rules! under_lease {
    ($($name:ident($($argument:ident: $type:ty),*) -> $request:ident { $($field:ident: $value:expr),* },)*) => {
        $(
            pub fn $name(&self $(, $argument: $type)*) -> $request {
                $request {
                    task_id: self.task_id.clone(),
                    owner_id: self.owner_id.clone(),
                    fencing_token: self.fencing_token,
                    $($field: $value,)*
                    ..Default::default()
                }
            }
        )*
    };
}

impl Key {
    under_lease! {
        heartbeat() -> HeartbeatRequest {},
        keep_alive() -> KeepAliveRequest {},
        release() -> ReleaseRequest {},
        register(kinds: &[&str]) -> RegisterCompensationRequest {
            compensations: kinds.iter().map(|kind| compensation(kind)).collect()
        },
        complete() -> CompleteRequest {},
        fail(reason: &str) -> FailRequest { reason: reason.into() },
        record(position: i32, outcome: CompensationOutcome) -> RecordCompensationRequest {
            position: position,
            outcome: outcome.into()
        },
        compensate() -> CompensateRequest {},
        quarantine(reason: &str) -> QuarantineRequest { reason: reason.into() },
    }
}
