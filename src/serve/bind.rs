//! Binds a listening socket.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Length of the kernel's accept queue (less where `net.core.somaxconn` is lower). Beyond `max_connections` clients wait
/// there.
const BACKLOG: u32 = 4096;

pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart doesn't wait for TIME_WAIT of old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
