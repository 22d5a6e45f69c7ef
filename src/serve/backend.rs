//! What stands behind the port: the services and their store, as far as the daemon's life depends on them.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::Config,
    grpc::{self, GrpcLimits, Principals, ServerFacts, Services, StoreSlot},
    store::{Store, StoreOptions, sqlite},
};

use super::{calls::RequestBody, liveness::WriterSilence, retention};

/// Any failure, with a text that says what to do.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the services.
type MakeServices = dyn FnOnce(CancellationToken, Option<Arc<dyn Principals>>) -> Services<RequestBody> + Send;

/// What is served, and how its store is opened.
pub(super) struct Backend {
    /// The services. They are there before the store is. The token ends their streams; the principals are there where callers
    /// are known.
    pub(super) services: Box<MakeServices>,
    /// What tells the time of calls.
    pub(super) clock: Arc<dyn Clock>,
    /// Opens the store and hands it to the services. Blocks.
    pub(super) open: Box<dyn FnOnce() -> Result<Opened, BoxError> + Send>,
}

/// An open store.
pub(super) struct Opened {
    /// Lets held claims go. Blocks.
    pub(super) drain: Box<dyn FnOnce() + Send>,
    /// Ends the writer, once all before it is answered. Blocks.
    pub(super) close: Box<dyn FnOnce() + Send>,
    /// Purges what comes of age, until the token is cancelled.
    pub(super) retention: Box<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>,
    /// Ready when the writer has ended; an error if it was not told to, or failed at it.
    pub(super) ended: BoxFuture<'static, Result<(), BoxError>>,
    /// The store itself, for whoever tells of it.
    pub(super) store: Option<Store>,
    /// How long ago the writer last turned.
    pub(super) silence: WriterSilence,
}

/// The coordinator's services on a store in SQLite.
pub(super) fn sqlite(config: &Config, clock: Arc<dyn Clock>) -> Backend {
    let slot = StoreSlot::new();
    let facts =
        ServerFacts { restart_grace: config.restart_grace, backup_dir: config.data.clone(), bounds: config.bounds() };
    let limits = GrpcLimits {
        max_watches: config.limits.max_watches,
        max_worker_streams: config.limits.max_watches,
        max_session_calls: config.limits.max_session_calls,
        max_message_bytes: config.limits.max_message_bytes,
        callers_known: config.security.principals.is_some(),
    };
    let retained = config.retention.clone();
    let (data, max_wal_bytes) = (config.data.clone(), config.limits.max_wal_bytes);
    let options = StoreOptions {
        restart_grace: config.restart_grace,
        queue: config.limits.writer_queue,
        batch: config.limits.writer_batch,
        readers: config.limits.readers,
        max_waiting: config.limits.max_waiting,
    };
    Backend {
        services: Box::new({
            let slot = slot.clone();
            let clock = clock.clone();
            move |stop, principals| grpc::services(slot, facts, limits, principals, clock, stop)
        }),
        clock: clock.clone(),
        open: Box::new(move || {
            let (store, mut writer) = sqlite::open(&data, max_wal_bytes, &options, clock)?;
            slot.set(store.clone());
            let (drained, closed) = (store.clone(), store.clone());
            let kept = store.clone();
            Ok(Opened {
                retention: Box::new(move |stop| Box::pin(retention::keep(kept.clone(), retained.clone(), stop))),
                drain: Box::new(move || drained.drain()),
                close: Box::new(move || closed.close()),
                ended: Box::pin(async move { writer.ended().await.map_err(BoxError::from) }),
                store: Some(store.clone()),
                silence: Arc::new(move || store.time_since_turn()),
            })
        }),
    }
}
