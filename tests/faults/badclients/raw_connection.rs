//! [`RawConnection`]: HTTP/2 frame by frame, so that it can be used wrongly (RFC 9113; header blocks as literals without
//! indexing, RFC 7541).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
    task::JoinHandle,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// An unknown kind.
pub const UNKNOWN: u8 = 0x77;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The error of a connection that asked for too much.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// `SETTINGS_INITIAL_WINDOW_SIZE`: how much the daemon may send on each stream.
pub const INITIAL_WINDOW: u16 = 4;

/// An rpc without a required field, whose answer is small.
pub const STATS: &str = "/sagad.v1.SagaService/GetStats";
/// A stream of calls.
pub const SESSION: &str = "/sagad.v1.SagaService/Session";
/// An rpc whose answer can be large.
pub const LIST: &str = "/sagad.v1.SagaService/ListSagas";
/// An rpc whose request can be large.
pub const BATCH: &str = "/sagad.v1.SagaService/BatchCreateSagas";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block with one field more than needed for each of `more`.
pub fn block(path: &str, more: &[(String, String)]) -> Vec<u8> {
    let needed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "daemon"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    needed.into_iter().chain(more.iter().map(|(name, value)| (&**name, &**value))).flat_map(field).collect()
}

/// One field of a header block.
pub fn field((name, value): (&str, &str)) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "the length is one byte");
        field.push(text.len() as u8);
        field.extend(text.as_bytes());
    }
    field
}

/// A message with gRPC's prefix.
pub fn message(content: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend((content.len() as u32).to_be_bytes());
    message.extend(content);
    message
}

/// Opens the connection's window to the maximum.
pub fn wide_open() -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())
}

/// Counts of what the daemon has sent.
#[derive(Debug, Default)]
pub struct ReceivedFrames {
    pub headers: AtomicU64,
    pub resets: AtomicU64,
    pub data_bytes: AtomicU64,
    /// Answers to our pings.
    pub pongs: AtomicU64,
    /// What it added to the windows of streams.
    pub window: AtomicU64,
    pub goaway: AtomicBool,
    /// The error code of GOAWAY.
    pub goaway_code: AtomicU32,
    pub closed: AtomicBool,
}

/// A connection that has sent the preface.
pub struct RawConnection {
    pub seen: Arc<ReceivedFrames>,
    write: Arc<Mutex<OwnedWriteHalf>>,
    unread: Option<OwnedReadHalf>,
    reading: Option<JoinHandle<()>>,
    next: u32,
}

impl RawConnection {
    /// Connects with the default settings and does not read.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        RawConnection::with(address, &[]).await
    }

    /// Connects with these settings and does not read.
    pub async fn with(address: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let settings: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()).await?;
        let write = Arc::new(Mutex::new(write));
        Ok(RawConnection { seen: Arc::default(), write, unread: Some(read), reading: None, next: 1 })
    }

    /// Reads what the daemon sends from now on.
    pub fn reading(mut self) -> Self {
        let (seen, write) = (self.seen.clone(), self.write.clone());
        let read = self.unread.take().unwrap();
        self.reading = Some(tokio::spawn(async move {
            let _ = read_frames(read, &write, &seen).await;
            seen.closed.store(true, Relaxed);
        }));
        self
    }

    /// Sends encoded frames.
    pub async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.write.lock().await.write_all(frames).await
    }

    /// The number of a new stream.
    pub fn stream(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    /// Begins a call without sending its message.
    pub async fn begin(&mut self, path: &str) -> io::Result<u32> {
        let stream = self.stream();
        self.send(&frame(HEADERS, END_HEADERS, stream, &block(path, &[]))).await?;
        Ok(stream)
    }

    /// Sends a complete call.
    pub async fn call(&mut self, path: &str, content: &[u8]) -> io::Result<u32> {
        let stream = self.stream();
        let mut frames = frame(HEADERS, END_HEADERS, stream, &block(path, &[]));
        frames.extend(frame(DATA, END_STREAM, stream, &message(content)));
        self.send(&frames).await?;
        Ok(stream)
    }

    /// True if the daemon has ended the connection.
    pub fn is_over(&self) -> bool {
        self.seen.closed.load(Relaxed)
    }
}

impl Drop for RawConnection {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

/// Reads frames until the end, and answers pings.
async fn read_frames(mut read: OwnedReadHalf, write: &Mutex<OwnedWriteHalf>, seen: &ReceivedFrames) -> io::Result<()> {
    let mut payload = vec![0; 16 << 10];
    loop {
        let mut head = [0; 9];
        read.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = &mut payload[..length];
        read.read_exact(payload).await?;
        match head[3] {
            DATA => drop(seen.data_bytes.fetch_add(length as u64, Relaxed)),
            HEADERS => drop(seen.headers.fetch_add(1, Relaxed)),
            PING if head[4] == ACK => drop(seen.pongs.fetch_add(1, Relaxed)),
            // Pings are answered, so that the daemon does not close the connection for that reason.
            PING => write.lock().await.write_all(&frame(PING, ACK, 0, payload)).await?,
            RST_STREAM => drop(seen.resets.fetch_add(1, Relaxed)),
            WINDOW_UPDATE if head[5..] != [0; 4] => {
                let more = u32::from_be_bytes(payload[..4].try_into().unwrap());
                seen.window.fetch_add(more.into(), Relaxed);
            }
            GOAWAY => {
                seen.goaway_code.store(u32::from_be_bytes(payload[4..8].try_into().unwrap()), Relaxed);
                seen.goaway.store(true, Relaxed);
            }
            _ => {}
        }
    }
}
