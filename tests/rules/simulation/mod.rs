//! The coordinator's turns, held claims, sweep and watches on a virtual clock, among hundreds of workers that crash, pause and
//! lose answers. The coordinator itself crashes, stalls and runs out of disk. The simulation has one thread, and its seed
//! decides everything. After each commit a checker verifies the promises P1, P5, P6, P7 and P9.
//!
//! A step is one event: a message arrives, a worker acts, a transaction is written, a watcher reads.
//!
//!   SIM_STEPS=n      the number of steps in total (default 200,000)
//!   SIM_SEED=s       the first seed; a failure prints the seed that repeats it
//!   SIM_TRACE=t      prints the calls and answers about the saga whose id contains this
//!   SIM_RUN_STEPS=n  steps of one run; the next run has the next seed (default 50,000)

mod operators;
mod planted_fault;
mod promise_checker;
mod rng;
mod simulated_daemon;
mod simulated_watcher;
mod simulated_worker;
mod system;

use std::{
    collections::BTreeMap,
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use planted_fault::PlantedFault;
use sagad::domain::ids::Revision;
use system::System;

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} is to be a number: {value}")))
}

/// Simulates one run; panics if a promise is broken.
fn simulate(seed: u64, steps: u64, fault: PlantedFault) -> System {
    let mut system = System::new(seed, fault);
    for _ in 0..steps {
        system.step();
    }
    system.checker.compare(&system.disk.data());
    system
}

#[derive(Default)]
struct Totals(BTreeMap<String, u64>);

impl Totals {
    fn add(&mut self, system: &System) {
        let (counts, faults) = (&system.checker.counts, &system.faults);
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
            ("watches disconnected", faults.cuts),
            ("events watched", faults.watched),
            ("watches of compacted revisions", faults.compacted),
            ("sagas purged", counts.purged),
        ];
        for (name, number) in numbers {
            *self.0.entry(name.to_owned()).or_default() += number;
        }
        for (step, number) in &system.steps {
            *self.0.entry((*step).to_owned()).or_default() += number;
        }
        *self.0.entry("seconds of simulated time".to_owned()).or_default() += system.seconds();
        for (state, number) in &counts.by_state {
            *self.0.entry(format!("ended {state}")).or_default() += number;
        }
        for (refusal, number) in &counts.by_refusal {
            *self.0.entry(format!("refused {refusal}")).or_default() += number;
        }
    }
}

#[test]
fn promises_hold_in_every_simulated_run() {
    let (all, each) = (number("SIM_STEPS").unwrap_or(200_000), number("SIM_RUN_STEPS").unwrap_or(50_000));
    let first = number("SIM_SEED").unwrap_or(1);
    let mut totals = Totals::default();
    let mut left = all;
    for seed in first.. {
        let steps = left.min(each);
        match catch_unwind(AssertUnwindSafe(|| simulate(seed, steps, PlantedFault::None))) {
            Ok(system) => totals.add(&system),
            Err(panic) => {
                eprintln!(
                    "FAILED. To repeat: SIM_SEED={seed} SIM_STEPS={steps} SIM_RUN_STEPS={each} cargo test --test rules simulation::"
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
            assert!(*number > 0, "no {name}: it was not tested");
        }
    }
}

#[test]
fn the_same_seed_repeats_a_run() {
    let history = |seed| {
        let system = simulate(seed, 3000, PlantedFault::None);
        format!("{:?}", system.disk.data().events(Revision::ZERO, Revision(i64::MAX)).collect::<Vec<_>>())
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

/// The checker must be able to fail.
#[test]
fn planted_faults_are_detected() {
    let broken = [
        PlantedFault::AnswerBeforeCommit,
        PlantedFault::NoGrace,
        PlantedFault::WorkersExceedDeadlines,
        PlantedFault::WatchSkips,
    ];
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<_> = broken
        .into_iter()
        .filter(|fault| !(1..40).any(|seed| catch_unwind(|| simulate(seed, 20_000, *fault)).is_err()))
        .collect();
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not detected: {missed:?}");
}
