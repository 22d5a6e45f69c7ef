//! [`run`]: starts the parts of the daemon, serves, and ends them in order.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    auth::LoadedSecurity,
    bind::bind,
    error::ServeError,
    grpc_server::GrpcServer,
    health::Health,
    liveness::Liveness,
    network_threads::NetworkThreads,
    observe::CallObserver,
    ops::{self, OpsSettings, OpsState},
    served_store::{self, BoxError, OpenStore, ServedStore},
    service_manager::ServiceManager,
    trace::{FLUSH_TIMEOUT, SpanCounts, Tracer},
};
use crate::{
    clock::Clock,
    config::Config,
    listen::{Listeners, LocalAddress},
};

/// Most time for connections to close once their calls are answered, and the least that is left for the store. A live peer
/// needs one round trip; there is no point in waiting longer for a dead one.
const LINGER: Duration = Duration::from_secs(1);

/// Serves until `shutdown` is ready or the store fails. Returns when everything has ended: after a shutdown within
/// `drain_grace`, whatever the peers do.
///
/// # Errors
/// The store can't be opened, or failed.
pub async fn run(
    config: Config,
    listener: TcpListener,
    clock: Arc<dyn Clock>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let security = LoadedSecurity::read(&config.security, &clock)?;
    let served = served_store::configured(&config, clock);
    let endpoint = ListenEndpoint { listeners: listener.into(), security };
    run_with(&config, endpoint, &NetworkThreads::current(), served, &ServiceManager::none(), |_| {}, shutdown).await
}

/// The listening sockets, and the security settings of their connections.
pub(super) struct ListenEndpoint {
    pub(super) listeners: Listeners,
    pub(super) security: LoadedSecurity,
}

/// [`run`] with any store and threads, and a service manager. `announce` is called once calls are served.
pub(super) async fn run_with(
    config: &Config,
    endpoint: ListenEndpoint,
    threads: &NetworkThreads,
    served: ServedStore,
    manager: &ServiceManager,
    announce: impl FnOnce(&[LocalAddress]),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let ListenEndpoint { listeners, security } = endpoint;
    let bound = listeners.local_addresses().map_err(ServeError::Listener)?;
    let address = bound.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut shutdown = pin!(shutdown);
    let streams = CancellationToken::new();
    let (health, health_service) = Health::not_serving().await;
    let services = (served.services)(streams.clone(), security.principals()).with(health_service);
    let spans = Arc::new(SpanCounts::default());
    let liveness = Liveness::of(&served.clock, threads.handles());
    let ops = start_ops(config, &served.clock, &spans, &liveness)?;
    let (tracer, span_sender) = match &config.otlp_endpoint {
        None => (None, None),
        Some(address) => {
            let (tracer, span_sender) =
                Tracer::start(address, config.trace_sample, spans).map_err(ServeError::Traces)?;
            (Some(tracer), Some(span_sender))
        }
    };
    let rpc_metrics = ops.as_ref().map(|(ops, _)| ops.rpc_metrics.clone());
    let observer = CallObserver { metrics: rpc_metrics, tracer, clock: served.clock };
    let mut server = GrpcServer::start(&config.limits, listeners, threads, services, &security, observer)?;
    // Dropped last, so that probes are answered until the end.
    let ops = match ops {
        None => None,
        Some((ops, socket)) => {
            ops.set_connections(server.connections());
            let serving = ops::serve(&ops, socket, health.service()).map_err(ServeError::Listener)?;
            Some((ops, serving))
        }
    };

    let opened = tokio::select! {
        opened = task::spawn_blocking(served.open) => match opened {
            Ok(Ok(store)) => Ok(Some(store)),
            Ok(Err(error)) => Err(ServeError::Open(error)),
            Err(panic) => Err(ServeError::Open(format!("opening the store ended early: {panic}").into())),
        },
        // The thread that opens the store runs until the process exits. That is as safe as a crash.
        () = &mut shutdown => Ok(None),
        never = manager.report_opening() => match never {},
    };
    let (outcome, store) = match opened {
        Ok(Some(mut store)) => {
            liveness.set_writer(store.silence.clone());
            if let (Some((ops, _)), Some(store)) = (&ops, store.store.take()) {
                ops.set_store(store);
            }
            health.set_serving().await;
            info!(%address, "serving");
            announce(&bound);
            tokio::spawn((store.retention)(streams.clone()));
            let outcome = tokio::select! {
                () = &mut shutdown => Ok(()),
                failure = failed(&mut store) => Err(ServeError::of_store(failure)),
                () = server.failed() => Err(ServeError::Accepting),
                never = manager.report_serving(&address, || liveness.longest()) => match never {},
            };
            (outcome, Some(store))
        }
        Ok(None) => (Ok(()), None),
        Err(error) => (Err(error), None),
    };
    info!("ending");
    manager.report_stopping(config.drain_grace.to_std());
    if let Some((ops, _)) = &ops {
        ops.set_ending();
    }
    let drain_grace = config.drain_grace.to_std();
    // Sending the last traces has its part of the grace, too.
    let grace = if span_sender.is_some() { drain_grace - FLUSH_TIMEOUT.min(drain_grace / 4) } else { drain_grace };
    let ending = Shutdown { grace, health, streams, server };
    let outcome = match (outcome, store) {
        // A store that has failed answers nothing more and can't be closed.
        (Err(error @ (ServeError::Store(_) | ServeError::Gone(_) | ServeError::Deposed)), _) => {
            ending.without_store().await;
            Err(error)
        }
        (outcome, Some(store)) => outcome.and(ending.with_store(store).await),
        (outcome, None) => {
            ending.without_store().await;
            outcome
        }
    };
    if let Some(span_sender) = span_sender {
        span_sender.shut_down(drain_grace - grace).await;
    }
    outcome
}

/// Binds the operators' listener, if one is configured.
fn start_ops(
    config: &Config,
    clock: &Arc<dyn Clock>,
    spans: &Arc<SpanCounts>,
    liveness: &Arc<Liveness>,
) -> Result<Option<(Arc<OpsState>, TcpListener)>, ServeError> {
    let Some(address) = config.ops_listen else { return Ok(None) };
    let socket = bind(address).map_err(|source| ServeError::OpsListener { address, source })?;
    let settings = OpsSettings {
        data: config.data.clone(),
        max_wal_bytes: config.limits.max_wal_bytes,
        max_connections: config.limits.max_connections,
        spans: spans.clone(),
        liveness: liveness.clone(),
    };
    Ok(Some((OpsState::new(settings, clock)?, socket)))
}

/// Waits until the store ends by itself, and returns why.
async fn failed(store: &mut OpenStore) -> BoxError {
    match store.ended.as_mut().await {
        Ok(()) => "it was closed by another".into(),
        Err(failure) => failure,
    }
}

/// The part of the grace that connections get, and equally the store. Calls get the rest.
fn linger_part(grace: Duration) -> Duration {
    LINGER.min(grace / 4)
}

/// Ends the daemon's parts in order.
struct Shutdown {
    grace: Duration,
    health: Health,
    streams: CancellationToken,
    server: GrpcServer,
}

impl Shutdown {
    /// Ends everything that clients see. Calls that wait are answered by the failed or missing store itself.
    async fn without_store(self) {
        self.health.shut_down().await;
        self.streams.cancel();
        let part = linger_part(self.grace);
        self.server.shut_down(time::sleep(part).deadline(), part).await;
    }

    /// Ends everything that clients see once their calls are answered, then closes the store.
    async fn with_store(self, store: OpenStore) -> Result<(), ServeError> {
        let part = linger_part(self.grace);
        // One deadline, taken from the timer once, so that all steps are measured against the same one.
        let deadline = time::sleep(self.grace).deadline();
        self.health.shut_down().await;
        self.streams.cancel();
        // Answering held claims blocks while the writer's queue is full; the calls in that queue have to be answered, too.
        let draining = task::spawn_blocking(store.drain);
        self.server.shut_down(deadline - 2 * part, part).await;

        let mut ended = store.ended;
        let closing = async {
            // Order matters: nothing may be queued after the message that closes the writer. Both fail only by a panic, and
            // then `ended` returns the error.
            let _ = draining.await;
            let _ = task::spawn_blocking(store.close).await;
            ended.as_mut().await
        };
        match time::timeout_at(deadline, closing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(ServeError::of_store(failure)),
            Err(_) => {
                // Everything acknowledged is synced. The next start does the rest.
                warn!("the store did not close within the grace; exiting without waiting for it");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
