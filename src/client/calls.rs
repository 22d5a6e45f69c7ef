//! Calls of a [`Client`] with deadlines and retries, over its session if the coordinator has sessions.

use std::{future::Future, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    AuthenticatedChannel, Client, WorkerCall,
    connect::with_timeout,
    retry::{RetryOn, retry},
    session::{CALLS, CROWDED, Session, SessionState, WITHOUT, run},
    time::{self, Moment},
};
use crate::proto::saga_service_client::SagaServiceClient;

impl Client {
    /// Makes one call: over this client's session, or by itself if the coordinator has no sessions, or no place for
    /// one.
    ///
    /// ```no_run
    /// # use sagad::{client::{Client, LeaseKey}, proto::HeartbeatRequest};
    /// # async fn example(client: Client, lease: LeaseKey) -> Result<(), tonic::Status> {
    /// let LeaseKey { task_id, owner_id, fencing_token } = lease;
    /// let beat = HeartbeatRequest { task_id, owner_id, fencing_token, ..Default::default() };
    /// let answer = client.ask(beat, client.timeout()).await?;
    /// println!("{:?}", answer.directive());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for the unary call. `DEADLINE_EXCEEDED` after `timeout`.
    pub async fn ask<C: WorkerCall>(&self, call: C, timeout: Duration) -> Result<C::Answer, Status> {
        let give_up = time::now() + timeout;
        let over_session = async {
            match self.session().await? {
                None => Ok(None),
                Some(session) => session.ask(call.clone().into_call(), timeout).await.map(Some),
            }
        };
        match tokio::time::timeout(timeout, over_session).await {
            Ok(Ok(Some(outcome))) => {
                C::answer(outcome).ok_or_else(|| Status::internal("the answer is to another call"))
            }
            Ok(Ok(None)) => {
                let left = give_up.since(time::now());
                C::by_itself(self.sagas(), with_timeout(call, left)).await.map(Response::into_inner)
            }
            Ok(Err(status)) => Err(status),
            Err(_) => {
                // In case the session hangs, the next call doesn't use it.
                if let Ok(mut state) = self.sessions.state.try_lock() {
                    *state = SessionState::None;
                }
                Err(Status::deadline_exceeded("no answer came in time"))
            }
        }
    }

    /// Like [`Self::ask`], with retries until `give_up`, each try with this client's deadline.
    ///
    /// # Errors
    /// Of the last try.
    pub async fn ask_again<C: WorkerCall>(
        &self,
        call: C,
        retry_on: RetryOn,
        give_up: impl Fn() -> Moment,
    ) -> Result<C::Answer, Status> {
        retry(retry_on, give_up, || self.ask(call.clone(), self.timeout())).await
    }

    /// The session, opened if there is none; `None`: make calls by themselves.
    async fn session(&self) -> Result<Option<Session>, Status> {
        let mut state = self.sessions.state.lock().await;
        let version = self.channel().version();
        match &*state {
            SessionState::Open(session) if !session.calls.is_closed() && session.version == version => {
                return Ok(Some(session.clone()));
            }
            SessionState::Without { until } if time::now() < *until => return Ok(None),
            SessionState::Open(_) | SessionState::Without { .. } | SessionState::None => {}
        }
        let (items, sent) = mpsc::channel(CALLS);
        let opened = self.sagas().session(ReceiverStream::new(sent)).await;
        match opened {
            Ok(answers) => {
                let (calls, asked) = mpsc::channel(CALLS);
                tokio::spawn(run(asked, items, answers.into_inner()));
                let session = Session { calls, version };
                *state = SessionState::Open(session.clone());
                Ok(Some(session))
            }
            Err(status) => {
                let without = match status.code() {
                    // An older coordinator with authentication denies rpcs that it doesn't know.
                    Code::Unimplemented | Code::PermissionDenied => WITHOUT,
                    Code::ResourceExhausted => CROWDED,
                    _ => {
                        *state = SessionState::None;
                        return Err(status);
                    }
                };
                *state = SessionState::Without { until: time::now() + without };
                Ok(None)
            }
        }
    }
}

impl Client {
    /// Makes one `SagaService` call with retries until `give_up`, each try with this client's deadline.
    ///
    /// ```no_run
    /// # use sagad::client::{Client, retry::RetryOn, time};
    /// # use sagad::proto::GetStatsRequest;
    /// # async fn example(client: Client) -> Result<(), tonic::Status> {
    /// let give_up = time::now() + client.timeout();
    /// let stats = client
    ///     .call(GetStatsRequest {}, RetryOn::Unknown, || give_up, |mut sagas, request| async move {
    ///         sagas.get_stats(request).await
    ///     })
    ///     .await?;
    /// println!("{} ready", stats.ready);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn call<Q, A, F, Fut>(
        &self,
        request: Q,
        retry_on: RetryOn,
        give_up: impl Fn() -> Moment,
        method: F,
    ) -> Result<A, Status>
    where
        Q: Clone,
        F: Fn(SagaServiceClient<AuthenticatedChannel>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        retry(retry_on, give_up, || method(self.sagas(), with_timeout(request.clone(), self.timeout())))
            .await
            .map(Response::into_inner)
    }
}
