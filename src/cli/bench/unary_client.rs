//! A client of the load that makes unary calls, as its mode says.

use std::{future::Future, time::Duration};

use tonic::{Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{args::Mode, load_client::LoadClient, sagas_ahead, totals::Rpc};
use crate::{
    cli::errors::CliError,
    client::{AuthenticatedChannel, LeaseKey, convert::to_proto},
    proto::{
        ClaimNextRequest, ClaimRequest, CompleteRequest, CreateSagaRequest, HeartbeatRequest, LeasePurpose,
        saga_service_client::SagaServiceClient,
    },
};

/// The pause after a failed call, so that an overloaded daemon is not called again at once.
pub const AFTER_AN_ERROR: Duration = Duration::from_millis(20);
/// A client that is behind its rate by more than this, in nanoseconds, doesn't catch up.
const BEHIND_MAX: u64 = 1_000_000_000;

/// Runs one client until the window is over or nothing is left to do.
///
/// # Errors
/// The lease that it heartbeats can't be taken.
pub async fn run(load_client: LoadClient) -> Result<(), CliError> {
    let mut unary = UnaryClient {
        sagas: load_client.client.sagas(),
        health: load_client.client.health(),
        lease: None,
        made: 0,
        load_client,
    };
    if unary.load_client.shared.plan.args.mode == Mode::Heartbeat {
        let task_id = unary.load_client.shared.pool.next().unwrap_or_default();
        let request = unary.claim(task_id);
        let saga = unary.sagas.claim(request).await?.into_inner().saga;
        unary.lease = saga.as_ref().and_then(LeaseKey::of);
    }
    let shared = unary.load_client.shared.clone();
    let window = &shared.window;
    window.ready();
    let mut pace = Pace::of(&unary.load_client);
    loop {
        pace.wait(window.now()).await;
        if window.is_over(window.now()) {
            return Ok(());
        }
        if !unary.turn().await {
            window.close();
            return Ok(());
        }
    }
}

/// When the next operation is due, if a rate was asked for.
struct Pace {
    /// Nanoseconds; zero: at once.
    interval: u64,
    next: u64,
}

impl Pace {
    fn of(load_client: &LoadClient) -> Self {
        let plan = &load_client.shared.plan;
        let changes = u64::from(plan.clients) * u64::from(plan.changes_a_turn());
        let interval = plan.args.rate.map_or(0, |rate| changes * 1_000_000_000 / u64::from(rate));
        // The clients start one after the other, not all at once.
        let next = load_client.shared.window.now() + interval / u64::from(plan.clients) * u64::from(load_client.number);
        Pace { interval, next }
    }

    async fn wait(&mut self, now: u64) {
        if self.interval == 0 {
            return;
        }
        if self.next > now {
            tokio::time::sleep(Duration::from_nanos(self.next - now)).await;
        }
        self.next = self.next.max(now.saturating_sub(BEHIND_MAX)) + self.interval;
    }
}

/// A client and its state.
struct UnaryClient {
    load_client: LoadClient,
    sagas: SagaServiceClient<AuthenticatedChannel>,
    health: HealthClient<AuthenticatedChannel>,
    /// The lease that it heartbeats.
    lease: Option<LeaseKey>,
    /// Sagas that it created.
    made: u64,
}

impl UnaryClient {
    /// Runs one operation; returns false if nothing is left to do.
    async fn turn(&mut self) -> bool {
        match self.load_client.shared.plan.args.mode {
            Mode::Cycle => return self.cycle().await,
            Mode::Claim => return self.claim_one().await.is_some(),
            Mode::ClaimNext => return self.claim_next().await,
            Mode::Create => self.create().await,
            Mode::Heartbeat => {
                if let Some(lease) = self.lease.clone() {
                    self.heartbeat(lease).await;
                }
            }
            Mode::Echo => {
                let mut health = self.health.clone();
                let call = health.check(HealthCheckRequest::default());
                timed(&self.load_client, Rpc::Check, call).await;
            }
            // These modes use streams.
            Mode::Keepalive | Mode::Session | Mode::Watch => return false,
        }
        true
    }

    async fn cycle(&mut self) -> bool {
        let Some(claimed) = self.claim_one().await else { return false };
        let Some(lease) = claimed else { return true };
        let LeaseKey { task_id, owner_id, fencing_token } = lease.clone();
        self.heartbeat(lease).await;
        let request_id = self.request_id();
        let request = CompleteRequest { task_id, owner_id, fencing_token, request_id, ..Default::default() };
        let call = self.sagas.complete(request);
        timed(&self.load_client, Rpc::Complete, call).await;
        true
    }

    /// Claims the next saga by its id. Nothing: none is left; else its lease, if the call succeeded.
    async fn claim_one(&mut self) -> Option<Option<LeaseKey>> {
        let task_id = self.load_client.shared.pool.next()?;
        let request = self.claim(task_id);
        let call = self.sagas.claim(request);
        let answer = timed(&self.load_client, Rpc::Claim, call).await;
        Some(answer.and_then(|answer| answer.saga.as_ref().and_then(LeaseKey::of)))
    }

    fn claim(&self, task_id: String) -> ClaimRequest {
        let ttl = Some(to_proto(self.load_client.shared.plan.ttl()));
        let (request_id, purpose) = (self.request_id(), self.purpose());
        ClaimRequest { task_id, owner_id: self.load_client.owner(), ttl, purpose, request_id, ..Default::default() }
    }

    async fn claim_next(&mut self) -> bool {
        let shared = &self.load_client.shared;
        let request = ClaimNextRequest {
            queues: vec![shared.pool.queue()],
            owner_id: self.load_client.owner(),
            ttl: Some(to_proto(shared.plan.ttl())),
            purpose: self.purpose(),
            compensation_kinds: shared.plan.args.undo.then(|| sagas_ahead::KIND.to_owned()).into_iter().collect(),
            request_id: self.request_id(),
            ..Default::default()
        };
        let call = self.sagas.claim_next(request);
        let answer = timed(&self.load_client, Rpc::ClaimNext, call).await;
        answer.is_none_or(|answer| !answer.sagas.is_empty())
    }

    async fn create(&mut self) {
        let shared = &self.load_client.shared;
        // Behind what was there before, each client in a stretch of its own: with ordered ids that is a place for each at
        // which it inserts, as with the UUIDv7 of as many machines.
        let n = shared.pool.total() + u64::from(self.load_client.number) * 100_000_000 + self.made;
        self.made += 1;
        let request = CreateSagaRequest {
            task_id: shared.pool.task_id(n),
            queue: shared.pool.queue(),
            request_id: self.request_id(),
            ..Default::default()
        };
        let call = self.sagas.create_saga(request);
        timed(&self.load_client, Rpc::CreateSaga, call).await;
    }

    async fn heartbeat(&mut self, lease: LeaseKey) {
        let LeaseKey { task_id, owner_id, fencing_token } = lease;
        let request = HeartbeatRequest { task_id, owner_id, fencing_token, ..Default::default() };
        let call = self.sagas.heartbeat(request);
        timed(&self.load_client, Rpc::Heartbeat, call).await;
    }

    /// What it claims for.
    fn purpose(&self) -> i32 {
        if self.load_client.shared.plan.args.undo {
            LeasePurpose::Compensate.into()
        } else {
            LeasePurpose::Execute.into()
        }
    }

    fn request_id(&self) -> String {
        self.load_client.request_id()
    }
}

/// One call, recorded if it lies within the window. Its answer, if it has one.
async fn timed<A>(
    load_client: &LoadClient,
    rpc: Rpc,
    call: impl Future<Output = Result<Response<A>, Status>>,
) -> Option<A> {
    let window = &load_client.shared.window;
    let start = window.now();
    match call.await {
        Ok(answer) => {
            let end = window.now();
            if window.covers(start, end) {
                load_client.totals.lock().record(rpc, end - start);
            }
            Some(answer.into_inner())
        }
        Err(status) => {
            load_client.totals.lock().failed(&status);
            tokio::time::sleep(AFTER_AN_ERROR).await;
            None
        }
    }
}
