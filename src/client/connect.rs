//! [`Client`]: a channel to the coordinator: HTTP/2, plain or over TLS, without Nagle's delay, with pings that notice
//! a dead peer, and bounded messages.

use std::{sync::Arc, time::Duration};

use tonic::Request;
use tonic_health::pb::health_client::HealthClient;

pub use super::options::{ClientOptions, ConnectError, DEFAULT_SERVER, DEFAULT_TIMEOUT};
use super::{
    credentials::{AuthenticatedChannel, ReloadingChannel},
    session::Sessions,
};
use crate::proto::{admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient};

/// The coordinator sends at most 3 MiB and accepts at most 2 MiB; the rest is for framing.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// A client of the coordinator, cheap to clone. It connects with the first call, and again when needed.
#[derive(Clone, Debug)]
pub struct Client {
    channel: AuthenticatedChannel,
    server: String,
    timeout: Duration,
    pub(super) sessions: Arc<Sessions>,
}

impl Client {
    /// A client of the coordinator at `server` (`http://HOST:PORT`) whose unary calls end after `timeout`.
    /// To be called within a tokio runtime; nothing is sent yet.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
    /// use sagad::client::{Client, connect::{DEFAULT_SERVER, DEFAULT_TIMEOUT}};
    ///
    /// assert!(Client::new(DEFAULT_SERVER, DEFAULT_TIMEOUT).is_ok());
    /// assert!(Client::new("not an address", DEFAULT_TIMEOUT).is_err());
    /// # });
    /// ```
    pub fn new(server: &str, timeout: Duration) -> Result<Self, ConnectError> {
        Client::connect(&ClientOptions { server: server.to_owned(), timeout, ..ClientOptions::default() })
    }

    /// A client with credentials, over TLS if the address says so. To be called within a tokio runtime; files are read,
    /// and nothing is sent yet.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
    /// # let token = tempfile::NamedTempFile::new().expect("a file");
    /// # std::fs::write(token.path(), "sagad~ci~secret").expect("written");
    /// use sagad::client::{Client, ClientOptions};
    ///
    /// let options = ClientOptions {
    ///     server: "https://coordinator.example:7420".to_owned(),
    ///     // A file with what `sagad token` printed.
    ///     token_file: Some(token.path().to_owned()),
    ///     ..ClientOptions::default()
    /// };
    /// assert!(Client::connect(&options).is_ok());
    /// // Over plain HTTP a token does not leave the machine.
    /// let plain = ClientOptions { server: "http://coordinator.example:7420".to_owned(), ..options };
    /// assert!(Client::connect(&plain).is_err());
    /// # });
    /// ```
    pub fn connect(options: &ClientOptions) -> Result<Self, ConnectError> {
        let reloading = Arc::new(ReloadingChannel::new(options.clone())?);
        let (_, uri) = options.endpoint()?;
        let token = options.token(&uri)?;
        let channel = AuthenticatedChannel { reloading, token, ready: None };
        let (server, sessions) = (options.server.clone(), Arc::default());
        Ok(Self { channel, server, timeout: options.timeout, sessions })
    }

    /// The address as it was given.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The deadline of a unary call.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// `sagad.v1.SagaService`.
    pub fn sagas(&self) -> SagaServiceClient<AuthenticatedChannel> {
        SagaServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `sagad.v1.AdminService`.
    pub fn admin(&self) -> AdminServiceClient<AuthenticatedChannel> {
        AdminServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `grpc.health.v1.Health`.
    pub fn health(&self) -> HealthClient<AuthenticatedChannel> {
        HealthClient::new(self.channel.clone())
    }

    /// The channel, for calls that no generated client makes.
    pub(crate) fn channel(&self) -> AuthenticatedChannel {
        self.channel.clone()
    }

    /// A unary request with this client's deadline, which the coordinator is told too.
    pub fn unary<T>(&self, message: T) -> Request<T> {
        with_timeout(message, self.timeout)
    }
}

/// A request that ends after `timeout`.
pub fn with_timeout<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_http_addresses_are_taken() {
        for server in ["unix:", "grpc://host:1", "host:7420", "", "http://", "ftp://host"] {
            assert!(Client::new(server, DEFAULT_TIMEOUT).is_err(), "{server}");
        }
        for server in ["http://ann:hush@host:1", "ann:hush@host", "http://hush@host:1"] {
            let told = Client::new(server, DEFAULT_TIMEOUT).err().unwrap().to_string();
            assert!(!told.contains("hush") && told.contains("--token-file"), "{told}");
        }
        for server in ["http://[::1]:7420", "https://host:1", "unix:/run/sagad.sock"] {
            assert!(Client::new(server, DEFAULT_TIMEOUT).is_ok(), "{server}");
        }
    }
}
