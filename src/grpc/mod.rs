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
mod settings;
mod store_slot;
mod streams;
#[cfg(test)]
mod tests;
pub mod transport_errors;
mod unary_fast_path;
mod vitals;

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    clock::Clock,
    proto::{admin_service_server::AdminServiceServer, saga_service_server},
};

pub use admin_service::AdminHandlers;
pub use handler_body::HandlerBody;
use handler_context::HandlerContext;
use settings::GZIP;
use unary_fast_path::UnaryFastPath;

pub use call_notes::CallNotes;
pub use call_tracker::{CallTracker, SessionCallTracker, TrackedCall};
pub use caller::{CallConnection, CallerIdentity, CertificateInvalidated, Principals};
pub use deadline::call_timeout;
pub use refusal_log::RefusalLog;
pub use saga_service::SagaHandlers;
pub use services::{ResponseFuture, Services};
pub use settings::{GrpcLimits, ServerSettings};
pub use store_slot::StoreSlot;

/// For the fuzzer, with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use super::deadline::bounded_wait;
}

/// Both services, on the store that `slot` will hold. `clock` is for the log of refusals. When `stop` is cancelled their
/// streams end with `SHUTTING_DOWN`; other calls are answered.
pub fn services<B>(
    slot: StoreSlot,
    settings: ServerSettings,
    limits: GrpcLimits,
    principals: Option<Arc<dyn Principals>>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Services<B>
where
    B: Body<Data = Bytes, Error = Status> + Send + 'static,
{
    let context = HandlerContext::new(slot, limits.callers_known, RefusalLog::new(clock));
    let sagas = UnaryFastPath::new(SagaHandlers::new(context.clone(), limits, stop.clone()), limits.max_message_bytes);
    let admin = AdminServiceServer::new(AdminHandlers::new(context, settings, principals, stop));
    Services::default()
        .with_any(saga_service_server::SERVICE_NAME, sagas)
        .with(admin.max_decoding_message_size(limits.max_message_bytes).accept_compressed(GZIP))
}
