//! [`ServeError`]: why the daemon ended by itself.

use std::{io, net::SocketAddr};

use super::{auth::SecurityError, served_store::BoxError};
use crate::store::WriterFailure;

/// Why the daemon ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the listening socket can't be used: {0}")]
    Listener(io::Error),
    #[error(
        "can't listen on {address} for metrics and probes: {source}. Another address can be given with --ops-listen"
    )]
    OpsListener { address: SocketAddr, source: io::Error },
    #[error("traces can't be sent to otlp_endpoint: {0}")]
    Traces(tonic::transport::Error),
    /// The contract's descriptors can't be served: a bug of the build.
    #[error("reflection can't be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A service's descriptors can't be read: a bug of the build.
    #[error("the descriptors of what is served can't be read: {0}")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    #[error("{0}")]
    Security(#[from] SecurityError),
    /// The store can't be opened. The text says what to do.
    #[error("{0}")]
    Open(BoxError),
    #[error(
        "the store failed: {0}. The daemon ended, because what follows could not be promised. Every change that was \
         acknowledged is on disk. Look at the disk and its free space, verify the store with `sagad check --data DIR`, \
         and start again, or restore a backup if it is damaged"
    )]
    Store(BoxError),
    /// Another coordinator writes to the store.
    #[error(
        "another coordinator has taken over: this one ended, and changed nothing since. Start it again, and it waits until it \
         is needed"
    )]
    Deposed,
    /// The store's files were moved or removed.
    #[error(
        "{0} while the daemon ran: it ended, because the next start would not find what it goes on to write. What was \
         acknowledged before is in the file that was there: move it back if it still is anywhere; if not, restore a \
         backup with `sagad restore`. A start without either begins with an empty store"
    )]
    Gone(String),
    /// The accept loop ended by itself: a bug.
    #[error("connections are not accepted any more: the accept loop ended by itself")]
    Accepting,
}

impl ServeError {
    /// For a store that ended by itself.
    pub(super) fn of_store(failure: BoxError) -> Self {
        match failure.downcast::<WriterFailure>() {
            Ok(failure) => match *failure {
                WriterFailure::Gone(what) => ServeError::Gone(what),
                WriterFailure::Deposed => ServeError::Deposed,
                WriterFailure::Failed(_) => ServeError::Store(failure),
            },
            Err(failure) => ServeError::Store(failure),
        }
    }
}
