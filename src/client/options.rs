//! [`ClientOptions`]: how to reach the coordinator, and [`ConnectError`]: why that can't work.

use std::{path::PathBuf, time::Duration};

/// The daemon's default address.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:7420";

/// The default deadline of a unary call.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of a client. The defaults are those of a coordinator on the same machine that doesn't authenticate callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// `http://HOST:PORT`, `https://HOST:PORT`, or `unix:PATH`.
    pub server: String,
    /// The deadline of a unary call.
    pub timeout: Duration,
    /// PEM file with the CAs trusted to sign the coordinator's certificate; none: those of this machine. When this
    /// file or one of the next two changes, calls made a second later use a new connection with the new contents.
    pub ca: Option<PathBuf>,
    /// PEM file with the client's certificate.
    pub cert: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// File with a token on its first line. Read anew within a second when it changes.
    pub token_file: Option<PathBuf>,
    /// Send the token over `http://` to other machines too, where it can be read on the way.
    pub insecure_token: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            server: DEFAULT_SERVER.to_owned(),
            timeout: DEFAULT_TIMEOUT,
            ca: None,
            cert: None,
            key: None,
            token_file: None,
            insecure_token: false,
        }
    }
}

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
