//! A recorded client: it repeats what was not answered, and knows what it does not know.

use std::{future::Future, time::Duration};

use sagad::proto::{saga_service_client::SagaServiceClient, *};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::support_history::record::{Op, Outcome, Recorder};

pub type Sagas = SagaServiceClient<Channel>;

/// How long one sending may take.
const SENDING: Duration = Duration::from_millis(1500);
/// How often it is sent before the caller gives up.
const SENDINGS: usize = 30;
/// The lease that everybody asks for.
pub const TTL: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub struct Client {
    pub sagas: Sagas,
    pub recorder: Recorder,
    pub owner: String,
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
async fn until_answered<T, F>(mut send: impl FnMut() -> F, sendings: usize) -> Result<T, Outcome>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut ambiguous = false;
    for _ in 0..sendings {
        match tokio::time::timeout(SENDING, send()).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
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
        let task_id = task.to_owned();
        let request = CreateSagaRequest { task_id, request_id: Self::request_id(), ..CreateSagaRequest::default() };
        let sagas = self.sagas.clone();
        let send = || {
            let (mut sagas, request) = (sagas.clone(), request.clone());
            async move { sagas.create_saga(request).await }
        };
        self.recorded(task, Op::Create, async { Ok(told(until_answered(send, SENDINGS).await?.saga)) }).await
    }

    pub async fn claim(&self, task: &str) -> Outcome {
        let (task_id, owner_id) = (task.to_owned(), self.owner.clone());
        let request_id = Self::request_id();
        let request = ClaimRequest { task_id, owner_id, ttl: ttl(), request_id, ..ClaimRequest::default() };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.claim(request).await }
        };
        let op = Op::Claim { ttl_us: TTL.as_micros() as i64 };
        self.recorded(task, op, async { Ok(told(until_answered(send, SENDINGS).await?.saga)) }).await
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

    pub async fn release(&self, task: &str, token: i64) -> Outcome {
        let (task_id, owner_id) = (task.to_owned(), self.owner.clone());
        let request = ReleaseRequest { task_id, owner_id, fencing_token: token, ..ReleaseRequest::default() };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.release(request).await }
        };
        let work = async { Ok(told(until_answered(send, SENDINGS).await?.saga)) };
        self.recorded(task, Op::Release { token }, work).await
    }

    pub async fn complete(&self, task: &str, token: i64) -> Outcome {
        let (task_id, owner_id) = (task.to_owned(), self.owner.clone());
        let result = format!("by {token}");
        let bytes = result.clone().into_bytes().into();
        let request =
            CompleteRequest { task_id, owner_id, fencing_token: token, result: bytes, ..CompleteRequest::default() };
        let send = || {
            let (mut sagas, request) = (self.sagas.clone(), request.clone());
            async move { sagas.complete(request).await }
        };
        let work = async { Ok(told(until_answered(send, SENDINGS).await?.saga)) };
        self.recorded(task, Op::Complete { token, result }, work).await
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
