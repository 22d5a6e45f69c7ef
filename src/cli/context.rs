//! What every client command works with: a connection, a deadline, and somewhere to write.

use std::future::Future;

use tonic::{Request, Response, Status};

use super::{
    errors::CliError,
    output::{Output, notice},
    tables,
};
use crate::{
    client::{
        AuthenticatedChannel, Client, ClientOptions,
        retry::{RetryOn, retry},
        time,
    },
    proto::{Saga, admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient},
};

/// A command's surroundings.
#[derive(Clone, Debug)]
pub struct Context {
    /// The coordinator.
    pub client: Client,
    /// How it is reached, and as whom.
    pub options: ClientOptions,
    /// Standard output.
    pub output: Output,
}

impl Context {
    /// A context for a coordinator; nothing is sent yet.
    pub fn new(options: ClientOptions, output: Output) -> Result<Self, CliError> {
        let client = Client::connect(&options).map_err(|error| CliError::Usage(error.to_string()))?;
        if let Some(warning) = options.warning() {
            notice(&format!("warning: {warning}"));
        }
        Ok(Self { client, options, output })
    }

    /// Shows the saga that a change answered with.
    pub fn saga(&self, saga: Option<Saga>) -> Result<(), CliError> {
        self.output.message(&saga.unwrap_or_default(), tables::summary)
    }

    /// One call to `SagaService`. A coordinator that says "not now" is asked again until the deadline; one that does
    /// not answer is reported at once, for a person is waiting.
    pub async fn call<Q, A, F, Fut>(&self, request: Q, method: F) -> Result<A, CliError>
    where
        Q: Clone,
        F: Fn(SagaServiceClient<AuthenticatedChannel>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let give_up = time::now() + self.client.timeout();
        Ok(self.client.call(request, RetryOn::NotNow, || give_up, method).await?)
    }

    /// The same for a change: should its outcome stay unknown, the error tells the id to repeat it with.
    pub async fn change<Q, A, F, Fut>(&self, request_id: &str, request: Q, method: F) -> Result<A, CliError>
    where
        Q: Clone,
        F: Fn(SagaServiceClient<AuthenticatedChannel>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        self.call(request, method).await.map_err(|error| error.repeatable_with(request_id))
    }

    /// One call to `AdminService`.
    pub async fn admin<Q, A, F, Fut>(&self, request: Q, method: F) -> Result<A, CliError>
    where
        Q: Clone,
        F: Fn(AdminServiceClient<AuthenticatedChannel>, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let give_up = time::now() + self.client.timeout();
        let call = || method(self.client.admin(), self.client.unary(request.clone()));
        Ok(retry(RetryOn::NotNow, || give_up, call).await?.into_inner())
    }
}
