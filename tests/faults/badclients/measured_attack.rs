//! [`MeasuredAttack`]: an attack with measurements from begin to end.

use std::time::Duration;

use super::well_behaved_client::WellBehavedClient;
use crate::support::{
    process_usage::{CpuShare, PeakMemory, ProcessUsage},
    *,
};

/// Attacks are measured one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Descriptors that the daemon opens on first use and keeps: those of its readers.
const KEPT: usize = 16;

/// An attack on a daemon with a well-behaved client.
pub struct MeasuredAttack {
    pub daemon: Daemon,
    pub usage: ProcessUsage,
    name: &'static str,
    client: WellBehavedClient,
    descriptors: usize,
    peak: PeakMemory,
    share: CpuShare,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl MeasuredAttack {
    /// Starts a daemon and the well-behaved client.
    pub async fn begin(name: &'static str, args: &[&str]) -> Self {
        let alone = ALONE.lock().await;
        let daemon = Daemon::start_with(&[&["--log", "warn"], args].concat());
        MeasuredAttack::of(name, daemon, alone).await
    }

    async fn of(name: &'static str, daemon: Daemon, alone: tokio::sync::MutexGuard<'static, ()>) -> Self {
        let usage = ProcessUsage::of(daemon.pid());
        let descriptors = usage.descriptors();
        let client = WellBehavedClient::start(&daemon).await;
        client.slowest();
        let (peak, share) = (PeakMemory::watch(usage), CpuShare::begin(usage));
        MeasuredAttack { daemon, usage, name, client, descriptors, peak, share, _alone: alone }
    }

    /// Waits until the well-behaved client has done some rounds.
    pub async fn hold(&self, rounds: u64) {
        self.client.await_rounds(rounds).await;
    }

    /// After the attack: connections must be closed, the peak of memory below the bound, calls answered, and the CPU idle.
    pub async fn end(self, bound_mib: u64) {
        let MeasuredAttack { mut daemon, usage, name, client, descriptors, peak, share, _alone } = self;
        let cpu = share.so_far();
        let slowest = client.slowest();
        client.await_rounds(2).await;
        let (after, rounds) = (client.slowest(), client.stop().await);
        let peak_mib = peak.highest() / 1024;
        drop(peak);
        eventually("its places are free", || async { (usage.descriptors() <= descriptors + KEPT).then_some(()) }).await;
        eventually("it is idle", || async {
            let idle = CpuShare::begin(usage);
            tokio::time::sleep(Duration::from_millis(300)).await;
            (idle.so_far() < 0.25).then_some(())
        })
        .await;
        println!(
            "{name}: at most {peak_mib} MiB (bound {bound_mib}), {} MiB afterwards; {cpu:.2} cores; others: {rounds} \
             rounds, slowest call {:.1} ms, afterwards {:.1} ms",
            usage.memory() / 1024,
            slowest.as_secs_f64() * 1e3,
            after.as_secs_f64() * 1e3,
        );
        assert!(peak_mib <= bound_mib, "{name}: {peak_mib} MiB, more than {bound_mib}");
        daemon.terminate().await;
    }
}
