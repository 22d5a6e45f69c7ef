//! One attack from its beginning to its end, measured.

use std::time::Duration;

use super::{
    citizen::Citizen,
    measure::{Gauge, Peak, Share},
};
use crate::support::*;

/// Attacks are measured one at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Descriptors that the daemon opens when it first needs them, and keeps: those of its readers.
const KEPT: usize = 16;

/// What the daemon is to withstand.
pub struct Siege {
    pub daemon: Daemon,
    pub gauge: Gauge,
    name: &'static str,
    citizen: Citizen,
    descriptors: usize,
    peak: Peak,
    share: Share,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Siege {
    /// A daemon with a client at work.
    pub async fn begin(name: &'static str, args: &[&str]) -> Self {
        let alone = ALONE.lock().await;
        let daemon = Daemon::start_with(&[&["--log", "warn"], args].concat());
        Siege::of(name, daemon, alone).await
    }

    async fn of(name: &'static str, mut daemon: Daemon, alone: tokio::sync::MutexGuard<'static, ()>) -> Self {
        let gauge = Gauge(daemon.process().pid().as_raw_nonzero().get());
        let descriptors = gauge.descriptors();
        let citizen = Citizen::at_work(&daemon).await;
        citizen.slowest();
        let (peak, share) = (Peak::watch(gauge), Share::begin(gauge));
        Siege { daemon, gauge, name, citizen, descriptors, peak, share, _alone: alone }
    }

    /// Lets the attack last while the client does some rounds of its work.
    pub async fn hold(&self, rounds: u64) {
        self.citizen.work_on(rounds).await;
    }

    /// The attack is over, its connections are closed. All has to be as before: places free, memory below the bound
    /// throughout, calls answered, the CPU idle.
    pub async fn end(self, bound_mib: u64) {
        let Siege { mut daemon, gauge, name, citizen, descriptors, peak, share, _alone } = self;
        let cpu = share.so_far();
        let slowest = citizen.slowest();
        citizen.work_on(2).await;
        let (after, rounds) = (citizen.slowest(), citizen.go_home().await);
        let peak_mib = peak.highest() / 1024;
        drop(peak);
        eventually("its places are free", || async { (gauge.descriptors() <= descriptors + KEPT).then_some(()) }).await;
        eventually("it is idle", || async {
            let idle = Share::begin(gauge);
            tokio::time::sleep(Duration::from_millis(300)).await;
            (idle.so_far() < 0.25).then_some(())
        })
        .await;
        println!(
            "{name}: at most {peak_mib} MiB (bound {bound_mib}), {} MiB afterwards; {cpu:.2} cores; others: {rounds} \
             rounds, slowest call {:.1} ms, afterwards {:.1} ms",
            gauge.memory() / 1024,
            slowest.as_secs_f64() * 1e3,
            after.as_secs_f64() * 1e3,
        );
        assert!(peak_mib <= bound_mib, "{name}: {peak_mib} MiB, more than {bound_mib}");
        daemon.terminate().await;
    }
}
