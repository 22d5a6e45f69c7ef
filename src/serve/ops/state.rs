//! [`OpsState`]: what the operators' listener reports on.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::sleep;

use super::stats_cache::StatsCache;
use crate::serve::{
    calls::MethodTable,
    liveness::{DaemonThread, Liveness},
    observe::RpcMetrics,
    trace::SpanCounts,
};
use crate::{
    clock::Clock,
    domain::time::{Span, Timestamp},
    listen::Connections,
    store::Store,
};

/// How long the writer or a network thread may be silent before the daemon counts as neither live nor ready: longer than
/// any sync of a working disk and than a busy machine keeps a thread waiting, shorter than probes wait.
const SILENCE_MAX: Span = Span::from_secs(10);
/// How often a probe checks again before it reports that the daemon is not live. After a suspension (a laptop, a paused
/// container) threads wake in any order, and each runs within half a second.
const PROBE_RETRIES: usize = 3;
/// The time between these checks.
const PROBE_RETRY_DELAY: Duration = Duration::from_millis(200);

/// What the operators' listener reports on. It is filled in as the daemon starts.
pub(in crate::serve) struct OpsState {
    pub(super) data: PathBuf,
    pub(super) max_wal_bytes: u64,
    pub(super) max_connections: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) started: Timestamp,
    pub(in crate::serve) rpc_metrics: Arc<RpcMetrics>,
    pub(super) connections: OnceLock<Connections>,
    pub(super) store: OnceLock<Store>,
    pub(super) stats: StatsCache,
    pub(super) spans: Arc<SpanCounts>,
    pub(super) liveness: Arc<Liveness>,
    ending: AtomicBool,
}

/// What the listener needs of the daemon from the beginning.
pub(in crate::serve) struct OpsSettings {
    pub(in crate::serve) data: PathBuf,
    pub(in crate::serve) max_wal_bytes: u64,
    pub(in crate::serve) max_connections: usize,
    pub(in crate::serve) spans: Arc<SpanCounts>,
    pub(in crate::serve) liveness: Arc<Liveness>,
}

impl OpsState {
    /// Starts the metrics of calls.
    ///
    /// # Errors
    /// A descriptor can't be read: a bug of the build.
    pub(in crate::serve) fn new(
        settings: OpsSettings,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<Self>, prost_reflect::DescriptorError> {
        let OpsSettings { data, max_wal_bytes, max_connections, spans, liveness } = settings;
        Ok(Arc::new(OpsState {
            data,
            max_wal_bytes,
            max_connections,
            clock: clock.clone(),
            started: clock.utc(),
            rpc_metrics: Arc::new(RpcMetrics::of(MethodTable::of_all_services()?.paths())),
            connections: OnceLock::new(),
            store: OnceLock::new(),
            stats: StatsCache::default(),
            spans,
            liveness,
            ending: AtomicBool::new(false),
        }))
    }

    pub(in crate::serve) fn set_connections(&self, connections: Connections) {
        // It is set only once: there is one server for clients.
        let _ = self.connections.set(connections);
    }

    pub(in crate::serve) fn set_store(&self, store: Store) {
        let _ = self.store.set(store);
    }

    /// The daemon is not ready from now on.
    pub(in crate::serve) fn set_ending(&self) {
        self.ending.store(true, Relaxed);
    }

    /// Like [`OpsState::checks`], but repeated for a moment while a check fails that would make the daemon not live.
    pub(super) async fn checks_with_retries(&self) -> Vec<ProbeCheck> {
        for _ in 0..PROBE_RETRIES {
            let checks = self.checks();
            if checks.iter().all(|check| check.ok || !check.live) {
                return checks;
            }
            sleep(PROBE_RETRY_DELAY).await;
        }
        self.checks()
    }

    /// The conditions of being live and ready, and whether each holds.
    pub(super) fn checks(&self) -> Vec<ProbeCheck> {
        let ending = self.ending.load(Relaxed);
        let silent = |part: &dyn fmt::Display, silence: Span| {
            format!("{part} has been silent for {} s", silence.micros() / 1_000_000)
        };
        let writer = self.liveness.writer();
        let (thread, network) = self.liveness.network();
        vec![
            ProbeCheck {
                condition: "the writer runs",
                failure: silent(&DaemonThread::Writer, writer.unwrap_or(Span::ZERO)),
                ok: writer.is_none_or(|silence| silence <= SILENCE_MAX),
                live: true,
            },
            ProbeCheck {
                condition: "the network threads run",
                failure: silent(&thread, network),
                ok: network <= SILENCE_MAX,
                live: true,
            },
            ProbeCheck {
                condition: "the store is open",
                failure: "the store is not open yet".to_owned(),
                ok: writer.is_some(),
                live: false,
            },
            ProbeCheck {
                condition: "the daemon is not ending",
                failure: "the daemon is ending".to_owned(),
                ok: !ending,
                live: false,
            },
        ]
    }
}

/// A condition of being live or ready.
pub(super) struct ProbeCheck {
    pub(super) condition: &'static str,
    pub(super) failure: String,
    pub(super) ok: bool,
    /// If it fails the daemon is not live and needs a restart; otherwise it is only not ready.
    pub(super) live: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::ManualClock,
        store::{StoreOptions, memory::Memory},
    };

    #[test]
    fn the_daemon_is_live_while_the_writer_runs_and_ready_until_shutdown() {
        let clock = Arc::new(ManualClock::default());
        let liveness = Liveness::of(&(clock.clone() as Arc<dyn Clock>), &[]);
        let settings = OpsSettings {
            data: ".".into(),
            max_wal_bytes: 1,
            max_connections: 1,
            spans: Arc::default(),
            liveness: liveness.clone(),
        };
        let ops = OpsState::new(settings, &(clock.clone() as Arc<dyn Clock>)).unwrap();
        let wrong = |ops: &OpsState| {
            let checks = ops.checks();
            checks.into_iter().filter(|check| !check.ok).map(|check| (check.failure, check.live)).collect::<Vec<_>>()
        };
        assert_eq!(wrong(&ops), [("the store is not open yet".to_owned(), false)]);
        let options = StoreOptions { restart_grace: Span::ZERO, queue: 1, batch: 1, readers: 1, max_waiting: 1 };
        let (store, mut writer) = Memory::default().open(&options, clock.clone()).unwrap();
        ops.set_store(store.clone());
        liveness.set_writer(Arc::new({
            let store = store.clone();
            move || store.writer_silence()
        }));
        assert_eq!(wrong(&ops), []);
        // A writer that has ended is silent, like one that hangs.
        store.close();
        futures::executor::block_on(writer.ended()).unwrap();
        clock.advance(SILENCE_MAX);
        assert_eq!(wrong(&ops), []);
        clock.advance(Span::from_secs(1));
        assert_eq!(wrong(&ops), [("the writer has been silent for 11 s".to_owned(), true)]);
        ops.set_ending();
        assert_eq!(wrong(&ops).len(), 2);
    }
}
