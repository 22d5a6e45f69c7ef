//! What is listened on: addresses, and sockets in the file system. What comes from either is a [`Socket`].

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

use super::accept::Accept;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address.
    Tcp(SocketAddr),
    /// Somebody on this machine, by a socket in the file system.
    Unix,
}

impl Peer {
    /// What counts as one address: of IPv6 the first 64 bits, since whoever has one address has a whole network of them. None: a
    /// socket in the file system.
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

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// At an address.
    Tcp(SocketAddr),
    /// At a path.
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

/// A connection before anything was said on it.
#[derive(Debug)]
pub enum Socket {
    /// From an address.
    Tcp(TcpStream),
    /// From this machine.
    Unix(UnixStream),
}

/// Several listening sockets, at least one, accepted from in turn.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Listener>,
    /// Which of them is asked first the next time, so that a flood on one does not keep the others waiting.
    turn: AtomicUsize,
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
    /// These sockets, of which there is at least one.
    pub fn of(sockets: Vec<TcpListener>) -> Self {
        Listeners { sockets: sockets.into_iter().map(Listener::Tcp).collect(), turn: AtomicUsize::new(0) }
    }

    /// A socket at a path, for this user alone (mode 0600). One that is there and that nobody listens on, as a crash leaves
    /// it, is removed; anything else that is there is left alone. The path is removed when this is dropped.
    ///
    /// # Errors
    /// Something is there, or the socket can't be made.
    pub fn unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        // The mode is there from the beginning: nothing connects in between. Files that other threads make meanwhile are
        // for this user alone, too, and none is made at this moment of a start.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = UnixListener::bind(path);
        umask(before);
        let file = SocketFile::at(path);
        Ok(Listeners { sockets: vec![Listener::Unix(bound?, file)], turn: AtomicUsize::new(0) })
    }

    /// Where they listen, in order.
    ///
    /// # Errors
    /// The kernel's: a socket that can't be used.
    pub fn bound(&self) -> io::Result<Vec<LocalAddress>> {
        let bound = self.sockets.iter().map(|socket| match socket {
            Listener::Tcp(socket) => socket.local_addr().map(LocalAddress::Tcp),
            Listener::Unix(_, file) => Ok(LocalAddress::Unix(file.path.clone())),
        });
        bound.collect()
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Peer)>> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % self.sockets.len().max(1);
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

impl Accept for Listeners {
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }
}

/// Removes the file of a socket that nobody listens on.
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

/// A socket's file, removed when this is dropped, unless it is another one by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        // The daemon's directory may change, and the path be relative.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        SocketFile { identity: identity(&path), path }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // What is left is taken for stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|file| (file.dev(), file.ino()))
}
