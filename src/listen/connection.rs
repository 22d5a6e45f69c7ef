//! [`Connection`]: an accepted connection after its handshake, as the HTTP/2 server reads and writes it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    connection_limiter::ConnectionPermit,
    connections::{ConnectionState, Connections},
    control_frame_limiter::ControlFrameLimiter,
    tls::TransportStream,
};

/// What every HTTP/2 client sends first. (RFC 9113, section 3.4)
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long reading stops for each pause that [`ControlFrameLimiter`] asks for.
const READ_PAUSE: Duration = Duration::from_millis(10);

/// Counts one connection on its thread until it is dropped.
#[derive(Debug)]
pub(super) struct LoadGuard(Arc<AtomicUsize>);

impl LoadGuard {
    pub(super) fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        LoadGuard(load.clone())
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Replays the preface, which the accept loop has already read, to the HTTP/2 server. Dropping it frees its permits.
#[derive(Debug)]
pub struct Connection {
    stream: TransportStream,
    /// Bytes of the preface that the server has read again.
    replayed: usize,
    frame_limiter: ControlFrameLimiter,
    /// Nothing is read until it ends.
    pause: Option<Pin<Box<Sleep>>>,
    state: Arc<ConnectionState>,
    connections: Connections,
    _permits: (ConnectionPermit, LoadGuard),
}

impl Connection {
    /// Takes over a stream whose preface has been read, and lists the connection as open.
    pub(super) fn new(
        stream: TransportStream,
        state: Arc<ConnectionState>,
        permits: (ConnectionPermit, LoadGuard),
        connections: &Connections,
    ) -> Self {
        connections.add(&state);
        Connection {
            stream,
            replayed: 0,
            frame_limiter: ControlFrameLimiter::new(),
            pause: None,
            state,
            connections: connections.clone(),
            _permits: permits,
        }
    }
}

impl Connection {
    /// Its shared state: other tasks read it, and cut the connection by it.
    pub fn state(&self) -> &Arc<ConnectionState> {
        &self.state
    }

    fn on_written(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        self.frame_limiter.on_write(*written.as_ref().unwrap_or(&0));
        written
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.remove(&self.state);
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.state.check_open()?;
        if this.replayed < PREFACE.len() {
            let rest = &PREFACE[this.replayed..];
            let fits = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..fits]);
            this.replayed += fits;
            return Poll::Ready(Ok(()));
        }
        if let Some(pause) = &mut this.pause {
            match pause.as_mut().poll(cx) {
                Poll::Ready(()) => this.pause = None,
                Poll::Pending => return this.state.poll_cut(cx),
            }
        }
        let filled = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                let pauses = this.frame_limiter.on_read(&buffer.filled()[filled..]);
                if pauses > 0 {
                    this.pause = Some(Box::pin(sleep(READ_PAUSE.saturating_mul(pauses))));
                }
                Poll::Ready(read)
            }
            Poll::Pending => this.state.poll_cut(cx),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.state.check_open()?;
        match Pin::new(&mut this.stream).poll_write(cx, bytes) {
            Poll::Ready(written) => Poll::Ready(this.on_written(written)),
            Poll::Pending => this.state.poll_cut(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.state.check_open()?;
        match Pin::new(&mut this.stream).poll_write_vectored(cx, slices) {
            Poll::Ready(written) => Poll::Ready(this.on_written(written)),
            Poll::Pending => this.state.poll_cut(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A TCP stream has nothing to flush and its shutdown doesn't wait. A TLS stream does both: it may have encrypted
    // bytes left to write, and the peer may not read them.

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed),
            Poll::Pending => this.state.poll_cut(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_shutdown(cx) {
            Poll::Ready(shut) => Poll::Ready(shut),
            Poll::Pending => this.state.poll_cut(cx),
        }
    }
}
