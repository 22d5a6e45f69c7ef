//! TLS in front of the preface: the handshake, what a connection then is, and who is at the other end.

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

/// What connections are made with; cheap to clone. What is replaced holds for connections that come after.
#[derive(Clone, Debug)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

/// A name in a certificate. Each kind is another one: a common name that reads like a URI is no URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// The common name of a certificate that has no alternative names. Beside them it counts for nothing: what CAs check are the
    /// alternative names. (RFC 9525, section 2)
    Common(String),
    /// An alternative name that is a host.
    Dns(String),
    /// An alternative name that is a URI.
    Uri(String),
}

/// The certificate of the peer, verified when the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it stands for.
    pub names: Vec<CertificateName>,
    /// When it runs out, in seconds since 1970.
    pub not_after: i64,
    /// It and those that were sent with it, so that they can be verified again.
    pub chain: Vec<CertificateDer<'static>>,
}

/// The certificate of an open connection, and whether it still holds.
#[derive(Debug)]
pub struct ShownCertificate {
    certificate: Certificate,
    /// Cancelled when it has run out, or was revoked.
    ended: CancellationToken,
    /// What the streams of its principal end by: cancelled with the principal, or with the certificate.
    caller: Mutex<Option<CancellationToken>>,
}

impl ShownCertificate {
    pub(super) fn new(certificate: Certificate) -> Self {
        ShownCertificate { certificate, ended: CancellationToken::new(), caller: Mutex::new(None) }
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether it ran out before this second since 1970.
    pub fn is_over(&self, now: i64) -> bool {
        now > self.certificate.not_after
    }

    /// From now on it stands for nobody: calls are refused, and streams end.
    pub fn end(&self) {
        self.ended.cancel();
        if let Some(caller) = self.caller.lock().take() {
            caller.cancel();
        }
    }

    /// Cancelled when it stands for nobody any more.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// What is cancelled when the certificate ends, and when `principal` is.
    pub fn caller(&self, principal: &CancellationToken) -> CancellationToken {
        let mut caller = self.caller.lock();
        match &*caller {
            Some(before) if !before.is_cancelled() => before.clone(),
            Some(_) | None => {
                let token = principal.child_token();
                // Whoever ends it cancels what is kept here, behind this lock.
                if self.ended.is_cancelled() {
                    token.cancel();
                }
                *caller = Some(token.clone());
                token
            }
        }
    }
}

/// One connection's bytes.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    /// Through the file system, which has no TLS either.
    Unix(UnixStream),
    /// It is several times as large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Tls {
    /// With this configuration, which has to offer `h2`.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Tls(Arc::new(RwLock::new(config)))
    }

    /// From now on with this one.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write() = config;
    }

    /// What connections are made with now.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.0.read().clone()
    }

    /// Shakes hands. A client that speaks TLS and does not ask for HTTP/2 is refused.
    pub(super) async fn accept(
        config: Arc<ServerConfig>,
        stream: TcpStream,
    ) -> io::Result<(Stream, Option<Certificate>)> {
        let acceptor = TlsAcceptor::from(config);
        let stream = acceptor.accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not ask for HTTP/2 (ALPN h2)"));
        }
        let certificate = session.peer_certificates().map(certificate).transpose()?;
        Ok((Stream::Tls(Box::new(stream)), certificate))
    }
}

fn certificate(chain: &[CertificateDer<'_>]) -> io::Result<Certificate> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the peer's certificate can't be read");
    let first = chain.first().ok_or_else(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|_| unreadable())?;
    let names = match certificate.subject_alternative_name().map_err(|_| unreadable())? {
        Some(alternatives) => {
            let names = alternatives.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(CertificateName::Dns((*name).to_owned())),
                GeneralName::URI(name) => Some(CertificateName::Uri((*name).to_owned())),
                // Addresses, mail addresses and the like stand for nobody.
                _ => None,
            });
            names.collect()
        }
        None => {
            let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            // With several, nobody knows which one its CA looked at.
            let common: Vec<_> = common.collect();
            let one = (common.len() == 1).then_some(common).into_iter().flatten();
            one.map(|name| CertificateName::Common(name.to_owned())).collect()
        }
    };
    let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
    Ok(Certificate { names, not_after: certificate.validity().not_after.timestamp(), chain })
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
