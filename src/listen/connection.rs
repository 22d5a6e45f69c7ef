//! One greeted connection, and the list of all of them, by which they can be cut.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that has sent its preface. Its reader sees the preface again; its place is free when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// How much of the preface its reader has seen.
    replayed: usize,
    line: Arc<Line>,
    id: u64,
    lines: Lines,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Takes over a stream whose preface has been read.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit, lines: &Lines) -> Self {
        let (id, line) = lines.add();
        Connection { stream, peer, replayed: 0, line, id, lines: lines.clone(), _place: place }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.lines.0.open.lock().remove(&self.id);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.stream.local_addr().ok(), remote_addr: Some(self.peer) }
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
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => Poll::Ready(read),
            Poll::Pending => this.line.park(cx),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.line.whole()?;
        match Pin::new(&mut this.stream).poll_write(cx, bytes) {
            Poll::Ready(written) => Poll::Ready(written),
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
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending => this.line.park(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A TCP stream has nothing to flush, and its shutdown does not wait: neither needs to be cut.

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The state of one connection that others may change.
#[derive(Debug, Default)]
struct Line {
    cut: AtomicBool,
    /// The task that drives the connection: one and the same for both directions.
    waker: AtomicWaker,
}

impl Line {
    fn whole(&self) -> io::Result<()> {
        if self.cut.load(Ordering::Acquire) {
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut: the daemon is ending"))
        } else {
            Ok(())
        }
    }

    /// Pending, unless the line is cut: now, or with a wake-up later.
    fn park<T>(&self, cx: &Context<'_>) -> Poll<io::Result<T>> {
        self.waker.register(cx.waker());
        // It may have been cut between the first look and the registration.
        match self.whole() {
            Ok(()) => Poll::Pending,
            Err(cut) => Poll::Ready(Err(cut)),
        }
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// All greeted connections that are open.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Line>>>,
}

impl Lines {
    fn add(&self) -> (u64, Arc<Line>) {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let line = Arc::new(Line::default());
        self.0.open.lock().insert(id, line.clone());
        (id, line)
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.0.open.lock().len()
    }

    /// Ends all that are open, whatever their peers do: each one's next read or write fails, and one that waits fails
    /// now. Returns how many there were.
    pub fn cut_all(&self) -> usize {
        // Waking a task may drop its connection, which takes the lock.
        let lines: Vec<_> = self.0.open.lock().values().cloned().collect();
        for line in &lines {
            line.cut();
        }
        lines.len()
    }
}
