//! A worker's calls over one session, which costs both sides less than separate calls. If the coordinator has no
//! sessions, each call is made by itself.
//!
//! A client has at most one session, opened with the first call that can use it, and again when it has ended. A
//! `ClaimNext` that waits is always a separate call: only then can it be cancelled before it is given anything.

use std::{collections::HashMap, fmt, time::Duration};

use http::HeaderValue;
use prost::Message;
use tokio::sync::{Mutex, mpsc, oneshot};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::{AuthenticatedChannel, convert, time::Moment};
use crate::proto::{
    self, SessionRequest, SessionResponse, saga_service_client::SagaServiceClient, session_request::Call,
    session_response::Result as SessionResult,
};

/// Most unanswered calls of one session: the coordinator's default. Further ones wait here.
pub(super) const CALLS: usize = 256;
/// How long a coordinator without sessions is not asked for one again: it may have been updated since.
pub(super) const WITHOUT: Duration = Duration::from_secs(300);
/// How long a coordinator with too many sessions is not asked again.
pub(super) const CROWDED: Duration = Duration::from_secs(30);
/// Longest `timeout` of an item.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// A call that can be made over a session.
pub trait WorkerCall: Clone + Send + 'static {
    /// What it is answered with.
    type Answer;

    /// The call as an item of a session.
    fn into_call(self) -> Call;

    /// Its answer from an item's result; none: it is the answer to another call.
    fn answer(outcome: SessionResult) -> Option<Self::Answer>;

    /// Makes the call by itself.
    fn by_itself(
        sagas: SagaServiceClient<AuthenticatedChannel>,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! worker_calls {
    ($($kind:ident $rpc:ident $request:ident $response:ident;)*) => {
        $(
            impl WorkerCall for proto::$request {
                type Answer = proto::$response;

                fn into_call(self) -> Call {
                    Call::$kind(self)
                }

                fn answer(outcome: SessionResult) -> Option<Self::Answer> {
                    match outcome {
                        SessionResult::$kind(answer) => Some(answer),
                        _ => None,
                    }
                }

                async fn by_itself(
                    mut sagas: SagaServiceClient<AuthenticatedChannel>,
                    request: Request<Self>,
                ) -> Result<Response<Self::Answer>, Status> {
                    sagas.$rpc(request).await
                }
            }
        )*
    };
}

worker_calls! {
    Claim claim ClaimRequest ClaimResponse;
    ClaimNext claim_next ClaimNextRequest ClaimNextResponse;
    Heartbeat heartbeat HeartbeatRequest HeartbeatResponse;
    Release release ReleaseRequest ReleaseResponse;
    RegisterCompensation register_compensation RegisterCompensationRequest RegisterCompensationResponse;
    Complete complete CompleteRequest CompleteResponse;
    Fail fail FailRequest FailResponse;
    RecordCompensation record_compensation RecordCompensationRequest RecordCompensationResponse;
    Compensate compensate CompensateRequest CompensateResponse;
}

/// The session of a client.
#[derive(Default)]
pub(super) struct Sessions {
    pub(super) state: Mutex<SessionState>,
}

#[derive(Default)]
pub(super) enum SessionState {
    /// There is no session yet, or it has ended.
    #[default]
    None,
    Open(Session),
    /// The coordinator has no session for us.
    Without {
        until: Moment,
    },
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

/// A handle to an open session. When all handles are dropped, it ends after the last answer.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) calls: mpsc::Sender<SessionCall>,
    /// The credentials it was opened with; after a change another session is opened.
    pub(super) version: (u64, Option<HeaderValue>),
}

/// A queued call of a session.
pub(super) struct SessionCall {
    call: Call,
    timeout: Duration,
    answer: oneshot::Sender<Result<SessionResult, Status>>,
}

impl Session {
    pub(super) async fn ask(&self, call: Call, timeout: Duration) -> Result<SessionResult, Status> {
        let (answer, answered) = oneshot::channel();
        let ended = || Status::unknown("the session ended before the answer came");
        self.calls.send(SessionCall { call, timeout, answer }).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Sends calls and distributes answers until the session ends.
pub(super) async fn run(
    mut asked: mpsc::Receiver<SessionCall>,
    items: mpsc::Sender<SessionRequest>,
    mut answers: Streaming<SessionResponse>,
) {
    let mut waiting: HashMap<i64, oneshot::Sender<Result<SessionResult, Status>>> = HashMap::new();
    let mut items = Some(items);
    let mut call_id = 0;
    let end = loop {
        tokio::select! {
            asked = asked.recv(), if items.is_some() && waiting.len() < CALLS => match (asked, &items) {
                (Some(SessionCall { call, timeout, answer }), Some(sent)) => {
                    call_id += 1;
                    let timeout = Some(convert::to_proto(timeout.min(TIMEOUT_MAX)));
                    // There is always room: no more calls are sent than wait for answers.
                    if sent.try_send(SessionRequest { call_id, call: Some(call), timeout }).is_err() {
                        break None;
                    }
                    waiting.insert(call_id, answer);
                }
                // There will be no more calls.
                (None, _) | (_, None) => items = None,
            },
            answer = answers.message() => match answer {
                Ok(Some(SessionResponse { call_id, result })) => {
                    if let Some(caller) = waiting.remove(&call_id) {
                        // A caller that gave up is not told.
                        let _ = caller.send(result_of(result));
                    }
                }
                Ok(None) => break None,
                Err(status) => break Some(status),
            },
        }
    };
    let status = end_of(end);
    for (_, caller) in waiting {
        let _ = caller.send(Err(status.clone()));
    }
    // Calls that were not sent get the same status.
    asked.close();
    while let Ok(SessionCall { answer, .. }) = asked.try_recv() {
        let _ = answer.send(Err(status.clone()));
    }
}

fn result_of(result: Option<SessionResult>) -> Result<SessionResult, Status> {
    match result {
        Some(SessionResult::Error(error)) => {
            let details = error.encode_to_vec().into();
            Err(Status::with_details(error.code.into(), error.message, details))
        }
        Some(outcome) => Ok(outcome),
        None => Err(Status::internal("an answer without a result")),
    }
}

/// The status of calls whose session ended before they were answered. A coordinator that ends a session first answers
/// all calls that it accepted, so its status holds for the others: they did not happen. After any other end it is not
/// known whether they did.
fn end_of(end: Option<Status>) -> Status {
    match end {
        None => Status::unknown("the session ended before the answer came"),
        Some(status) if status.get_details_error_info().is_none() => status,
        Some(status) => match status.code() {
            Code::Unavailable | Code::Unauthenticated => status,
            // The status concerns another call of the session.
            _ => Status::unknown(format!("the session ended before the answer came: {}", status.message())),
        },
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::client::{CallEffect, StatusDetails};

    fn judged(code: Code, reason: &str) -> Status {
        Status::with_error_details(code, "no", ErrorDetails::with_error_info(reason, "sagad", HashMap::new()))
    }

    #[test]
    fn what_a_session_ended_with_tells_whether_its_calls_happened() {
        let happened = |end: Option<Status>| StatusDetails::from(&end_of(end)).happened;
        assert_eq!(happened(Some(judged(Code::Unavailable, "SHUTTING_DOWN"))), CallEffect::NotNow);
        assert_eq!(happened(Some(judged(Code::Unauthenticated, "UNAUTHENTICATED"))), CallEffect::Refused);
        assert_eq!(happened(Some(judged(Code::InvalidArgument, "INVALID_ARGUMENT"))), CallEffect::Unknown);
        assert_eq!(happened(Some(Status::unavailable("the connection broke"))), CallEffect::Unknown);
        assert_eq!(happened(None), CallEffect::Unknown);
    }

    #[test]
    fn an_items_error_is_a_status_with_its_details() {
        let unary = judged(Code::Aborted, "LEASE_EXPIRED");
        let error = tonic_types::Status::decode(unary.details()).expect("what gRPC sends");
        let told = result_of(Some(SessionResult::Error(error))).expect_err("an error");
        let refusal = StatusDetails::from(&told);
        assert_eq!((refusal.code, refusal.reason.as_str(), refusal.judged), (Code::Aborted, "LEASE_EXPIRED", true));
    }
}
