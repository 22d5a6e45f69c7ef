//! A recorded client: it repeats what was not answered, and knows what it does not know.

use std::{future::Future, time::Duration};

use sagad::proto::{saga_service_client::SagaServiceClient, *};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::checker::record::{Op, Outcome, Purpose, Recorder};

pub type Sagas = SagaServiceClient<Channel>;

/// How long one sending may take.
const SENDING: Duration = Duration::from_millis(1500);
/// How often it is sent before the caller gives up.
const SENDINGS: usize = 30;
/// Where all sagas are.
const QUEUE: &str = "q";
/// The lease that everybody asks for.
pub const TTL: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub struct Client {
    pub sagas: Sagas,
    pub recorder: Recorder,
    pub owner: String,
}

/// A lease, as its holder knows it.
pub struct Held {
    pub task: String,
    pub token: i64,
    pub purpose: Purpose,
    /// The positions of what is still to be undone.
    pub open: Vec<i32>,
}

impl Held {
    fn of(saga: &Saga) -> Self {
        let lease = saga.lease.clone().unwrap_or_default();
        let undo = lease.purpose() == LeasePurpose::Compensate;
        let open = saga.compensations.iter().filter(|c| c.state() != CompensationState::Done).map(|c| c.position);
        Held {
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

/// The contract's reason, if the coordinator refused: then it did not happen.
fn refusal(status: &Status) -> Option<String> {
    let certain = !matches!(status.code(), Code::Unknown | Code::DataLoss | Code::Internal);
    status.get_error_details().error_info().map(|info| info.reason.clone()).filter(|_| certain)
}

fn state_name(saga: &Saga) -> String {
    saga.state().as_str_name().trim_start_matches("SAGA_STATE_").to_owned()
}

fn told(saga: Option<Saga>) -> Outcome {
    let saga = saga.expect("the answer carries the saga");
    let token = saga.lease.as_ref().map_or(0, |lease| lease.fencing_token);
    Outcome::Ok { state: state_name(&saga), token, revision: saga.revision }
}

fn ttl() -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 0, nanos: TTL.as_nanos() as i32 })
}

/// Sends it until it is answered. What is refused after a sending whose fate is not known may have happened.
async fn until_answered<T, F>(send: impl FnMut() -> F, sendings: usize) -> Result<T, Outcome>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    answered_or_not(send, sendings).await.map(|(answer, _)| answer)
}

/// The same, with whether the fate of an earlier sending is not known.
async fn answered_or_not<T, F>(mut send: impl FnMut() -> F, sendings: usize) -> Result<(T, bool), Outcome>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut ambiguous = false;
    for _ in 0..sendings {
        match tokio::time::timeout(SENDING, send()).await {
            Ok(Ok(answer)) => return Ok((answer.into_inner(), ambiguous)),
            Ok(Err(status)) => match refusal(&status) {
                Some(reason) if ["SHUTTING_DOWN", "OVERLOADED", "STORE_UNAVAILABLE"].contains(&reason.as_str()) => {}
                Some(_) if ambiguous => return Err(Outcome::Unknown),
                Some(reason) => return Err(Outcome::Refused { reason }),
                None => ambiguous = true,
            },
            Err(_) => ambiguous = true,
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Err(Outcome::Unknown)
}

fn spec(target: &str) -> CompensationSpec {
    CompensationSpec { kind: "undo".into(), target: target.into(), reason: "made".into() }
}

/// Calls under a lease, each with what it says beyond whose it is.
macro_rules! under_lease {
    ($($name:ident($rpc:ident: $request:ident $(, $argument:ident: $type:ty)*)
        { $($field:ident: $value:expr),* } Op::$op:ident { $($known:ident),* };)*) => {
        $(
            #[allow(clippy::needless_update, reason = "some requests have more fields than these")]
            pub async fn $name(&self, task: &str, token: i64 $(, $argument: $type)*) -> Outcome {
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
                self.recorded(task, Op::$op { token $(, $known)* }, work).await
            }
        )*
    };
}

impl Client {
    fn request_id() -> String {
        uuid::Uuid::new_v4().to_string()
    }

    async fn recorded(&self, task: &str, op: Op, work: impl Future<Output = Result<Outcome, Outcome>>) -> Outcome {
        let open = self.recorder.begin(task, &self.owner, op);
        let outcome = work.await.unwrap_or_else(|error| error);
        self.recorder.end(open, outcome.clone());
        outcome
    }

    pub async fn create(&self, task: &str) -> Outcome {
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
        self.recorded(task, Op::Create, async { Ok(told(until_answered(send, SENDINGS).await?.saga)) }).await
    }

    /// By its id.
    pub async fn claim(&self, task: &str, purpose: Purpose) -> Result<Held, Outcome> {
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
        let open = self.recorder.begin(task, &self.owner, Op::Claim { ttl_us: TTL.as_micros() as i64, purpose });
        match until_answered(send, SENDINGS).await {
            Ok(answer) => {
                let held = answer.saga.as_ref().map(Held::of);
                self.recorder.end(open, told(answer.saga));
                Ok(held.expect("the answer carries the saga"))
            }
            Err(outcome) => {
                self.recorder.end(open, outcome.clone());
                Err(outcome)
            }
        }
    }

    /// Whichever is next. None found after a sending whose fate is not known: one may have been claimed, and lost again.
    pub async fn claim_next(&self, purpose: Purpose, wait: Duration) -> Option<Held> {
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
        let open = self.recorder.begin("", &self.owner, Op::Claim { ttl_us: TTL.as_micros() as i64, purpose });
        let (mut answer, ambiguous) = match answered_or_not(send, SENDINGS).await {
            Ok((answer, ambiguous)) => (answer.sagas, ambiguous),
            Err(outcome) => {
                self.recorder.end(open, outcome);
                return None;
            }
        };
        let Some(saga) = answer.pop() else {
            let none =
                if ambiguous { Outcome::Unknown } else { Outcome::Refused { reason: "nothing to claim".into() } };
            self.recorder.end(open, none);
            return None;
        };
        let held = Held::of(&saga);
        self.recorder.end(open.of(&held.task), told(Some(saga)));
        Some(held)
    }

    pub async fn heartbeat(&self, task: &str, token: i64) -> Outcome {
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
            Ok(Outcome::Ok { state: String::new(), token, revision: 0 })
        };
        self.recorded(task, Op::Heartbeat { token }, work).await
    }

    under_lease! {
        release(release: ReleaseRequest) {} Op::Release {};
        complete(complete: CompleteRequest, result: String) { result: result.clone().into() } Op::Complete { result };
        register(register_compensation: RegisterCompensationRequest, target: &str) {
            compensations: vec![spec(target)]
        } Op::Register {};
        fail(fail: FailRequest) { reason: "it broke".into() } Op::Fail {};
        record(record_compensation: RecordCompensationRequest, position: i32, done: bool) {
            position: position,
            outcome: if done { CompensationOutcome::Done } else { CompensationOutcome::Failed }.into()
        } Op::Record { position, done };
        compensate(compensate: CompensateRequest) {} Op::Compensate {};
    }

    pub async fn get(&self, task: &str) -> Outcome {
        let request = GetSagaRequest { task_id: task.to_owned(), ..GetSagaRequest::default() };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.get_saga(request).await }
        };
        self.recorded(task, Op::Get, async { Ok(told(until_answered(send, 3).await?.saga)) }).await
    }
}
