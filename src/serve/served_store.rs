//! [`ServedStore`]: the services, and the store that they need, as far as the daemon's start and end depend on them.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{Config, StoreLocation},
    grpc::{self, GrpcLimits, Principals, ServerSettings, Services, StoreSlot},
    store::{
        Store, StoreOptions, WriterThread,
        postgres::{self, ConnectOptions, CoordinatorName},
        sqlite,
    },
};

use super::{calls::RequestBody, liveness::WriterSilence, retention};

/// An error whose text says what to do.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type MakeServices = dyn FnOnce(CancellationToken, Option<Arc<dyn Principals>>) -> Services<RequestBody> + Send;

/// The services, and how their store is opened.
pub(super) struct ServedStore {
    /// Builds the services, before the store is open. The token ends their streams; the principals are absent where callers
    /// need no credentials.
    pub(super) services: Box<MakeServices>,
    /// The clock of call times.
    pub(super) clock: Arc<dyn Clock>,
    /// Opens the store and hands it to the services. Blocks.
    pub(super) open: Box<dyn FnOnce() -> Result<OpenStore, BoxError> + Send>,
}

/// An open store.
pub(super) struct OpenStore {
    /// Answers held claims with nothing. Blocks.
    pub(super) drain: Box<dyn FnOnce() + Send>,
    /// Ends the writer after everything queued before has been answered. Blocks.
    pub(super) close: Box<dyn FnOnce() + Send>,
    /// Purges sagas that are older than the retention times, until the token is cancelled.
    pub(super) retention: Box<dyn Fn(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>,
    /// Ready when the writer has ended; an error if it was not told to, or failed.
    pub(super) ended: BoxFuture<'static, Result<(), BoxError>>,
    /// The store itself, for metrics. None in tests.
    pub(super) store: Option<Store>,
    /// How long ago the writer last ran its loop.
    pub(super) silence: WriterSilence,
}

/// The coordinator's services on the configured store.
pub(super) fn configured(config: &Config, clock: Arc<dyn Clock>) -> ServedStore {
    let slot = StoreSlot::new();
    let settings = ServerSettings {
        restart_grace: config.restart_grace,
        backup_dir: config.data.clone(),
        bounds: config.bounds(),
    };
    let limits = GrpcLimits {
        max_watches: config.limits.max_watches,
        max_worker_streams: config.limits.max_watches,
        max_session_calls: config.limits.max_session_calls,
        max_message_bytes: config.limits.max_message_bytes,
        callers_known: config.security.principals.is_some(),
    };
    let retained = config.retention.clone();
    let (location, max_wal_bytes) = (config.store(), config.limits.max_wal_bytes);
    let me = CoordinatorName { name: host_name(), address: config.listen.to_string() };
    let options = StoreOptions {
        restart_grace: config.restart_grace,
        queue: config.limits.writer_queue,
        batch: config.limits.writer_batch,
        readers: config.limits.readers,
        max_waiting: config.limits.max_waiting,
    };
    ServedStore {
        services: Box::new({
            let slot = slot.clone();
            let clock = clock.clone();
            move |stop, principals| grpc::services(slot, settings, limits, principals, clock, stop)
        }),
        clock: clock.clone(),
        open: Box::new(move || {
            let (store, mut writer) = match location {
                StoreLocation::Sqlite(data) => sqlite::open(&data, max_wal_bytes, &options, clock)?,
                StoreLocation::Postgres(url) => open_postgres(&url, &me, &options, clock, &slot)?,
            };
            slot.set(store.clone());
            let (drained, closed) = (store.clone(), store.clone());
            let kept = store.clone();
            Ok(OpenStore {
                retention: Box::new(move |stop| Box::pin(retention::run(kept.clone(), retained.clone(), stop))),
                drain: Box::new(move || drained.drain()),
                close: Box::new(move || closed.close()),
                ended: Box::pin(async move { writer.ended().await.map_err(BoxError::from) }),
                store: Some(store.clone()),
                silence: Arc::new(move || store.writer_silence()),
            })
        }),
    }
}

/// Opens a store in PostgreSQL. Until this coordinator writes, callers are told who does.
fn open_postgres(
    url: &str,
    me: &CoordinatorName,
    options: &StoreOptions,
    clock: Arc<dyn Clock>,
    slot: &StoreSlot,
) -> Result<(Store, WriterThread), postgres::OpenError> {
    let connect = ConnectOptions::parse(url)?;
    postgres::open(&connect, me, options, clock, |writer| {
        let what = format!("another coordinator writes: {} at {}", writer.name, writer.address);
        tracing::info!("{what}; this one waits for its turn");
        slot.set_waiting_for(what);
    })
}

/// What this machine is called.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
