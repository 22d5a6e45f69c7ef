//! What stands behind the port: the services and their store, as far as the daemon's life depends on them.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::{clock::Clock, config::Config};

/// Any failure, with a text that says what to do.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is served, and how its store is opened.
pub(super) struct Backend {
    /// The services. They are there before the store is. The token ends their streams.
    pub(super) services: Box<dyn FnOnce(CancellationToken) -> RoutesBuilder + Send>,
    /// Opens the store and hands it to the services. Blocks.
    pub(super) open: Box<dyn FnOnce() -> Result<Opened, BoxError> + Send>,
}

/// An open store.
pub(super) struct Opened {
    /// Lets held claims go. Blocks.
    pub(super) drain: Box<dyn FnOnce() + Send>,
    /// Ends the writer, once all before it is answered. Blocks.
    pub(super) close: Box<dyn FnOnce() + Send>,
    /// Ready when the writer has ended; an error if it was not told to, or failed at it.
    pub(super) ended: BoxFuture<'static, Result<(), BoxError>>,
}

/// The coordinator's services on a store in SQLite.
pub(super) fn sqlite(config: &Config, clock: Arc<dyn Clock>) -> Backend {
    use placeholder::{GrpcLimits, StoreSlot, grpc_services, open};

    let slot = StoreSlot::default();
    let limits = GrpcLimits {
        max_message_bytes: config.limits.max_message_bytes,
        max_watches: config.limits.max_watches,
        restart_grace: config.restart_grace,
        bounds: config.bounds(),
    };
    let options = placeholder::Options {
        data: config.data.clone(),
        restart_grace: config.restart_grace,
        queue: config.limits.writer_queue,
        batch: config.limits.writer_batch,
        readers: config.limits.readers,
        max_waiting: config.limits.max_waiting,
        max_wal_bytes: config.limits.max_wal_bytes,
    };
    Backend {
        services: Box::new({
            let slot = slot.clone();
            move |stop| grpc_services(slot, limits, stop)
        }),
        open: Box::new(move || {
            let (store, mut writer) = open(options, clock)?;
            slot.set(store.clone());
            let (drained, closed) = (store.clone(), store);
            Ok(Opened {
                drain: Box::new(move || drained.drain()),
                close: Box::new(move || closed.close()),
                ended: Box::pin(async move { writer.ended().await.map_err(BoxError::from) }),
            })
        }),
    }
}

/// The names and signatures of what other branches bring: to be replaced by `crate::grpc` and `crate::store::sqlite`.
#[allow(dead_code, reason = "goes when the branches meet")]
mod placeholder {
    use std::{
        path::PathBuf,
        sync::{Arc, OnceLock},
    };

    use tokio_util::sync::CancellationToken;
    use tonic::service::RoutesBuilder;

    use crate::{
        clock::Clock,
        domain::{bounds::Bound, time::Span},
        store::Store,
    };

    #[derive(Clone, Default)]
    pub(super) struct StoreSlot(Arc<OnceLock<Store>>);

    impl StoreSlot {
        pub(super) fn set(&self, store: Store) -> bool {
            self.0.set(store).is_ok()
        }
    }

    pub(super) struct GrpcLimits {
        pub(super) max_message_bytes: usize,
        pub(super) max_watches: usize,
        pub(super) restart_grace: Span,
        pub(super) bounds: Vec<Bound>,
    }

    pub(super) fn grpc_services(_slot: StoreSlot, _limits: GrpcLimits, _stop: CancellationToken) -> RoutesBuilder {
        RoutesBuilder::default()
    }

    pub(super) struct Options {
        pub(super) data: PathBuf,
        pub(super) restart_grace: Span,
        pub(super) queue: usize,
        pub(super) batch: usize,
        pub(super) readers: usize,
        pub(super) max_waiting: usize,
        pub(super) max_wal_bytes: u64,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("this build has no store")]
    pub(super) struct OpenError;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    pub(super) struct WriterFailure(pub(super) String);

    pub(super) enum WriterThread {}

    impl WriterThread {
        pub(super) async fn ended(&mut self) -> Result<(), WriterFailure> {
            match *self {}
        }
    }

    pub(super) fn open(_options: Options, _clock: Arc<dyn Clock>) -> Result<(Store, WriterThread), OpenError> {
        Err(OpenError)
    }
}
