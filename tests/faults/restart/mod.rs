//! P11, over and over: the daemon is told to end, or killed, and started again on the same store and port, as an upgrade
//! does, while clients of every kind go on and repeat what was not answered. No call fails in the end, nothing happens
//! twice, no lease is lost, and every watcher's record is the history.
//!
//! `plain`: clients as a generated stub and `docs/how-to/worker.md` make them. `shipped`: the library's, and `sagad work`.
//! `RESTARTS=n` makes it longer.

mod calls;
mod ledger;
mod plain;
mod roles;
mod shipped;
mod streams;
mod workers;

use std::time::Duration;

use crate::support::{Daemon, daemon::ShutdownSignal, now};

/// Leases are shorter than the longest outage; what saves them is the grace.
const TTL_MS: u64 = 5_000;
const OUTAGE: Duration = Duration::from_millis(TTL_MS + 1_000);
/// What a daemon that is told to end has for it.
const DRAIN_GRACE: Duration = Duration::from_secs(10);
const ARGS: &[&str] = &["--restart-grace", "10s", "--drain-grace", "10s", "--log", "warn"];

/// What the restarts came to.
#[derive(Debug, Default)]
struct Restarts {
    count: u32,
    /// The longest time from the order to end until it had ended.
    slowest_end: Duration,
    /// The longest time until it served again; but for the one long outage.
    slowest_restart: Duration,
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Restarts it again and again; amid that it is once away for longer than any lease.
async fn restart_again_and_again(daemon: &mut Daemon, how: ShutdownSignal) -> Restarts {
    let mut restarts = Restarts { count: number("RESTARTS", 12), ..Restarts::default() };
    for n in 0..restarts.count {
        tokio::time::sleep(Duration::from_millis(rand::random_range(300..900))).await;
        let begun = now();
        // When it is told to end, this asserts that it does with exit code 0.
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
async fn p11_clients_that_retry_see_no_failure_over_upgrades() {
    plain::clients_go_on(ShutdownSignal::Term).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p11_clients_that_retry_see_no_failure_over_kills() {
    plain::clients_go_on(ShutdownSignal::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p11_shipped_workers_see_no_failure_over_upgrades() {
    shipped::workers_go_on(ShutdownSignal::Term).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p11_shipped_workers_see_no_failure_over_kills() {
    shipped::workers_go_on(ShutdownSignal::Kill).await;
}
