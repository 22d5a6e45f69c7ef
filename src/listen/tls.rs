//! TLS in front of the preface: the handshake, what a connection then is, and who is at the other end.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::RwLock;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What connections are made with; cheap to clone. What is replaced holds for connections that come after.
#[derive(Clone, Debug)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

/// The certificate of the peer, verified when the connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its common name, and its alternative names that are hosts or URIs.
    pub names: Vec<String>,
    /// When it runs out, in seconds since 1970.
    pub not_after: i64,
}

/// One connection's bytes.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
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

    /// Shakes hands. A client that speaks TLS and does not ask for HTTP/2 is refused.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<(Stream, Option<Certificate>)> {
        let acceptor = TlsAcceptor::from(self.0.read().clone());
        let stream = acceptor.accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer does not ask for HTTP/2 (ALPN h2)"));
        }
        let certificate = session.peer_certificates().and_then(|chain| chain.first()).map(|der| certificate(der));
        let certificate = certificate.transpose()?;
        Ok((Stream::Tls(Box::new(stream)), certificate))
    }
}

fn certificate(der: &[u8]) -> io::Result<Certificate> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "the peer's certificate can't be read");
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| unreadable())?;
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    let alternatives = certificate.subject_alternative_name().map_err(|_| unreadable())?;
    for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::DNSName(name) | GeneralName::URI(name) = name {
            names.push((*name).to_owned());
        }
    }
    Ok(Certificate { names, not_after: certificate.validity().not_after.timestamp() })
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
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
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
