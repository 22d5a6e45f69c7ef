//! FLOOR 4: the contract on the wire. Requests are parsed ([`parse`]), answers rendered ([`render`]), and every error comes
//! from one table ([`error_table`]). On the daemon's side nothing else uses the generated types.

mod admin_service;
mod backup;
mod call_notes;
pub mod call_tracker;
pub mod caller;
mod deadline;
pub mod error_table;
pub mod export_json;
mod framed_stream;
mod handler_body;
mod handler_context;
mod keep_alive;
pub mod page_token;
mod pages;
pub mod parse;
pub mod permissions;
pub mod problem;
mod read_rpcs;
pub mod refusal_log;
pub mod render;
mod revoke;
mod saga_service;
mod services;
mod session;
mod store_slot;
mod streams;
#[cfg(test)]
mod tests;
pub mod transport_errors;
mod unary_fast_path;
mod vitals;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tonic::{Status, codec::CompressionEncoding};

use crate::{
    clock::Clock,
    domain::{bounds::Bound, time::Span},
    proto::{admin_service_server::AdminServiceServer, saga_service_server},
};

pub use admin_service::AdminHandlers;
pub use handler_body::HandlerBody;
use handler_context::HandlerContext;
use unary_fast_path::UnaryFastPath;

pub use call_notes::CallNotes;
pub use call_tracker::{CallTracker, SessionCallTracker, TrackedCall};
pub use caller::{CallConnection, CallerIdentity, CertificateInvalidated, Principals};
pub use deadline::call_timeout;
pub use refusal_log::RefusalLog;
pub use saga_service::SagaHandlers;
pub use services::{ResponseFuture, Services};
pub use store_slot::StoreSlot;

/// For the fuzzer, with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use super::deadline::bounded_wait;
}

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
    /// Calls without a [`CallerIdentity`] are refused: authentication in front of the services adds it.
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
const GZIP: CompressionEncoding = CompressionEncoding::Gzip;

/// Both services, on the store that `slot` will hold. `clock` is for the log of refusals. When `stop` is cancelled their
/// streams end with `SHUTTING_DOWN`; other calls are answered.
pub fn services<B>(
    slot: StoreSlot,
    facts: ServerSettings,
    limits: GrpcLimits,
    principals: Option<Arc<dyn Principals>>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Services<B>
where
    B: Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let desk = HandlerContext::new(slot, limits.callers_known, RefusalLog::new(clock));
    let sagas = UnaryFastPath::new(SagaHandlers::new(desk.clone(), limits, stop.clone()), limits.max_message_bytes);
    let admin = AdminServiceServer::new(AdminHandlers::new(desk, facts, principals, stop));
    Services::default()
        .with_any(saga_service_server::SERVICE_NAME, sagas)
        .with(admin.max_decoding_message_size(limits.max_message_bytes).accept_compressed(GZIP))
}
