//! What the services need of the configuration.

use std::path::PathBuf;

use tonic::codec::CompressionEncoding;

use crate::domain::{bounds::Bound, time::Span};

/// Limits on what clients may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcLimits {
    /// Most `WatchStale` and `WatchEvents` streams, together.
    pub max_watches: usize,
    /// Most `KeepAlive` and `Session` streams, together.
    pub max_worker_streams: usize,
    /// Most items of one `Session` that have no answer yet.
    pub max_session_calls: usize,
    /// Largest request message, in bytes.
    pub max_message_bytes: usize,
    /// Calls without a [`super::CallerIdentity`] are refused: authentication in front of the services adds it.
    pub callers_known: bool,
}

/// What the services need of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// How long leases are spared after the coordinator was away; `GetServerInfo` returns it.
    pub restart_grace: Span,
    /// An existing directory with room for a copy of the store, which `Backup` makes there before it streams it.
    pub backup_dir: PathBuf,
    /// Configured limits, which `GetServerInfo` returns beside the contract's.
    pub bounds: Vec<Bound>,
}

/// Compression of requests. The size after decompression is limited like that of other requests.
pub(super) const GZIP: CompressionEncoding = CompressionEncoding::Gzip;
