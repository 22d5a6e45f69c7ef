//! The operators' listener: `/metrics`, `/livez`, `/readyz`, and gRPC health without TLS for probes that can't do TLS. It
//! has its own port, so that it can be firewalled from clients, and answers when theirs is full.
//!
//! It has no authentication. It shows the names of queues, but no task ids. At shutdown it is the first to report it and
//! the last to end.

mod gather;
mod listener;
mod machine;
mod pages;
mod sheet;
mod stats;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{net::TcpListener, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::{
    calls::Methods,
    liveness::{Liveness, Part},
    observe::Meters,
    trace::SpanCounts,
};
use crate::{
    clock::Clock,
    domain::time::{Span, Timestamp},
    listen::Connections,
    store::Store,
};
use stats::StatsKept;

/// How long the writer or a network thread may be silent before the daemon counts as neither live nor ready: longer than
/// any sync of a working disk and than a busy machine keeps a thread waiting, shorter than probes wait.
const SILENCE: Span = Span::from_secs(10);
/// How often a probe checks again before it reports that the daemon is not live. After a suspension (a laptop, a paused
/// container) threads wake in any order, and each turns within half a second.
const SECOND_LOOKS: usize = 3;
/// The time between these checks.
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// The operators' listener and what it reports on. It is filled in as the daemon starts.
pub(super) struct Ops {
    data: PathBuf,
    max_wal_bytes: u64,
    max_connections: usize,
    clock: Arc<dyn Clock>,
    started: Timestamp,
    pub(super) meters: Arc<Meters>,
    connections: OnceLock<Connections>,
    store: OnceLock<Store>,
    stats: StatsKept,
    spans: Arc<SpanCounts>,
    liveness: Arc<Liveness>,
    ending: AtomicBool,
}

/// What the listener needs of the daemon from the beginning.
pub(super) struct Facts {
    pub(super) data: PathBuf,
    pub(super) max_wal_bytes: u64,
    pub(super) max_connections: usize,
    pub(super) spans: Arc<SpanCounts>,
    pub(super) liveness: Arc<Liveness>,
}

impl Ops {
    /// Starts the metrics of calls.
    ///
    /// # Errors
    /// A descriptor can't be read: a bug of the build.
    pub(super) fn new(facts: Facts, clock: &Arc<dyn Clock>) -> Result<Arc<Self>, prost_reflect::DescriptorError> {
        let Facts { data, max_wal_bytes, max_connections, spans, liveness } = facts;
        Ok(Arc::new(Ops {
            data,
            max_wal_bytes,
            max_connections,
            clock: clock.clone(),
            started: clock.utc(),
            meters: Arc::new(Meters::of(Methods::of_all_services()?.paths())),
            connections: OnceLock::new(),
            store: OnceLock::new(),
            stats: StatsKept::default(),
            spans,
            liveness,
            ending: AtomicBool::new(false),
        }))
    }

    /// Serves until the result is dropped.
    pub(super) fn serve<H: listener::HealthService>(
        self: &Arc<Self>,
        socket: TcpListener,
        health: H,
    ) -> io::Result<AbortOnDropHandle<()>> {
        let address = socket.local_addr()?;
        info!(%address, "serving metrics and probes");
        Ok(AbortOnDropHandle::new(tokio::spawn(listener::accept_all(socket, self.clone(), health))))
    }

    pub(super) fn connections_are(&self, connections: Connections) {
        // It is set only once: there is one server for clients.
        let _ = self.connections.set(connections);
    }

    pub(super) fn opened(&self, store: Store) {
        let _ = self.store.set(store);
    }

    /// The daemon is not ready from now on.
    pub(super) fn ending(&self) {
        self.ending.store(true, Relaxed);
    }

    /// Like [`Ops::checks`], but repeated for a moment while a check fails that would make the daemon not live.
    async fn settled_checks(&self) -> Vec<Check> {
        for _ in 0..SECOND_LOOKS {
            let checks = self.checks();
            if checks.iter().all(|check| check.ok || !check.live) {
                return checks;
            }
            sleep(SECOND_LOOK).await;
        }
        self.checks()
    }

    /// The conditions of being live and ready, and whether each holds.
    fn checks(&self) -> Vec<Check> {
        let ending = self.ending.load(Relaxed);
        let silent = |part: &dyn fmt::Display, silence: Span| {
            format!("{part} has not turned for {} s", silence.micros() / 1_000_000)
        };
        let writer = self.liveness.writer();
        let (thread, network) = self.liveness.network();
        vec![
            Check {
                what: "the writer turns",
                wrong: silent(&Part::Writer, writer.unwrap_or(Span::ZERO)),
                ok: writer.is_none_or(|silence| silence <= SILENCE),
                live: true,
            },
            Check {
                what: "the network threads turn",
                wrong: silent(&thread, network),
                ok: network <= SILENCE,
                live: true,
            },
            Check {
                what: "the store is open",
                wrong: "the store is not open yet".to_owned(),
                ok: writer.is_some(),
                live: false,
            },
            Check { what: "the daemon stays", wrong: "the daemon is ending".to_owned(), ok: !ending, live: false },
        ]
    }
}

/// A condition of being live or ready.
struct Check {
    what: &'static str,
    wrong: String,
    ok: bool,
    /// If it fails the daemon is not live and needs a restart; otherwise it is only not ready.
    live: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::ManualClock,
        store::{StoreOptions, memory::Memory},
    };

    #[test]
    fn it_is_live_while_the_writer_turns_and_ready_while_it_stays() {
        let clock = Arc::new(ManualClock::default());
        let liveness = Liveness::of(&(clock.clone() as Arc<dyn Clock>), &[]);
        let facts = Facts {
            data: ".".into(),
            max_wal_bytes: 1,
            max_connections: 1,
            spans: Arc::default(),
            liveness: liveness.clone(),
        };
        let ops = Ops::new(facts, &(clock.clone() as Arc<dyn Clock>)).unwrap();
        let wrong = |ops: &Ops| {
            let checks = ops.checks();
            checks.into_iter().filter(|check| !check.ok).map(|check| (check.wrong, check.live)).collect::<Vec<_>>()
        };
        assert_eq!(wrong(&ops), [("the store is not open yet".to_owned(), false)]);
        let options = StoreOptions { restart_grace: Span::ZERO, queue: 1, batch: 1, readers: 1, max_waiting: 1 };
        let (store, mut writer) = Memory::default().open(&options, clock.clone()).unwrap();
        ops.opened(store.clone());
        liveness.writer_is(Arc::new({
            let store = store.clone();
            move || store.silence()
        }));
        assert_eq!(wrong(&ops), []);
        // A writer that has ended turns no more, like one that hangs.
        store.close();
        futures::executor::block_on(writer.ended()).unwrap();
        clock.advance(SILENCE);
        assert_eq!(wrong(&ops), []);
        clock.advance(Span::from_secs(1));
        assert_eq!(wrong(&ops), [("the writer has not turned for 11 s".to_owned(), true)]);
        ops.ending();
        assert_eq!(wrong(&ops).len(), 2);
    }
}
