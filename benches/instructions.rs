//! A fixed amount of the writer's work, for counting its instructions: `.ci/instructions` runs it under callgrind, which
//! counts what happens within [`measured`], and compares with what it was. Unlike time that is the same on a busy machine. What
//! the commands are made of, and their answers' end, don't count. Prints how many changes those were.

#![allow(clippy::unwrap_used)]

mod support;

use sagad::domain::{
    command::{Answer, Request},
    time::Timestamp,
};
use support::{BATCH, CHANGES, Core, Cycles, run};

/// Batches before it counts: statements are prepared, pages are there.
const WARMUP: u64 = 2;
/// Batches that count. Enough for the log to be copied in between, as it is in the long run.
const MEASURED: u64 = 20;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let mut cycles = Cycles::on(dir.path());
    cycles.create((WARMUP + MEASURED) * BATCH);
    (0..WARMUP).for_each(|_| cycles.cycle());
    cycles.run_by(measured);
    (0..MEASURED).for_each(|_| cycles.cycle());
    assert_eq!(cycles.left(), 0);
    println!("{}", MEASURED * BATCH * CHANGES);
}

/// Never inlined: callgrind knows it by its name.
#[inline(never)]
fn measured(core: &mut Core, requests: Vec<Request>, now: Timestamp) -> Vec<Answer> {
    run(core, requests, now)
}
