//! [`RecordedClient`]: a client that records its calls, repeats unanswered ones, and records unknown outcomes as such.

use std::{future::Future, time::Duration};

use sagad::proto::{saga_service_client::SagaServiceClient, *};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::checker::recorder::{CallOutcome, Purpose, RecordedOp, Recorder};

pub type Sagas = SagaServiceClient<Channel>;

/// The timeout of one sending.
const SENDING: Duration = Duration::from_millis(1500);
/// The number of sendings before the caller gives up.
const SENDINGS: usize = 30;
/// The queue of all sagas.
const QUEUE: &str = "q";
/// The length of all leases.
pub const TTL: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub struct RecordedClient {
    pub sagas: Sagas,
    pub recorder: Recorder,
    pub owner: String,
}

/// A lease and its holder's knowledge of the saga.
pub struct HeldLease {
    pub task: String,
    pub token: i64,
    pub purpose: Purpose,
    /// The positions of pending compensations.
    pub open: Vec<i32>,
}

impl HeldLease {
    fn of(saga: &Saga) -> Self {
        let lease = saga.lease.clone().unwrap_or_default();
        let undo = lease.purpose() == LeasePurpose::Compensate;
        let open = saga.compensations.iter().filter(|c| c.state() != CompensationState::Done).map(|c| c.position);
        HeldLease {
            task: saga.task_id.clone(),
            token: lease.fencing_token,
            purpose: if undo { Purpose::Compensate } else { Purpose::Execute },
            open: open.collect(),
        }
    }
}

fn wire(purpose: Purpose) -> i32 {
    match purpose {
        Purpose::Execute => LeasePurpose::Execute.into(),
        Purpose::Compensate => LeasePurpose::Compensate.into(),
    }
}

/// The reason, if the coordinator refused the call, which then did not happen.
fn refusal(status: &Status) -> Option<String> {
    let certain = !matches!(status.code(), Code::Unknown | Code::DataLoss | Code::Internal);
    status.get_error_details().error_info().map(|info| info.reason.clone()).filter(|_| certain)
}

fn state_name(saga: &Saga) -> String {
    saga.state().as_str_name().trim_start_matches("SAGA_STATE_").to_owned()
}

fn told(saga: Option<Saga>) -> CallOutcome {
    let saga = saga.expect("the answer carries the saga");
    let token = saga.lease.as_ref().map_or(0, |lease| lease.fencing_token);
    CallOutcome::Ok { state: state_name(&saga), token, revision: saga.revision }
}

fn ttl() -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 0, nanos: TTL.as_nanos() as i32 })
}

/// Sends a call until it is answered. A refusal after a sending with an unknown outcome leaves the outcome unknown.
async fn until_answered<T, F>(send: impl FnMut() -> F, sendings: usize) -> Result<T, CallOutcome>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    answered_or_not(send, sendings).await.map(|(answer, _)| answer)
}

/// The same; also returns true if the outcome of an earlier sending is unknown.
async fn answered_or_not<T, F>(mut send: impl FnMut() -> F, sendings: usize) -> Result<(T, bool), CallOutcome>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut ambiguous = false;
    for _ in 0..sendings {
        match tokio::time::timeout(SENDING, send()).await {
            Ok(Ok(answer)) => return Ok((answer.into_inner(), ambiguous)),
            Ok(Err(status)) => match refusal(&status) {
                Some(reason) if ["SHUTTING_DOWN", "OVERLOADED", "STORE_UNAVAILABLE"].contains(&reason.as_str()) => {}
                Some(_) if ambiguous => return Err(CallOutcome::Unknown),
                Some(reason) => return Err(CallOutcome::Refused { reason }),
                None => ambiguous = true,
            },
            Err(_) => ambiguous = true,
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Err(CallOutcome::Unknown)
}

fn spec(target: &str) -> CompensationSpec {
    CompensationSpec { kind: "undo".into(), target: target.into(), reason: "made".into() }
}

/// Calls under a lease, with their fields beside the lease.
macro_rules! under_lease {
    ($($name:ident($rpc:ident: $request:ident $(, $argument:ident: $type:ty)*)
        { $($field:ident: $value:expr),* } RecordedOp::$op:ident { $($known:ident),* };)*) => {
        $(
            #[allow(clippy::needless_update, reason = "some requests have more fields than these")]
            pub async fn $name(&self, task: &str, token: i64 $(, $argument: $type)*) -> CallOutcome {
                let request = $request {
                    task_id: task.to_owned(),
                    owner_id: self.owner.clone(),
                    fencing_token: token,
                    request_id: Self::request_id(),
                    $($field: $value,)*
                    ..$request::default()
                };
                let send = || {
                    let (mut sagas, request) = (self.sagas.clone(), request.clone());
                    async move { sagas.$rpc(request).await }
                };
                let work = async { Ok(told(until_answered(send, SENDINGS).await?.saga)) };
                self.recorded(task, RecordedOp::$op { token $(, $known)* }, work).await
            }
        )*
    };
}

impl RecordedClient {
    fn request_id() -> String {
        uuid::Uuid::new_v4().to_string()
    }

    async fn recorded(
        &self,
        task: &str,
        op: RecordedOp,
        work: impl Future<Output = Result<CallOutcome, CallOutcome>>,
    ) -> CallOutcome {
        let open = self.recorder.begin(task, &self.owner, op);
        let outcome = work.await.unwrap_or_else(|error| error);
        self.recorder.end(open, outcome.clone());
        outcome
    }

    pub async fn create(&self, task: &str) -> CallOutcome {
        let request = CreateSagaRequest {
            task_id: task.to_owned(),
            queue: QUEUE.into(),
            compensations: vec![spec("made at first")],
            policy: Some(Policy { on_failure: FailureAction::Compensate.into(), ..Policy::default() }),
            request_id: Self::request_id(),
            ..CreateSagaRequest::default()
        };
        let sagas = self.sagas.clone();
        let send = || {
            let (mut sagas, request) = (sagas.clone(), request.clone());
            async move { sagas.create_saga(request).await }
        };
        self.recorded(task, RecordedOp::Create, async { Ok(told(until_answered(send, SENDINGS).await?.saga)) }).await
    }

    /// By its id.
    pub async fn claim(&self, task: &str, purpose: Purpose) -> Result<HeldLease, CallOutcome> {
        let request = ClaimRequest {
            task_id: task.to_owned(),
            owner_id: self.owner.clone(),
            ttl: ttl(),
            purpose: wire(purpose),
            request_id: Self::request_id(),
            ..ClaimRequest::default()
        };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.claim(request).await }
        };
        let open =
            self.recorder.begin(task, &self.owner, RecordedOp::Claim { ttl_us: TTL.as_micros() as i64, purpose });
        match until_answered(send, SENDINGS).await {
            Ok(answer) => {
                let held = answer.saga.as_ref().map(HeldLease::of);
                self.recorder.end(open, told(answer.saga));
                Ok(held.expect("the answer carries the saga"))
            }
            Err(outcome) => {
                self.recorder.end(open, outcome.clone());
                Err(outcome)
            }
        }
    }

    /// Claims any saga. If nothing is found after a sending with an unknown outcome, a saga may have been claimed by that one.
    pub async fn claim_next(&self, purpose: Purpose, wait: Duration) -> Option<HeldLease> {
        let request = ClaimNextRequest {
            queues: vec![QUEUE.into()],
            owner_id: self.owner.clone(),
            ttl: ttl(),
            wait: Some(prost_types::Duration { seconds: 0, nanos: wait.as_nanos() as i32 }),
            purpose: wire(purpose),
            request_id: Self::request_id(),
            ..ClaimNextRequest::default()
        };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.claim_next(request).await }
        };
        let open = self.recorder.begin("", &self.owner, RecordedOp::Claim { ttl_us: TTL.as_micros() as i64, purpose });
        let (mut answer, ambiguous) = match answered_or_not(send, SENDINGS).await {
            Ok((answer, ambiguous)) => (answer.sagas, ambiguous),
            Err(outcome) => {
                self.recorder.end(open, outcome);
                return None;
            }
        };
        let Some(saga) = answer.pop() else {
            let none = if ambiguous {
                CallOutcome::Unknown
            } else {
                CallOutcome::Refused { reason: "nothing to claim".into() }
            };
            self.recorder.end(open, none);
            return None;
        };
        let held = HeldLease::of(&saga);
        self.recorder.end(open.of(&held.task), told(Some(saga)));
        Some(held)
    }

    pub async fn heartbeat(&self, task: &str, token: i64) -> CallOutcome {
        let (task_id, owner_id) = (task.to_owned(), self.owner.clone());
        let request =
            HeartbeatRequest { task_id, owner_id, fencing_token: token, ttl: None, ..HeartbeatRequest::default() };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.heartbeat(request).await }
        };
        let work = async {
            let answer = until_answered(send, 1).await?;
            let token = answer.lease.map_or(0, |lease| lease.fencing_token);
            Ok(CallOutcome::Ok { state: String::new(), token, revision: 0 })
        };
        self.recorded(task, RecordedOp::Heartbeat { token }, work).await
    }

    under_lease! {
        release(release: ReleaseRequest) {} RecordedOp::Release {};
        complete(complete: CompleteRequest, result: String) { result: result.clone().into() } RecordedOp::Complete { result };
        register(register_compensation: RegisterCompensationRequest, target: &str) {
            compensations: vec![spec(target)]
        } RecordedOp::Register {};
        fail(fail: FailRequest) { reason: "it broke".into() } RecordedOp::Fail {};
        record(record_compensation: RecordCompensationRequest, position: i32, done: bool) {
            position: position,
            outcome: if done { CompensationOutcome::Done } else { CompensationOutcome::Failed }.into()
        } RecordedOp::Record { position, done };
        compensate(compensate: CompensateRequest) {} RecordedOp::Compensate {};
    }

    pub async fn get(&self, task: &str) -> CallOutcome {
        let request = GetSagaRequest { task_id: task.to_owned(), ..GetSagaRequest::default() };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.get_saga(request).await }
        };
        self.recorded(task, RecordedOp::Get, async { Ok(told(until_answered(send, 3).await?.saga)) }).await
    }
}
