//! A soak test: the real daemon under a load of short-lived sagas, for `SOAK_MINUTES` (by default 40 s), at `SOAK_RATE` calls a
//! second (by default 300). After the first purge nothing may grow any more: neither the database, its log, memory, open files
//! nor threads. Calls may fail only as the contract allows.
//!
//! The samples are printed and written to `target/soak/samples.tsv`.

mod churn;
mod retention;
mod samples;
mod shrink;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::support::{self, Launch, WAIT_MAX, now, number};
use churn::ChurnLoad;
use sagad::proto::{GetStatsRequest, SagaState};
use samples::{DaemonSampler, Samples};

/// The limit of the log: small, so that it is reached again and again.
const WAL_BYTES: u64 = 4 << 20;
/// The number of samples.
const SAMPLES: u32 = 60;

/// Waits until all ended sagas are purged.
async fn until_gone(address: SocketAddr) {
    use SagaState::{Compensated, Completed, Failed, Quarantined};
    let (mut sagas, begun) = (support::sagas(address).await, now());
    loop {
        let stats = sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
        let states = stats.queues.iter().flat_map(|queue| &queue.states).filter(|state| state.count > 0);
        let ended = |state: SagaState| [Completed, Failed, Compensated, Quarantined].contains(&state);
        let left: Vec<_> = states.filter(|state| ended(state.state())).collect();
        if left.is_empty() {
            return;
        }
        // The longest retention, with margin for a busy machine.
        assert!(begun.elapsed() < 2 * WAIT_MAX, "they are never purged: {left:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_memory_and_descriptors_do_not_grow_under_load() {
    let length = Duration::from_secs_f64(60.0 * number("SOAK_MINUTES").unwrap_or(0.67));
    let rate = number("SOAK_RATE").unwrap_or(300.0);
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    // Short enough to reach the steady state within the first quarter.
    let age = format!("{}s", (length.as_secs() / 20).clamp(1, 60));
    let mut launch = Launch::on(&data).arg("--log=warn").arg(&format!("--max-wal-bytes={WAL_BYTES}"));
    for state in ["completed", "failed", "compensated", "quarantined"] {
        launch = launch.arg(&format!("--retain-{state}={age}"));
    }
    let mut daemon = launch.start();
    let address = daemon.address();

    let load = Arc::new(ChurnLoad::begin(address, rate));
    let sampler = DaemonSampler::of(&daemon, &data);
    let mut samples = Samples::default();
    let begun = now();
    for number in 1..=SAMPLES {
        let at = length * number / SAMPLES;
        tokio::time::sleep(at.saturating_sub(begun.elapsed())).await;
        assert!(daemon.has_ended().is_none(), "the daemon ended:\n{}", daemon.log());
        samples.add(sampler.sample(begun.elapsed(), load.done(), load.stored(address).await));
    }
    let failures = load.end().await;
    until_gone(address).await;
    println!("{samples}");
    samples.write();
    println!("{:.0} s: {} calls", begun.elapsed().as_secs_f64(), load.done());
    assert!(failures.is_empty(), "calls with unexpected failures: {failures:#?}");
    assert!(load.done() as f64 > rate * length.as_secs_f64() / 4.0, "too few calls: {}", load.done());
    samples.assert_no_growth(WAL_BYTES);
    let log = daemon.terminate().await;
    assert!(!log.contains("ERROR"), "{log}");
    support::check(&data);
}
