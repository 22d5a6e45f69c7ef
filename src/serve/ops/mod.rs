//! The listener for those who operate the daemon: `/metrics`, `/livez`, `/readyz`, and gRPC health without TLS, for probes
//! that can't do it. A port of its own, so that it can be kept from clients, and answers when theirs is full.
//!
//! It has no authentication, and tells the names of queues but no task's id. It is the first to say that the daemon is
//! ending, and the last to go.

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
    listen::Lines,
    store::Store,
};
use stats::StatsKept;

/// How long the writer, or a network thread, may not turn before the daemon is said to be neither live nor ready: longer
/// than any sync of a disk that works and than a busy machine lets a thread wait, shorter than the patience of those who
/// probe.
const SILENCE: Span = Span::from_secs(10);
/// How often, and after which time, a probe looks again before it says that the daemon is not live. A machine that stood
/// still (a suspended laptop, a paused container) wakes its threads in any order, and each turns within half a second.
const SECOND_LOOKS: usize = 3;
/// See [`SECOND_LOOKS`].
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// What the listener tells of, filled in as the daemon starts.
pub(super) struct Ops {
    data: PathBuf,
    max_wal_bytes: u64,
    max_connections: usize,
    clock: Arc<dyn Clock>,
    started: Timestamp,
    pub(super) meters: Arc<Meters>,
    lines: OnceLock<Lines>,
    store: OnceLock<Store>,
    stats: StatsKept,
    spans: Arc<SpanCounts>,
    liveness: Arc<Liveness>,
    ending: AtomicBool,
}

/// What of the configuration is told.
pub(super) struct Facts {
    pub(super) data: PathBuf,
    pub(super) max_wal_bytes: u64,
    pub(super) max_connections: usize,
    pub(super) spans: Arc<SpanCounts>,
    pub(super) liveness: Arc<Liveness>,
}

impl Ops {
    /// Begins to count.
    ///
    /// # Errors
    /// A descriptor that can't be read: a mistake in the build.
    pub(super) fn new(facts: Facts, clock: &Arc<dyn Clock>) -> Result<Arc<Self>, prost_reflect::DescriptorError> {
        let Facts { data, max_wal_bytes, max_connections, spans, liveness } = facts;
        Ok(Arc::new(Ops {
            data,
            max_wal_bytes,
            max_connections,
            clock: clock.clone(),
            started: clock.utc(),
            meters: Arc::new(Meters::of(Methods::of_all_services()?.paths())),
            lines: OnceLock::new(),
            store: OnceLock::new(),
            stats: StatsKept::default(),
            spans,
            liveness,
            ending: AtomicBool::new(false),
        }))
    }

    /// Serves until what this returns is dropped.
    pub(super) fn serve<H: listener::HealthService>(
        self: &Arc<Self>,
        socket: TcpListener,
        health: H,
    ) -> io::Result<AbortOnDropHandle<()>> {
        let address = socket.local_addr()?;
        info!(%address, "serving metrics and probes");
        Ok(AbortOnDropHandle::new(tokio::spawn(listener::accept_all(socket, self.clone(), health))))
    }

    /// The clients' connections are these.
    pub(super) fn connections_are(&self, lines: Lines) {
        // There is one door.
        let _ = self.lines.set(lines);
    }

    /// The store is open.
    pub(super) fn opened(&self, store: Store) {
        let _ = self.store.set(store);
    }

    /// From now on it is not ready any more.
    pub(super) fn ending(&self) {
        self.ending.store(true, Relaxed);
    }

    /// The same as [`Ops::checks`], but what makes the daemon not live is looked at again for a moment.
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

    /// Each thing that has to be so for the daemon to be live, or ready, and whether it is.
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

/// One thing that has to be so.
struct Check {
    what: &'static str,
    wrong: String,
    ok: bool,
    /// Without it a restart is needed; else it is only not ready.
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
            move || store.time_since_turn()
        }));
        assert_eq!(wrong(&ops), []);
        // A writer that has ended turns as little as one that hangs.
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
