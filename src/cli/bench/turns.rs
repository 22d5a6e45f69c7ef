//! A client of the load that makes unary calls, as its mode says.

use std::{future::Future, time::Duration};

use tonic::{Response, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{ahead, args::Mode, load::Lane, record::Rpc};
use crate::{
    cli::errors::CliError,
    client::{LeaseKey, Wire, convert::to_proto},
    proto::{
        ClaimNextRequest, ClaimRequest, CompleteRequest, CreateSagaRequest, HeartbeatRequest, LeasePurpose,
        saga_service_client::SagaServiceClient,
    },
};

/// The pause after a failed call, so that an overloaded daemon is not called again at once.
const AFTER_AN_ERROR: Duration = Duration::from_millis(20);
/// A client that is behind its rate by more than this, in nanoseconds, doesn't catch up.
const BEHIND_MAX: u64 = 1_000_000_000;

/// Runs one client until the window is over or nothing is left to do.
///
/// # Errors
/// The lease that it heartbeats can't be taken.
pub async fn run(lane: Lane) -> Result<(), CliError> {
    let mut turns = Turns { sagas: lane.client.sagas(), health: lane.client.health(), lease: None, made: 0, lane };
    if turns.lane.shared.plan.mode == Mode::Heartbeat {
        let task_id = turns.lane.shared.stock.next().unwrap_or_default();
        let request = turns.claim(task_id);
        let saga = turns.sagas.claim(request).await?.into_inner().saga;
        turns.lease = saga.as_ref().and_then(LeaseKey::of);
    }
    let shared = turns.lane.shared.clone();
    let window = &shared.window;
    window.ready();
    let mut pace = Pace::of(&turns.lane);
    loop {
        pace.wait(window.now()).await;
        if window.is_over(window.now()) {
            return Ok(());
        }
        if !turns.turn().await {
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
    fn of(lane: &Lane) -> Self {
        let plan = &lane.shared.plan;
        let changes = u64::from(plan.clients) * u64::from(plan.changes_a_turn());
        let interval = plan.rate.map_or(0, |rate| changes * 1_000_000_000 / u64::from(rate));
        // The clients start one after the other, not all at once.
        let next = lane.shared.window.now() + interval / u64::from(plan.clients) * u64::from(lane.number);
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
struct Turns {
    lane: Lane,
    sagas: SagaServiceClient<Wire>,
    health: HealthClient<Wire>,
    /// The lease that it heartbeats.
    lease: Option<LeaseKey>,
    /// Sagas that it created.
    made: u64,
}

impl Turns {
    /// Runs one operation; returns false if nothing is left to do.
    async fn turn(&mut self) -> bool {
        match self.lane.shared.plan.mode {
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
                timed(&self.lane, Rpc::Check, call).await;
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
        timed(&self.lane, Rpc::Complete, call).await;
        true
    }

    /// Claims the next saga by its id. Nothing: none is left; else its lease, if the call succeeded.
    async fn claim_one(&mut self) -> Option<Option<LeaseKey>> {
        let task_id = self.lane.shared.stock.next()?;
        let request = self.claim(task_id);
        let call = self.sagas.claim(request);
        let answer = timed(&self.lane, Rpc::Claim, call).await;
        Some(answer.and_then(|answer| answer.saga.as_ref().and_then(LeaseKey::of)))
    }

    fn claim(&self, task_id: String) -> ClaimRequest {
        let ttl = Some(to_proto(self.lane.shared.plan.ttl()));
        let (request_id, purpose) = (self.request_id(), self.purpose());
        ClaimRequest { task_id, owner_id: self.lane.owner(), ttl, purpose, request_id, ..Default::default() }
    }

    async fn claim_next(&mut self) -> bool {
        let shared = &self.lane.shared;
        let request = ClaimNextRequest {
            queues: vec![shared.stock.queue()],
            owner_id: self.lane.owner(),
            ttl: Some(to_proto(shared.plan.ttl())),
            purpose: self.purpose(),
            compensation_kinds: shared.plan.undo.then(|| ahead::KIND.to_owned()).into_iter().collect(),
            request_id: self.request_id(),
            ..Default::default()
        };
        let call = self.sagas.claim_next(request);
        let answer = timed(&self.lane, Rpc::ClaimNext, call).await;
        answer.is_none_or(|answer| !answer.sagas.is_empty())
    }

    async fn create(&mut self) {
        let shared = &self.lane.shared;
        // Behind what was there before, each client in a stretch of its own: with ordered ids that is a place for each at
        // which it inserts, as with the UUIDv7 of as many machines.
        let n = shared.stock.total() + u64::from(self.lane.number) * 100_000_000 + self.made;
        self.made += 1;
        let request = CreateSagaRequest {
            task_id: shared.stock.task_id(n),
            queue: shared.stock.queue(),
            request_id: self.request_id(),
            ..Default::default()
        };
        let call = self.sagas.create_saga(request);
        timed(&self.lane, Rpc::CreateSaga, call).await;
    }

    async fn heartbeat(&mut self, lease: LeaseKey) {
        let LeaseKey { task_id, owner_id, fencing_token } = lease;
        let request = HeartbeatRequest { task_id, owner_id, fencing_token, ..Default::default() };
        let call = self.sagas.heartbeat(request);
        timed(&self.lane, Rpc::Heartbeat, call).await;
    }

    /// What it claims for.
    fn purpose(&self) -> i32 {
        if self.lane.shared.plan.undo { LeasePurpose::Compensate.into() } else { LeasePurpose::Execute.into() }
    }

    fn request_id(&self) -> String {
        self.lane.request_id()
    }
}

/// One call, recorded if it lies within the window. Its answer, if it has one.
async fn timed<A>(lane: &Lane, rpc: Rpc, call: impl Future<Output = Result<Response<A>, Status>>) -> Option<A> {
    let window = &lane.shared.window;
    let start = window.now();
    match call.await {
        Ok(answer) => {
            let end = window.now();
            if window.covers(start, end) {
                lane.tally.lock().record(rpc, end - start);
            }
            Some(answer.into_inner())
        }
        Err(status) => {
            lane.tally.lock().failed(&status);
            tokio::time::sleep(AFTER_AN_ERROR).await;
            None
        }
    }
}
