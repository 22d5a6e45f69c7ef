//! [`ConnectionHolder`]: whom a connection belongs to. Limits on connections and health watches go by it.

use std::{fmt, net::IpAddr, sync::Arc};

/// Whom an authenticated connection belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectionHolder {
    Principal(Arc<str>),
    /// An address as of [`Peer::network`](super::Peer::network), where callers need no credentials. None: a Unix socket.
    Network(Option<IpAddr>),
}

impl fmt::Display for ConnectionHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionHolder::Principal(name) => f.write_str(name),
            ConnectionHolder::Network(Some(address)) => write!(f, "{address}"),
            ConnectionHolder::Network(None) => f.write_str("unix"),
        }
    }
}
