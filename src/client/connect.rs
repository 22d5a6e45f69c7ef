//! [`Client`]: a channel to the coordinator: HTTP/2, plain or over TLS, without Nagle's delay, with pings that notice
//! a dead peer, and bounded messages.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::health_client::HealthClient;

use super::{
    credentials::{Channels, ClientOptions, Wire},
    session::Sessions,
};
use crate::proto::{admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient};

/// The daemon's default address.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7420";

/// The default deadline of a unary call.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The coordinator sends at most 3 MiB and accepts at most 2 MiB; the rest is for framing.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Connecting takes a round trip. If it takes longer than this, the address is wrong or the host is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that lost power sends nothing, so it is pinged. Both together bound how long a call waits for it.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no channel could be made. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address has a user or a password in it.
    #[error(
        "the coordinator's address has a user or a password in it, which it does not take: leave out what stands before the \
         @, and name a file with a token by --token-file or SAGAD_TOKEN_FILE"
    )]
    UserInfo,
    /// The address is neither `http://HOST:PORT` nor `https://HOST:PORT` nor `unix:PATH`.
    #[error("`{0}` is not an address of the form http://HOST:PORT, https://HOST:PORT or unix:PATH")]
    Address(String),
    /// A file with a certificate, a key or a token can't be used. Its content is not shown.
    #[error("{} {problem}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        problem: String,
    },
    /// An option that needs TLS was given without TLS.
    #[error("{0} is given, but the address is no https:// address")]
    NeedsTls(&'static str),
    /// A certificate without its key, or a key without its certificate.
    #[error("a certificate (--cert) and its key (--key) need each other")]
    HalfAPair,
    /// The token would be sent unencrypted to another machine.
    #[error(
        "a token is not sent over http:// to another machine, where it can be read on the way: use https://, or accept it \
         with --insecure-token"
    )]
    TokenInTheOpen,
    /// The certificates or the key are invalid.
    #[error("the certificates or the key can't be used: {0}")]
    Tls(String),
}

/// A client of the coordinator, cheap to clone. It connects with the first call, and again when needed.
#[derive(Clone, Debug)]
pub struct Client {
    wire: Wire,
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
        let channels = Arc::new(Channels::new(options.clone())?);
        let (_, uri) = options.endpoint()?;
        let token = options.token(&uri)?;
        let wire = Wire { channels, token, ready: None };
        let (server, sessions) = (options.server.clone(), Arc::default());
        Ok(Self { wire, server, timeout: options.timeout, sessions })
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
    pub fn sagas(&self) -> SagaServiceClient<Wire> {
        SagaServiceClient::new(self.wire.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `sagad.v1.AdminService`.
    pub fn admin(&self) -> AdminServiceClient<Wire> {
        AdminServiceClient::new(self.wire.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// `grpc.health.v1.Health`.
    pub fn health(&self) -> HealthClient<Wire> {
        HealthClient::new(self.wire.clone())
    }

    /// The channel, for calls that no generated client makes.
    pub(crate) fn wire(&self) -> Wire {
        self.wire.clone()
    }

    /// A unary request with this client's deadline, which the coordinator is told too.
    pub fn unary<T>(&self, message: T) -> Request<T> {
        with_timeout(message, self.timeout)
    }
}

impl ClientOptions {
    /// The validated endpoint, and the URI by which tokens and certificates are checked.
    fn endpoint(&self) -> Result<(Endpoint, Uri), ConnectError> {
        if !self.server.starts_with("unix:") && self.server.contains('@') {
            return Err(ConnectError::UserInfo);
        }
        let wrong = || ConnectError::Address(self.server.clone());
        let endpoint = Endpoint::from_shared(self.server.clone()).map_err(|_| wrong())?;
        // A Unix socket stays on this machine.
        let local = self.server.strip_prefix("unix:");
        let uri = if local.is_some() { Uri::from_static("http://localhost") } else { endpoint.uri().clone() };
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() || local == Some("") {
            return Err(wrong());
        }
        Ok((endpoint, uri))
    }

    /// A channel with the files as they are now; not connected yet.
    pub(super) fn channel(&self) -> Result<Channel, ConnectError> {
        let (mut endpoint, uri) = self.endpoint()?;
        if let Some(tls) = self.tls(&uri)? {
            endpoint = endpoint.tls_config(tls).map_err(|error| ConnectError::Tls(told(&error)))?;
        }
        Ok(endpoint
            .user_agent(concat!("sagad/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| ConnectError::Address(self.server.clone()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .connect_lazy())
    }
}

/// The innermost cause, which is the informative one.
fn told(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
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
