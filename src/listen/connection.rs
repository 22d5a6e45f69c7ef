//! [`Connection`]: an accepted connection after its handshake, as the HTTP/2 server reads and writes it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    deal::Seat,
    frames::Frames,
    lines::{Line, Lines},
    places::Place,
    tls::Stream,
};

/// What every HTTP/2 client sends first. (RFC 9113, section 3.4)
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long reading stops for each pause that [`ControlFrameLimiter`] asks for.
const PAUSE: Duration = Duration::from_millis(10);

/// Replays the preface, which the accept loop has already read, to the HTTP/2 server. Dropping it frees its permits.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Bytes of the preface that the server has read again.
    replayed: usize,
    frames: Frames,
    /// Nothing is read until it ends.
    pause: Option<Pin<Box<Sleep>>>,
    line: Arc<Line>,
    lines: Lines,
    _place: (Place, Seat),
}

impl Connection {
    /// Takes over a stream whose preface has been read, and lists the connection as open.
    pub(super) fn new(stream: Stream, line: Arc<Line>, place: (Place, Seat), lines: &Lines) -> Self {
        lines.add(&line);
        Connection {
            stream,
            replayed: 0,
            frames: Frames::new(),
            pause: None,
            line,
            lines: lines.clone(),
            _place: place,
        }
    }
}

impl Connection {
    /// Its shared state: other tasks read it, and cut the connection by it.
    pub fn line(&self) -> &Arc<Line> {
        &self.line
    }

    fn wrote(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        self.frames.wrote(*written.as_ref().unwrap_or(&0));
        written
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.lines.remove(&self.line);
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.line.whole()?;
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
                Poll::Pending => return this.line.park(cx),
            }
        }
        let filled = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                let pauses = this.frames.read(&buffer.filled()[filled..]);
                if pauses > 0 {
                    this.pause = Some(Box::pin(sleep(PAUSE.saturating_mul(pauses))));
                }
                Poll::Ready(read)
            }
            Poll::Pending => this.line.park(cx),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.line.whole()?;
        match Pin::new(&mut this.stream).poll_write(cx, bytes) {
            Poll::Ready(written) => Poll::Ready(this.wrote(written)),
            Poll::Pending => this.line.park(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.line.whole()?;
        match Pin::new(&mut this.stream).poll_write_vectored(cx, slices) {
            Poll::Ready(written) => Poll::Ready(this.wrote(written)),
            Poll::Pending => this.line.park(cx),
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
            Poll::Pending => this.line.park(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_shutdown(cx) {
            Poll::Ready(shut) => Poll::Ready(shut),
            Poll::Pending => this.line.park(cx),
        }
    }
}
