//! One channel to the coordinator: plain HTTP/2, no batching delay, pings that notice a dead peer, bounded messages.

use std::time::Duration;

use thiserror::Error;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;

use crate::proto::{admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7420";

/// The deadline of a unary call unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The coordinator sends at most 3 MiB and takes at most 2 MiB; the rest is room for framing.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Connecting takes a round trip; longer than this and the address is wrong or the host is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that lost power sends nothing, so it is asked: both together bound how long a call waits for it.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no channel could be made; nothing has been sent.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The address is not `http://HOST:PORT`.
    #[error("`{0}` is not an address of the form http://HOST:PORT")]
    Address(String),
}

/// A handle on the coordinator, cheap to clone. It connects with the first call, and again whenever it must.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    server: String,
    timeout: Duration,
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
        let wrong = || ConnectError::Address(server.to_owned());
        let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|_| wrong())?;
        if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
            return Err(wrong());
        }
        let channel = endpoint
            .user_agent(concat!("sagad/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| wrong())?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .connect_lazy();
        Ok(Self { channel, server: server.to_owned(), timeout })
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
    pub fn sagas(&self) -> SagaServiceClient<Channel> {
        SagaServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `sagad.v1.AdminService`.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `grpc.health.v1.Health`.
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
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
    async fn only_plain_http_addresses_are_taken() {
        for server in ["https://host:1", "host:7420", "", "http://", "ftp://host"] {
            assert!(Client::new(server, DEFAULT_TIMEOUT).is_err(), "{server}");
        }
        assert!(Client::new("http://[::1]:7420", DEFAULT_TIMEOUT).is_ok());
    }
}
