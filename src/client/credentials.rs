//! Credentials of a client: the CAs it trusts, its certificate, its token.

use std::{
    error::Error,
    fmt, fs,
    net::IpAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Uri, header::AUTHORIZATION};
use parking_lot::Mutex;
use tonic::{
    body::Body,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tower::Service;

use super::{
    options::{ClientOptions, ConnectError},
    time::{self, Moment},
};

/// How often files with a token, a certificate or a key are checked for changes while calls are made.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest token that the coordinator accepts.
const TOKEN_BYTES: usize = 1024;

impl ClientOptions {
    /// The principal that the token in the file names, if it is a token of `sagad token`.
    pub fn principal(&self) -> Option<String> {
        let token = read_token(self.token_file.as_deref()?).ok()?;
        let (name, _) = token.strip_prefix("sagad~")?.split_once('~')?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// A warning if everyone can read the file with the token.
    pub fn warning(&self) -> Option<String> {
        let file = self.token_file.as_ref()?;
        let mode = fs::metadata(file).ok()?.permissions().mode();
        let open = mode & 0o007 != 0;
        open.then(|| format!("everyone on this machine can read the token in {}: chmod 600", file.display()))
    }

    pub(super) fn tls(&self, uri: &Uri) -> Result<Option<ClientTlsConfig>, ConnectError> {
        let is_tls = uri.scheme_str() == Some("https");
        for (given, what) in [(&self.ca, "a CA"), (&self.cert, "a certificate"), (&self.key, "a key")] {
            if given.is_some() && !is_tls {
                return Err(ConnectError::NeedsTls(what));
            }
        }
        if !is_tls {
            return Ok(None);
        }
        let mut tls = match &self.ca {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => return Err(ConnectError::HalfAPair),
        }
        Ok(Some(tls))
    }

    pub(super) fn token(&self, uri: &Uri) -> Result<Option<Arc<TokenFile>>, ConnectError> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let plain = uri.scheme_str() != Some("https");
        if plain && !self.insecure_token && !is_loopback(uri.host().unwrap_or_default()) {
            return Err(ConnectError::TokenInTheOpen);
        }
        TokenFile::open(file).map(|file| Some(Arc::new(file)))
    }
}

/// True if the host is this machine, judging by its name or address.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn read(file: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(file)
        .map_err(|error| ConnectError::File { file: file.to_owned(), problem: format!("can't be read: {error}") })
}

fn read_token(file: &Path) -> Result<String, ConnectError> {
    let wrong = |problem: &str| ConnectError::File { file: file.to_owned(), problem: problem.to_owned() };
    let text = String::from_utf8(read(file)?).map_err(|_| wrong("holds no token: it is not text"))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() || token.len() > TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("holds no token on its first line"));
    }
    Ok(token.to_owned())
}

/// Connecting takes a round trip. If it takes longer than this, the address is wrong or the host is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that lost power sends nothing, so it is pinged. Both together bound how long a call waits for it.
const PING_INTERVAL: Duration = Duration::from_secs(5);

const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A token in a file, and its header.
pub(super) struct TokenFile {
    file: PathBuf,
    state: Mutex<(HeaderValue, Moment)>,
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile").field("file", &self.file).finish_non_exhaustive()
    }
}

impl TokenFile {
    fn open(file: &Path) -> Result<Self, ConnectError> {
        let header = header(file)?;
        Ok(TokenFile { file: file.to_owned(), state: Mutex::new((header, time::now())) })
    }

    /// The header with the current token. If the file can't be read just now, the header stays as it was.
    fn header(&self) -> HeaderValue {
        let mut state = self.state.lock();
        let now = time::now();
        if now.since(state.1) >= FILE_CHECK_INTERVAL {
            state.1 = now;
            if let Ok(header) = header(&self.file) {
                state.0 = header;
            }
        }
        state.0.clone()
    }
}

fn header(file: &Path) -> Result<HeaderValue, ConnectError> {
    let mut header = HeaderValue::try_from(format!("Bearer {}", read_token(file)?))
        .map_err(|_| ConnectError::File { file: file.to_owned(), problem: "holds no token".to_owned() })?;
    // Kept out of header compression and of debug output.
    header.set_sensitive(true);
    Ok(header)
}

/// Identifies a version of a file: modification time, size and inode. `None` if it doesn't exist.
type FileStamp = Option<(i64, i64, u64, u64)>;

fn stamp(file: &Path) -> FileStamp {
    let found = fs::metadata(file).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
}

impl ClientOptions {
    /// The validated endpoint, and the URI by which tokens and certificates are checked.
    pub(super) fn endpoint(&self) -> Result<(Endpoint, Uri), ConnectError> {
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

/// The channel to the coordinator, replaced when one of its files has changed: a renewed certificate is used long
/// before the old one expires, however long the connection would last.
pub(super) struct ReloadingChannel {
    options: ClientOptions,
    made: Mutex<OpenChannel>,
}

struct OpenChannel {
    channel: Channel,
    /// How often it was replaced.
    version: u64,
    stamps: Vec<FileStamp>,
    looked: Moment,
}

impl fmt::Debug for ReloadingChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("server", &self.options.server).finish_non_exhaustive()
    }
}

impl ReloadingChannel {
    /// To be called within a tokio runtime.
    pub fn new(options: ClientOptions) -> Result<Self, ConnectError> {
        // Taken before the files are read, so that a change in between is noticed.
        let stamps = options.stamps();
        let made = OpenChannel { channel: options.channel()?, version: 0, stamps, looked: time::now() };
        Ok(ReloadingChannel { options, made: Mutex::new(made) })
    }

    /// The channel with the files as they are. If they can't be used just now, or don't fit together yet, the channel
    /// stays as it was.
    fn current(&self) -> (Channel, u64) {
        let mut made = self.made.lock();
        let now = time::now();
        if !made.stamps.is_empty() && now.since(made.looked) >= FILE_CHECK_INTERVAL {
            made.looked = now;
            let stamps = self.options.stamps();
            if stamps != made.stamps
                && let Ok(channel) = self.options.channel()
            {
                *made = OpenChannel { channel, version: made.version + 1, stamps, looked: now };
            }
        }
        (made.channel.clone(), made.version)
    }
}

impl ClientOptions {
    /// The versions of the files that a connection uses.
    fn stamps(&self) -> Vec<FileStamp> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().map(|file| stamp(file)).collect()
    }
}

/// A channel that adds the token, if there is one, to each call.
#[derive(Debug)]
pub struct AuthenticatedChannel {
    pub(super) reloading: Arc<ReloadingChannel>,
    pub(super) token: Option<Arc<TokenFile>>,
    /// The channel that was polled ready for the next call. It is not kept longer, which would keep its connection
    /// open.
    pub(super) ready: Option<Channel>,
}

impl AuthenticatedChannel {
    /// Identifies the credentials in use: it changes when a file of the channel, or the token, has changed.
    pub(super) fn version(&self) -> (u64, Option<HeaderValue>) {
        (self.reloading.current().1, self.token.as_ref().map(|token| token.header()))
    }
}

impl Clone for AuthenticatedChannel {
    fn clone(&self) -> Self {
        AuthenticatedChannel { reloading: Arc::clone(&self.reloading), token: self.token.clone(), ready: None }
    }
}

impl Service<http::Request<Body>> for AuthenticatedChannel {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready.get_or_insert_with(|| self.reloading.current().0).poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.header());
        }
        let mut channel = self.ready.take().unwrap_or_else(|| self.reloading.current().0);
        channel.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> (tempfile::NamedTempFile, ClientOptions) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let options = ClientOptions { token_file: Some(file.path().to_owned()), ..ClientOptions::default() };
        (file, options)
    }

    #[test]
    fn a_token_stays_on_this_machine_or_under_tls() {
        let (_file, options) = token("sagad~ci~secret\n");
        let may = |server: &str, insecure_token| {
            let options = ClientOptions { insecure_token, ..options.clone() };
            options.token(&server.parse().unwrap()).is_ok()
        };
        for here in
            ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://example.org", "https://10.0.0.1"]
        {
            assert!(may(here, false), "{here}");
        }
        for away in
            ["http://10.0.0.1:1", "http://example.org", "http://localhost.example.org", "http://[2001:db8::1]:1"]
        {
            assert!(!may(away, false) && may(away, true), "{away}");
        }
        let shown = format!("{:?}", options.token(&"http://[::1]:1".parse().unwrap()).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
        assert_eq!(options.principal().as_deref(), Some("ci"));
    }

    #[test]
    fn what_is_no_token_is_told_without_being_shown() {
        for text in ["", "\n", "sagad~ci~secret with more", "sécret"] {
            let (_file, options) = token(text);
            let error = options.token(&"http://[::1]:1".parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("holds no token") && !error.contains("cret"), "{error}");
            assert_eq!(options.principal(), None);
        }
        let (file, options) = token("other");
        assert_eq!(options.warning(), None);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(options.warning().unwrap().contains("chmod 600"));
    }

    #[test]
    fn certificates_are_for_tls() {
        let options = ClientOptions { ca: Some("/ca".into()), ..ClientOptions::default() };
        let error = options.tls(&"http://[::1]:1".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("https://"), "{error}");
        let options = ClientOptions { cert: Some("/c".into()), ..ClientOptions::default() };
        let error = options.tls(&"https://[::1]:1".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ConnectError::HalfAPair));
    }
}
