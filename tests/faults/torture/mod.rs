//! P1: an acknowledged change survives `kill -9` at any moment, and P7 along with it: a watcher that is cut off by each
//! kill has exactly the history in the end.
//!
//! A supervisor with a ledger of its own starts the daemon, lets clients work, kills it at random moments, verifies the
//! store, starts it again and compares. 25 kills as a rule; `TORTURE_KILLS=n` makes it a soak. A run prints its seed;
//! `TORTURE_SEED=n` plays the same choices again (the kernel's scheduling is not ours to repeat).

mod checkpoints;
mod choose;
mod client;
mod migrations;
mod moments;
mod op;
mod supervisor;
mod verify;
mod watcher;

use crate::support;
use supervisor::{Plan, number_from_environment, run};

/// Kills in one store before a new one is begun, so that verifying it stays quick.
const KILLS_PER_STORE: u64 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_acknowledged_changes_survive_kills() {
    let kills = number_from_environment("TORTURE_KILLS").unwrap_or(KILLS_PER_STORE);
    let seed = number_from_environment("TORTURE_SEED").unwrap_or_else(rand::random);
    let begun = support::now();
    let mut done = supervisor::Tally::default();
    for round in 0..kills.div_ceil(KILLS_PER_STORE) {
        let plan = Plan {
            seed: seed.wrapping_add(round),
            kills: KILLS_PER_STORE.min(kills - round * KILLS_PER_STORE),
            // Every other store is given the smallest log there is, so that it is checkpointed and begun anew all the time.
            args: if round % 2 == 0 { vec!["--max-wal-bytes=1MiB".into()] } else { Vec::new() },
        };
        eprintln!("torture: TORTURE_SEED={} ({} kills)", plan.seed, plan.kills);
        done.add(run(plan).await);
        eprintln!("torture: {:.0} s: {done}", begun.elapsed().as_secs_f64());
    }
    assert!(done.acknowledged > 10 * kills, "too little was done between the kills: {done}");
}
