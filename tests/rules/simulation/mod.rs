//! The coordinator's core on a virtual clock: its turns with the rules, held claims and the sweep, and the watches, exactly as
//! they are built, among hundreds of workers that crash, stop and lose answers, with a coordinator that crashes, stalls
//! and runs out of disk. Single-threaded, and decided by a seed alone. After each commit the judge looks at what must
//! hold (P1, P5, P6, P7, P9 of the promises).
//!
//! A step is one thing that happens: a message arrives, a worker acts, a transaction is written, a watcher looks.
//!
//!   SIM_STEPS=n    how many steps, all in all (default 200,000)
//!   SIM_SEED=s     the first seed; a failure prints the seed with which it is repeated
//!   SIM_TRACE=t    tells what is asked and answered about the saga whose id contains this
//!   SIM_WORLD=n    steps in one world, before the next begins with the next seed (default 50,000)

mod daemon;
mod judge;
mod people;
mod rng;
mod sabotage;
mod watcher;
mod worker;
mod world;

use std::{
    collections::BTreeMap,
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use sabotage::Sabotage;
use sagad::domain::ids::Revision;
use world::World;

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} is to be a number: {value}")))
}

/// Simulates a world; panics when something does not hold.
fn simulate(seed: u64, steps: u64, sabotage: Sabotage) -> World {
    let mut world = World::new(seed, sabotage);
    for _ in 0..steps {
        world.step();
    }
    world.judge.compare(&world.disk.data());
    world
}

#[derive(Default)]
struct Totals(BTreeMap<String, u64>);

impl Totals {
    fn add(&mut self, world: &World) {
        let (counts, faults) = (&world.judge.counts, &world.faults);
        let numbers = [
            ("commands", counts.commands),
            ("events", counts.events),
            ("claims", counts.claims),
            ("heartbeats", counts.heartbeats),
            ("refused", counts.refused),
            ("repeats under a lease", counts.repeats),
            ("repeats of a request_id", counts.replays),
            ("leases expired", counts.expired),
            ("late results", counts.late),
            ("leases revoked", counts.revoked),
            ("coordinator crashes", faults.crashes),
            ("coordinator crashes in a transaction", faults.in_transaction),
            ("coordinator stops", faults.closes),
            ("coordinator stalls", faults.stalls),
            ("disk full", faults.full),
            ("clock steps", faults.clock_steps),
            ("worker crashes", faults.worker_crashes),
            ("worker pauses", faults.pauses),
            ("messages lost", faults.lost),
            ("watches cut off", faults.cuts),
            ("events watched", faults.watched),
            ("watches of what was compacted", faults.compacted),
            ("sagas purged", counts.purged),
        ];
        for (name, number) in numbers {
            *self.0.entry(name.to_owned()).or_default() += number;
        }
        for (step, number) in &world.steps {
            *self.0.entry((*step).to_owned()).or_default() += number;
        }
        *self.0.entry("seconds of simulated time".to_owned()).or_default() += world.seconds();
        for (state, number) in &counts.by_state {
            *self.0.entry(format!("ended {state}")).or_default() += number;
        }
        for (refusal, number) in &counts.by_refusal {
            *self.0.entry(format!("refused {refusal}")).or_default() += number;
        }
    }
}

#[test]
fn nothing_that_is_promised_is_ever_broken() {
    let (all, each) = (number("SIM_STEPS").unwrap_or(200_000), number("SIM_WORLD").unwrap_or(50_000));
    let first = number("SIM_SEED").unwrap_or(1);
    let mut totals = Totals::default();
    let mut left = all;
    for seed in first.. {
        let steps = left.min(each);
        match catch_unwind(AssertUnwindSafe(|| simulate(seed, steps, Sabotage::None))) {
            Ok(world) => totals.add(&world),
            Err(panic) => {
                eprintln!(
                    "FAILED. To repeat: SIM_SEED={seed} SIM_STEPS={steps} SIM_WORLD={each} cargo test --test rules simulation::"
                );
                resume_unwind(panic);
            }
        }
        left -= steps;
        if left == 0 {
            break;
        }
    }
    println!("{all} steps, seeds from {first}");
    for (name, number) in &totals.0 {
        println!("{number:>12} {name}");
    }
    if all >= 200_000 {
        for (name, number) in &totals.0 {
            assert!(*number > 0, "no {name}: what never happens is not tested");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let history = |seed| {
        let world = simulate(seed, 3000, Sabotage::None);
        format!("{:?}", world.disk.data().events(Revision::ZERO, Revision(i64::MAX)).collect::<Vec<_>>())
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

/// A judge that can't condemn is none.
#[test]
fn what_is_broken_on_purpose_is_noticed() {
    let broken = [Sabotage::AnswerBeforeCommit, Sabotage::NoGrace, Sabotage::WorkersOverstay, Sabotage::WatchSkips];
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<_> = broken
        .into_iter()
        .filter(|sabotage| !(1..40).any(|seed| catch_unwind(|| simulate(seed, 20_000, *sabotage)).is_err()))
        .collect();
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
