//! P11: the daemon is ended by SIGTERM or SIGKILL again and again and started on the same store and port, as in an upgrade, while
//! clients of every kind work and repeat unanswered calls. No call fails finally, nothing happens twice, no lease is lost, and
//! every watcher's record equals the history.
//!
//! `plain_clients`: clients made of a generated stub by `docs/how-to/worker.md`. `library_clients`: those of the library, and
//! `sagad work`.
//! `RESTARTS=n` makes it longer.

mod acknowledged_events;
mod library_clients;
mod library_parts;
mod plain_client;
mod plain_clients;
mod retrying_caller;
mod streams;

use std::time::Duration;

use crate::support::{Daemon, daemon::ShutdownSignal, now, number};

/// Leases are shorter than the longest outage, so they need the grace.
const TTL_MS: u64 = 5_000;
const OUTAGE: Duration = Duration::from_millis(TTL_MS + 1_000);
/// The daemon's drain grace.
const DRAIN_GRACE: Duration = Duration::from_secs(10);
const ARGS: &[&str] = &["--restart-grace", "10s", "--drain-grace", "10s", "--log", "warn"];

/// The restarts and their times.
#[derive(Debug, Default)]
struct Restarts {
    count: u32,
    /// The longest time from the signal until the daemon had ended.
    slowest_end: Duration,
    /// The longest time until it served again, except for the long outage.
    slowest_restart: Duration,
}

/// Restarts the daemon again and again; one outage is longer than any lease.
async fn restart_again_and_again(daemon: &mut Daemon, how: ShutdownSignal) -> Restarts {
    let mut restarts = Restarts { count: number("RESTARTS").unwrap_or(12), ..Restarts::default() };
    for n in 0..restarts.count {
        tokio::time::sleep(Duration::from_millis(rand::random_range(300..900))).await;
        let begun = now();
        // For SIGTERM this asserts exit code 0.
        daemon.end(how).await;
        let ended = begun.elapsed();
        assert!(how == ShutdownSignal::Kill || ended < DRAIN_GRACE, "it took {ended:?} to end");
        restarts.slowest_end = restarts.slowest_end.max(ended);
        let long = n == restarts.count / 2;
        if long {
            tokio::time::sleep(OUTAGE).await;
        }
        tokio::task::block_in_place(|| daemon.start_again());
        if !long {
            restarts.slowest_restart = restarts.slowest_restart.max(begun.elapsed());
        }
    }
    restarts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p11_retrying_clients_see_no_failure_over_sigterm_restarts() {
    plain_clients::clients_go_on(ShutdownSignal::Term).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p11_retrying_clients_see_no_failure_over_kill_9_restarts() {
    plain_clients::clients_go_on(ShutdownSignal::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p11_library_workers_see_no_failure_over_sigterm_restarts() {
    library_clients::workers_go_on(ShutdownSignal::Term).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p11_library_workers_see_no_failure_over_kill_9_restarts() {
    library_clients::workers_go_on(ShutdownSignal::Kill).await;
}
