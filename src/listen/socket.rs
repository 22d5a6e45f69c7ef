//! Listening sockets, TCP and Unix, and the connections that they accept.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use rustix::{fs::Mode, process::umask};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process on this machine, through a Unix socket.
    Unix,
}

impl Peer {
    /// The address that limits go by: for IPv6 the first 64 bits, since one host usually has a whole /64. None: a Unix
    /// socket.
    pub fn network(self) -> Option<IpAddr> {
        match self {
            Peer::Unix => None,
            Peer::Tcp(address) => Some(match address.ip().to_canonical() {
                IpAddr::V4(address) => address.into(),
                IpAddr::V6(address) => {
                    let [a, b, c, d, ..] = address.segments();
                    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
                }
            }),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => write!(f, "{address}"),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAddress::Tcp(address) => write!(f, "{address}"),
            LocalAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An accepted connection before anything was read from it.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One or more listening sockets, polled in turn.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    /// Which socket is polled first the next time, so that a flood on one doesn't starve the others.
    next: AtomicUsize,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl From<TcpListener> for Listeners {
    fn from(socket: TcpListener) -> Self {
        Listeners::of(vec![socket])
    }
}

impl Listeners {
    /// Takes one or more bound sockets.
    pub fn of(sockets: Vec<TcpListener>) -> Self {
        Listeners { sockets: sockets.into_iter().map(Listener::Tcp).collect(), next: AtomicUsize::new(0) }
    }

    /// A Unix socket at `path`, for this user alone (mode 0600). A stale socket file, as a crash leaves it, is removed;
    /// anything else there is left alone. The file is removed when the listener is dropped.
    ///
    /// # Errors
    /// The path exists and is in use or no socket, or the socket can't be created.
    pub fn unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        // The umask makes the mode right from the start, so nobody else can connect in between. Files that other threads
        // create meanwhile are private, too; during startup there are none.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = UnixListener::bind(path);
        umask(before);
        let file = SocketFile::at(path);
        Ok(Listeners { sockets: vec![Listener::Unix(bound?, file)], next: AtomicUsize::new(0) })
    }

    /// The bound addresses, in order.
    ///
    /// # Errors
    /// A socket whose address the kernel can't tell.
    pub fn local_addresses(&self) -> io::Result<Vec<LocalAddress>> {
        let bound = self.sockets.iter().map(|socket| match socket {
            Listener::Tcp(socket) => socket.local_addr().map(LocalAddress::Tcp),
            Listener::Unix(_, file) => Ok(LocalAddress::Unix(file.path.clone())),
        });
        bound.collect()
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.sockets.len().max(1);
        let (before, after) = self.sockets.split_at(first);
        for socket in after.iter().chain(before) {
            let accepted = match socket {
                Listener::Tcp(socket) => {
                    socket.poll_accept(cx).map_ok(|(stream, peer)| (Socket::Tcp(stream), Peer::Tcp(peer)))
                }
                Listener::Unix(socket, _) => {
                    socket.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), Peer::Unix))
                }
            };
            if accepted.is_ready() {
                return accepted;
            }
        }
        Poll::Pending
    }
}

/// The source of connections. A trait, so that a test can make accepts fail.
pub(super) trait Accept: Send + Sync + 'static {
    /// The next connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Socket, Peer)>> + Send;
}

impl Accept for Listeners {
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }
}

/// Removes a socket file that no process listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |what: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{} {what}", path.display()));
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(taken("is there already and is no socket")),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Ok(_) | Err(_) => Err(taken("is in use by another process")),
        },
    }
}

/// A socket file. Dropping it removes the file, unless another process has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        // The daemon may change its directory, and the path may be relative.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        SocketFile { identity: identity(&path), path }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // If this fails, the next start removes the file as stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|file| (file.dev(), file.ino()))
}
