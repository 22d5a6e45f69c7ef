//! [`Claimer`]: calls `ClaimNext` repeatedly. It waits for a coordinator that is away, and when it is told to stop it
//! gives back a lease that a broken-off call may have taken.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};
use uuid::Uuid;

use super::{
    CallEffect, Client, LeaseKey, Note, Notes, StatusDetails,
    connect::with_timeout,
    convert,
    retry::Backoff,
    time::{self, Moment},
};
use crate::proto::{ClaimNextRequest, ClaimNextResponse, LeasePurpose, ReleaseRequest, Saga};

/// The longest wait of one call in the coordinator; usually a third of the ttl. A lease granted at the end of the wait
/// then still has most of its length even if it is counted from the sending of the call, as it is if the coordinator
/// doesn't tell how long the call waited, and needs no confirmation.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The shortest wait, so that the coordinator is not asked too often when there is nothing to claim.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// How long cleaning up after a broken-off wait may take. A lease that it misses expires.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a claim.
pub(super) enum ClaimResult {
    /// Claimed sagas, whose leases did not begin before this moment. Empty: there is nothing to claim.
    Sagas(Vec<Saga>, Moment),
    /// It was told to stop.
    Stopped,
}

pub(super) struct Claimer {
    pub client: Client,
    pub queues: Vec<String>,
    pub owner_id: String,
    pub ttl: Duration,
    pub purpose: LeasePurpose,
    /// Only sagas whose pending compensations are all of these kinds; empty: any.
    pub kinds: Vec<String>,
    /// Whether to wait in the coordinator for something to claim.
    pub wait: bool,
    /// How long the coordinator may be away before that is an error; `None`: for ever.
    pub patience: Option<Duration>,
    pub notes: Notes,
}

impl Claimer {
    /// Claims up to `max` sagas; retries until the coordinator answers or `stop` is set. The coordinator's refusals
    /// are errors.
    pub async fn next(&self, max: usize, stop: &CancellationToken) -> Result<ClaimResult, Status> {
        let wait = if self.wait { (self.ttl / 3).clamp(WAIT_MIN, WAIT_MAX) } else { Duration::ZERO };
        let mut request = ClaimNextRequest {
            queues: self.queues.clone(),
            owner_id: self.owner_id.clone(),
            ttl: Some(convert::to_proto(self.ttl)),
            max_sagas: i32::try_from(max.min(100)).unwrap_or(100),
            wait: self.wait.then(|| convert::to_proto(wait)),
            purpose: self.purpose.into(),
            compensation_kinds: self.kinds.clone(),
            request_id: Uuid::new_v4().to_string(),
        };
        let asked = time::now();
        let mut backoff = Backoff::default();
        let mut away = false;
        loop {
            let answer = tokio::select! {
                biased;
                answer = self.ask(&request, wait) => answer,
                () = stop.cancelled() => {
                    self.give_back(&mut request).await;
                    return Ok(ClaimResult::Stopped);
                }
            };
            let status = match answer {
                Ok(answer) => {
                    if away {
                        (self.notes)(Note::Reachable);
                    }
                    let ClaimNextResponse { sagas, waited } = answer;
                    // The leases began when the wait was over. If the coordinator doesn't tell how long that was, they
                    // will be confirmed.
                    let waited = waited.as_ref().map(convert::from_proto).unwrap_or_default().min(wait);
                    return Ok(ClaimResult::Sagas(sagas, asked + waited));
                }
                Err(status) => status,
            };
            let refusal = StatusDetails::from(&status);
            let delay = backoff.delay().max(refusal.retry_after.unwrap_or_default());
            let spent = self.patience.is_some_and(|patience| (time::now() + delay).since(asked) > patience);
            if refusal.happened == CallEffect::Refused || spent {
                return Err(status);
            }
            if !away {
                away = true;
                (self.notes)(Note::Unreachable { reason: refusal.message });
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.cancelled() => {
                    self.give_back(&mut request).await;
                    return Ok(ClaimResult::Stopped);
                }
            }
        }
    }

    /// A call that waits is not made over the session, so that cancelling it takes it back.
    async fn ask(&self, request: &ClaimNextRequest, wait: Duration) -> Result<ClaimNextResponse, Status> {
        if wait.is_zero() {
            return self.client.ask(request.clone(), self.client.timeout()).await;
        }
        let call = with_timeout(request.clone(), wait + self.client.timeout());
        self.client.sagas().claim_next(call).await.map(Response::into_inner)
    }

    /// A cancelled call may have claimed. Repeating it with its `request_id` shows what it claimed, and that is
    /// released.
    async fn give_back(&self, request: &mut ClaimNextRequest) {
        request.wait = None;
        let cleanup = async {
            let mut sagas = self.client.sagas();
            let Ok(answer) = sagas.claim_next(with_timeout(request.clone(), CLEANUP_TIMEOUT)).await else { return };
            for key in answer.into_inner().sagas.iter().filter_map(LeaseKey::of) {
                let release = ReleaseRequest {
                    task_id: key.task_id,
                    owner_id: key.owner_id,
                    fencing_token: key.fencing_token,
                    delay: None,
                    reason: "the worker was told to stop before it began".to_owned(),
                    request_id: Uuid::new_v4().to_string(),
                    progress: None,
                };
                // A lease that is not released expires, so errors are ignored.
                sagas.release(with_timeout(release, CLEANUP_TIMEOUT)).await.ok();
            }
        };
        tokio::time::timeout(CLEANUP_TIMEOUT, cleanup).await.ok();
    }
}
