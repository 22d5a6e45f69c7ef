//! [`Session`]: a worker's session, from the client's side.

use prost::Message;
use sagad::proto::{session_request::Call, session_response::Result as Outcome, *};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Api, WAIT_MAX};

/// An open session.
pub struct Session {
    /// Sends items; none: the client has closed its side.
    pub items: Option<mpsc::Sender<SessionRequest>>,
    pub answers: Streaming<SessionResponse>,
    next_id: i64,
}

impl Session {
    pub async fn open(api: &Api) -> Self {
        Session::try_open(api).await.unwrap()
    }

    pub async fn try_open(api: &Api) -> Result<Self, Status> {
        Session::over(async |items| api.sagas.clone().session(items).await).await
    }

    /// Opens a session with any client.
    pub async fn over(
        open: impl AsyncFnOnce(ReceiverStream<SessionRequest>) -> Result<Response<Streaming<SessionResponse>>, Status>,
    ) -> Result<Self, Status> {
        let (items, sent) = mpsc::channel(1000);
        let answers = open(ReceiverStream::new(sent)).await?.into_inner();
        Ok(Session { items: Some(items), answers, next_id: 0 })
    }

    /// Sends an item; returns its `call_id`.
    pub async fn send(&mut self, call: Call) -> i64 {
        self.next_id += 1;
        self.send_as(SessionRequest { call_id: self.next_id, call: Some(call), timeout: None }).await
    }

    /// Sends an item as it is.
    pub async fn send_as(&mut self, item: SessionRequest) -> i64 {
        let call_id = item.call_id;
        self.items.as_ref().unwrap().send(item).await.unwrap();
        call_id
    }

    /// The next answer; none: the stream has ended without an error.
    pub async fn next(&mut self) -> Option<(i64, Result<Outcome, Status>)> {
        self.try_next().await.unwrap()
    }

    /// The next answer, or the error that ended the stream.
    pub async fn try_next(&mut self) -> Result<Option<(i64, Result<Outcome, Status>)>, Status> {
        let answer = timeout(WAIT_MAX, self.answers.message()).await.expect("an answer comes in time")?;
        Ok(answer.map(|SessionResponse { call_id, result }| match result.expect("it is never absent") {
            Outcome::Error(error) => {
                let details = error.encode_to_vec().into();
                (call_id, Err(Status::with_details(error.code.into(), error.message, details)))
            }
            outcome => (call_id, Ok(outcome)),
        }))
    }

    /// Makes one call and waits for its answer, while no other is open.
    pub async fn call(&mut self, call: Call) -> Result<Outcome, Status> {
        let sent = self.send(call).await;
        let (call_id, result) = self.next().await.unwrap();
        assert_eq!(call_id, sent);
        result
    }
}

/// The one saga of an answer.
pub fn saga_of(outcome: Outcome) -> Saga {
    let saga = match outcome {
        Outcome::Claim(answer) => answer.saga,
        Outcome::ClaimNext(mut answer) => answer.sagas.pop(),
        Outcome::Release(answer) => answer.saga,
        Outcome::RegisterCompensation(answer) => answer.saga,
        Outcome::Complete(answer) => answer.saga,
        Outcome::Fail(answer) => answer.saga,
        Outcome::RecordCompensation(answer) => answer.saga,
        Outcome::Compensate(answer) => answer.saga,
        Outcome::Heartbeat(_) | Outcome::Error(_) => None,
    };
    saga.expect("the answer has a saga")
}
