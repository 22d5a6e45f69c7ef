//! [`Liveness`]: whether the network threads and the writer still run, and for how long each has been silent.
//!
//! A probe that checks only the writer reports "live" while network threads hang. So a task on each network thread stores
//! the time twice a second; it runs only while its thread runs tasks, like calls.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    clock::Clock,
    domain::time::{Span, Timestamp},
};

/// How often a network thread stores the time: often enough for limits of a second or more, and no load when idle.
const TICK: Duration = Duration::from_millis(500);

/// Returns how long ago the writer last ran.
pub(super) type WriterSilence = Arc<dyn Fn() -> Span + Send + Sync>;

/// A thread that has to run for calls to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DaemonThread {
    Writer,
    /// A network thread, by its number from 0.
    Network(usize),
}

impl fmt::Display for DaemonThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DaemonThread::Writer => f.write_str("the writer"),
            DaemonThread::Network(number) => write!(f, "network thread {number}"),
        }
    }
}

/// When each network thread last ran.
pub(super) struct Liveness {
    clock: Arc<dyn Clock>,
    last_runs: Vec<Arc<AtomicI64>>,
    writer: OnceLock<WriterSilence>,
    /// Dropping this ends the tasks.
    _tick_tasks: Vec<AbortOnDropHandle<()>>,
}

impl Liveness {
    /// Starts a task on each of these runtimes.
    pub(super) fn of(clock: &Arc<dyn Clock>, threads: &[Handle]) -> Arc<Self> {
        let last_runs: Vec<_> = threads.iter().map(|_| Arc::new(AtomicI64::new(clock.now().micros()))).collect();
        let tick_tasks = threads.iter().zip(&last_runs).map(|(thread, last_run)| {
            let (clock, last_run) = (clock.clone(), last_run.clone());
            AbortOnDropHandle::new(thread.spawn(async move {
                loop {
                    last_run.store(clock.now().micros(), Relaxed);
                    sleep(TICK).await;
                }
            }))
        });
        let tick_tasks = tick_tasks.collect();
        Arc::new(Liveness { clock: clock.clone(), last_runs, writer: OnceLock::new(), _tick_tasks: tick_tasks })
    }

    /// The store is open, so there is a writer from now on.
    pub(super) fn set_writer(&self, silence: WriterSilence) {
        // It is set only once: there is one store.
        let _ = self.writer.set(silence);
    }

    /// How long ago the writer last ran. None: the store is not open yet.
    pub(super) fn writer(&self) -> Option<Span> {
        self.writer.get().map(|silence| silence())
    }

    /// The network thread that has been silent for the longest time, and how long.
    pub(super) fn network(&self) -> (DaemonThread, Span) {
        let now = self.clock.now();
        let silences = self.last_runs.iter().map(|last_run| now.since(Timestamp::from_micros(last_run.load(Relaxed))));
        let longest = silences.enumerate().max_by_key(|(_, silence)| *silence);
        longest.map_or((DaemonThread::Network(0), Span::ZERO), |(number, silence)| {
            (DaemonThread::Network(number), silence)
        })
    }

    /// The thread that has been silent for the longest time, the writer included, and how long.
    pub(super) fn longest(&self) -> (DaemonThread, Span) {
        let network = self.network();
        match self.writer() {
            Some(silence) if silence > network.1 => (DaemonThread::Writer, silence),
            Some(_) | None => network,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SystemClock, serve::network_threads::NetworkThreads};

    #[tokio::test]
    async fn p13_a_hanging_network_thread_is_named() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let threads = NetworkThreads::start(3).unwrap();
        let liveness = Liveness::of(&clock, threads.handles());
        sleep(3 * TICK).await;
        assert!(liveness.network().1 < Span::from_secs(1), "{:?}", liveness.network());
        // A task that blocks its thread, like one that writes to a pipe that nobody reads.
        threads.handles()[1].spawn(async { std::thread::sleep(Duration::from_secs(3)) });
        sleep(4 * TICK).await;
        let (part, silence) = liveness.network();
        assert!(part == DaemonThread::Network(1) && silence > Span::from_secs(1), "{part} {silence}");
        liveness.set_writer(Arc::new(|| Span::from_secs(60)));
        assert_eq!(liveness.longest(), (DaemonThread::Writer, Span::from_secs(60)));
        sleep(4 * TICK).await;
        assert!(liveness.network().1 < Span::from_secs(1), "it runs again");
    }
}
