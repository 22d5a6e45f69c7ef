//! [`PlainClient`]: makes one call after the other until it is stopped, after the end of its round.

use std::{collections::BTreeSet, time::Duration};

use rand::random_range;
use sagad::proto::*;
use tokio_util::sync::CancellationToken;

use super::{
    TTL_MS,
    acknowledged_events::{AcknowledgedEvents, list},
    retrying_caller::{RetryingCaller, fresh},
};
use crate::support::{Key, claim, compensation, create, key, ms};

/// A client made of a generated stub.
#[derive(Clone)]
pub struct PlainClient {
    pub caller: RetryingCaller,
    pub acknowledged: AcknowledgedEvents,
    pub owner: String,
    pub stop: CancellationToken,
}

/// The queue of sagas that don't change, and their number.
pub const FIXED: &str = "fixed";
pub const FIXED_SAGAS: usize = 300;

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(random_range(5..120))).await;
}

impl PlainClient {
    /// Creates a saga with a generated id, so that a creation that happened twice would make two.
    pub async fn create(&self, request: CreateSagaRequest) -> String {
        let request = CreateSagaRequest { request_id: fresh(), ..request };
        let saga = self.caller.must(request, |api, r| async move { api.create_saga(r).await }).await;
        self.acknowledged.created(&saga.task_id);
        saga.task_id
    }

    /// Claims a saga by its id.
    pub async fn claim(&self, task_id: &str, purpose: LeasePurpose, ttl_ms: u64) -> Key {
        let request =
            ClaimRequest { purpose: purpose.into(), request_id: fresh(), ..claim(task_id, &self.owner, ttl_ms) };
        let key = key(&self.caller.must(request, |api, r| async move { api.claim(r).await }).await);
        self.acknowledged.add(task_id, EventType::Claimed, key.fencing_token);
        key
    }

    /// Sends some heartbeats; the lease must not be lost.
    async fn beat(&self, lease: &Key) {
        for _ in 0..random_range(1..5) {
            a_moment().await;
            let answer = self.caller.must(lease.heartbeat(), |api, r| async move { api.heartbeat(r).await }).await;
            assert_eq!(answer.lease.unwrap().fencing_token, lease.fencing_token);
        }
    }

    pub async fn complete(&self, lease: &Key) {
        let request = CompleteRequest { request_id: fresh(), ..lease.complete() };
        let saga = self.caller.must(request, |api, r| async move { api.complete(r).await }).await;
        assert_eq!(saga.state(), SagaState::Completed);
        self.acknowledged.add(&lease.task_id, EventType::Completed, lease.fencing_token);
    }

    /// Claims sagas by id and makes all kinds of calls under their leases.
    pub async fn work_by_id(self) {
        while !self.stop.is_cancelled() {
            let policy = Policy { on_failure: FailureAction::Compensate.into(), ..Default::default() };
            let request = CreateSagaRequest { queue: "by-id".into(), policy: Some(policy), ..Default::default() };
            let task_id = self.create(request).await;
            let mut lease = self.claim(&task_id, LeasePurpose::Execute, TTL_MS).await;
            self.beat(&lease).await;
            let request = RegisterCompensationRequest { request_id: fresh(), ..lease.register(&["a", "b"]) };
            self.caller.must(request, |api, r| async move { api.register_compensation(r).await }).await;
            for _ in 0..2 {
                self.acknowledged.add(&task_id, EventType::CompensationRegistered, lease.fencing_token);
            }
            if random_range(0..2) == 0 {
                let request = ReleaseRequest { request_id: fresh(), ..lease.release() };
                self.caller.must(request, |api, r| async move { api.release(r).await }).await;
                self.acknowledged.add(&task_id, EventType::Released, lease.fencing_token);
                lease = self.claim(&task_id, LeasePurpose::Execute, TTL_MS).await;
            }
            self.beat(&lease).await;
            if random_range(0..2) == 0 { self.complete(&lease).await } else { self.fail_and_undo(lease).await }
        }
    }

    async fn fail_and_undo(&self, lease: Key) {
        let task_id = lease.task_id.as_str();
        let request = FailRequest { request_id: fresh(), ..lease.fail("it broke") };
        self.caller.must(request, |api, r| async move { api.fail(r).await }).await;
        self.acknowledged.add(task_id, EventType::Compensating, lease.fencing_token);
        let lease = self.claim(task_id, LeasePurpose::Compensate, TTL_MS).await;
        self.beat(&lease).await;
        for (position, outcome) in
            [(2, CompensationOutcome::Failed), (2, CompensationOutcome::Done), (1, CompensationOutcome::Done)]
        {
            let request = RecordCompensationRequest { request_id: fresh(), ..lease.record(position, outcome) };
            let saga = self.caller.must(request, |api, r| async move { api.record_compensation(r).await }).await;
            assert_eq!(saga.compensations[1].attempts, 1, "a failed attempt is counted once");
            self.acknowledged.add(task_id, EventType::CompensationSettled, lease.fencing_token);
        }
        let request = CompensateRequest { request_id: fresh(), ..lease.compensate() };
        self.caller.must(request, |api, r| async move { api.compensate(r).await }).await;
        self.acknowledged.add(task_id, EventType::Compensated, lease.fencing_token);
    }

    /// Creates a saga in the common queue and claims one from it with a wait.
    pub async fn work_by_queue(self) {
        while !self.stop.is_cancelled() {
            self.create(CreateSagaRequest { queue: "common".into(), ..Default::default() }).await;
            let lease = loop {
                let request = ClaimNextRequest {
                    queues: vec!["common".into()],
                    owner_id: self.owner.clone(),
                    ttl: ms(TTL_MS),
                    wait: ms(2_000),
                    request_id: fresh(),
                    ..Default::default()
                };
                let sagas = self.caller.must(request, |api, r| async move { api.claim_next(r).await }).await;
                if let Some(saga) = sagas.first() {
                    break key(saga);
                }
            };
            self.acknowledged.add(&lease.task_id, EventType::Claimed, lease.fencing_token);
            self.beat(&lease).await;
            self.complete(&lease).await;
        }
    }

    /// Lets leases expire, and decides on the stale sagas.
    pub async fn let_leases_expire(self) {
        while !self.stop.is_cancelled() {
            let request = CreateSagaRequest { queue: "forgotten".into(), ..Default::default() };
            let task_id = self.create(request).await;
            let token = self.claim(&task_id, LeasePurpose::Execute, 100).await.fencing_token;
            loop {
                a_moment().await;
                let request = RecoverRequest {
                    task_id: task_id.clone(),
                    decision: RecoveryDecision::Quarantine.into(),
                    actor: self.owner.clone(),
                    reason: "it ran out".into(),
                    fencing_token: token,
                    request_id: fresh(),
                    ..Default::default()
                };
                match self.caller.call(request, |api, r| async move { api.recover(r).await }).await {
                    Ok(_) => break,
                    // Not stale yet, or in the grace.
                    Err(status) => assert_eq!(crate::support::Problem::of(&status).reason, "NOT_STALE"),
                }
            }
            for kind in [EventType::LeaseExpired, EventType::RecoveryDecided, EventType::Quarantined] {
                self.acknowledged.add(&task_id, kind, token);
            }
        }
    }

    /// Creates the sagas of the fixed queue.
    pub async fn make_fixed(&self) {
        let one = |n: usize| CreateSagaRequest {
            queue: FIXED.into(),
            compensations: vec![compensation("a")],
            ..create(&format!("fixed-{n}"))
        };
        let requests = (0..FIXED_SAGAS).map(one).collect();
        let request = BatchCreateSagasRequest { requests, request_id: fresh() };
        let sagas = self.caller.must(request, |api, r| async move { api.batch_create_sagas(r).await }).await;
        for saga in sagas {
            self.acknowledged.created(&saga.task_id);
        }
    }

    /// Lists them slowly, page by page: each must be listed once.
    pub async fn list(self) {
        while !self.stop.is_cancelled() {
            let mut request = ListSagasRequest { queues: vec![FIXED.into()], page_size: 25, ..Default::default() };
            let mut seen = BTreeSet::new();
            loop {
                let page = self.caller.must(request.clone(), |api, r| async move { api.list_sagas(r).await }).await;
                for saga in page.sagas {
                    assert!(seen.insert(saga.task_id), "listed twice");
                }
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
                a_moment().await;
            }
            assert_eq!(seen.len(), FIXED_SAGAS, "the list is incomplete");
        }
        assert_eq!(
            list(&self.caller, ListSagasRequest { queues: vec![FIXED.into()], ..Default::default() }).await.len(),
            FIXED_SAGAS
        );
    }
}
