//! TLS: the handshake, the stream after it, and the client's certificate.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::CertificateDer},
    server::TlsStream,
};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The TLS configuration; cheap to clone. A replacement applies to later connections.
#[derive(Clone, Debug)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

/// A name in a certificate. The kinds are kept apart: a common name that looks like a URI is not a URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// The common name of a certificate without alternative names. If there are any it is ignored, because CAs check only
    /// those. (RFC 9525, section 2)
    Common(String),
    /// A DNS name among the alternative names.
    Dns(String),
    /// A URI among the alternative names.
    Uri(String),
}

/// A client's certificate, verified in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub names: Vec<CertificateName>,
    /// Expiry, in seconds since 1970.
    pub not_after: i64,
    /// The certificate and those sent with it, kept so that a reload can verify them again.
    pub chain: Vec<CertificateDer<'static>>,
}

/// The certificate of an open connection, and whether it is still valid.
#[derive(Debug)]
pub struct ConnectionCertificate {
    certificate: ClientCertificate,
    /// Cancelled when it has expired or was revoked.
    invalidated: CancellationToken,
    /// Ends the streams of its principal: cancelled with the principal or with the certificate.
    caller: Mutex<Option<CancellationToken>>,
}

impl ConnectionCertificate {
    pub(super) fn new(certificate: ClientCertificate) -> Self {
        ConnectionCertificate { certificate, invalidated: CancellationToken::new(), caller: Mutex::new(None) }
    }

    pub fn certificate(&self) -> &ClientCertificate {
        &self.certificate
    }

    /// Whether it has expired at `now`, in seconds since 1970.
    pub fn is_expired_at(&self, now: i64) -> bool {
        now > self.certificate.not_after
    }

    /// From now on calls with it are refused, and streams end.
    pub fn invalidate(&self) {
        self.invalidated.cancel();
        if let Some(caller) = self.caller.lock().take() {
            caller.cancel();
        }
    }

    /// Cancelled when the certificate is no longer valid.
    pub fn invalidated(&self) -> &CancellationToken {
        &self.invalidated
    }

    /// A token that is cancelled when the certificate becomes invalid or `principal` is cancelled.
    pub fn caller_token(&self, principal: &CancellationToken) -> CancellationToken {
        let mut caller = self.caller.lock();
        match &*caller {
            Some(before) if !before.is_cancelled() => before.clone(),
            Some(_) | None => {
                let token = principal.child_token();
                // `invalidate` cancels the stored token under this lock; if it ran before, cancel here.
                if self.invalidated.is_cancelled() {
                    token.cancel();
                }
                *caller = Some(token.clone());
                token
            }
        }
    }
}

/// The byte stream of one connection.
#[derive(Debug)]
pub(super) enum TransportStream {
    Plain(TcpStream),
    /// A Unix socket; never with TLS.
    Unix(UnixStream),
    /// Boxed, because it is several times as large as the others.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Tls {
    /// The configuration has to offer ALPN `h2`.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Tls(Arc::new(RwLock::new(config)))
    }

    /// Uses another configuration for later connections.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write() = config;
    }

    /// The configuration that new connections use.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.0.read().clone()
    }

    /// Does the handshake. A client that does not ask for HTTP/2 (ALPN `h2`) is refused.
    pub(super) async fn accept(
        config: Arc<ServerConfig>,
        stream: TcpStream,
    ) -> io::Result<(TransportStream, Option<ClientCertificate>)> {
        let acceptor = TlsAcceptor::from(config);
        let stream = acceptor.accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not ask for HTTP/2 (ALPN h2)"));
        }
        let certificate = session.peer_certificates().map(client_certificate).transpose()?;
        Ok((TransportStream::Tls(Box::new(stream)), certificate))
    }
}

fn client_certificate(chain: &[CertificateDer<'_>]) -> io::Result<ClientCertificate> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the peer's certificate can't be read");
    let first = chain.first().ok_or_else(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|_| unreadable())?;
    let names = match certificate.subject_alternative_name().map_err(|_| unreadable())? {
        Some(alternatives) => {
            let names = alternatives.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(CertificateName::Dns((*name).to_owned())),
                GeneralName::URI(name) => Some(CertificateName::Uri((*name).to_owned())),
                // IP and mail addresses and the like name no principal.
                _ => None,
            });
            names.collect()
        }
        None => {
            let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            // With several common names nobody can know which one the CA checked.
            let common: Vec<_> = common.collect();
            let one = (common.len() == 1).then_some(common).into_iter().flatten();
            one.map(|name| CertificateName::Common(name.to_owned())).collect()
        }
    };
    let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
    Ok(ClientCertificate { names, not_after: certificate.validity().not_after.timestamp(), chain })
}

impl AsyncRead for TransportStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TransportStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            TransportStream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            TransportStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for TransportStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TransportStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            TransportStream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            TransportStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TransportStream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            TransportStream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            TransportStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            TransportStream::Plain(stream) => stream.is_write_vectored(),
            TransportStream::Unix(stream) => stream.is_write_vectored(),
            TransportStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TransportStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            TransportStream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            TransportStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TransportStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            TransportStream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            TransportStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
