//! P1: an acknowledged change survives `kill -9` at any moment. Also P7: a watcher that is disconnected by each kill has exactly
//! the history in the end.
//!
//! A supervisor starts the daemon, lets clients work and record their answers, kills the daemon at random moments, verifies the
//! store, starts it again and compares it with the records. There are 25 kills; `TORTURE_KILLS=n` sets another number. A run
//! prints its seed; `TORTURE_SEED=n` repeats the same choices, but not the kernel's scheduling.

mod checkpoints;
mod kills_at_writes;
mod migrations;
mod op;
mod random_ops;
mod supervisor;
mod torture_client;
mod verify;
mod watcher;

use crate::support;
use supervisor::{TorturePlan, run};

/// Kills with one store before the next one, so that verifying it stays quick.
const KILLS_PER_STORE: u64 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_acknowledged_changes_survive_kills() {
    let kills = support::number("TORTURE_KILLS").unwrap_or(KILLS_PER_STORE);
    let seed: u64 = support::number("TORTURE_SEED").unwrap_or_else(rand::random);
    let begun = support::now();
    let mut done = supervisor::TortureCounts::default();
    for round in 0..kills.div_ceil(KILLS_PER_STORE) {
        let plan = TorturePlan {
            seed: seed.wrapping_add(round),
            kills: KILLS_PER_STORE.min(kills - round * KILLS_PER_STORE),
            // Every other store has the smallest log, so that it is checkpointed and restarted all the time.
            args: if round % 2 == 0 { vec!["--max-wal-bytes=1MiB".into()] } else { Vec::new() },
        };
        eprintln!("torture: TORTURE_SEED={} ({} kills)", plan.seed, plan.kills);
        done.add(run(plan).await);
        eprintln!("torture: {:.0} s: {done}", begun.elapsed().as_secs_f64());
    }
    assert!(done.acknowledged > 10 * kills, "too few changes between the kills: {done}");
}
