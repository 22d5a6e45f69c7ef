//! The writer without the network: cycles in batches of 256, ids in order, per change. `in memory` is on a file system where
//! a sync costs nothing, so it is the work alone (goal: 5 µs or less); `synced` is where temporary files are, which should
//! be a disk (`TMPDIR`).

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{BATCH, CHANGES, Cycles};

/// Where Linux keeps files in memory.
const MEMORY: &str = "/dev/shm";

fn writer(c: &mut Criterion) {
    let mut group = c.benchmark_group("writer");
    // One iteration is one change, so that the time of an iteration is the figure.
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(10));
    let memory = Path::new(MEMORY);
    if memory.is_dir() {
        let dir = tempfile::tempdir_in(memory).unwrap();
        group.bench_function("cycle, in memory", |b| b.iter_custom(|changes| cycles(dir.path(), changes)));
    }
    let dir = tempfile::tempdir().unwrap();
    group.bench_function("cycle, synced", |b| b.iter_custom(|changes| cycles(dir.path(), changes)));
    group.finish();
}

/// The time of so many changes, on a store of its own.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn cycles(dir: &Path, changes: u64) -> Duration {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let mut cycles = Cycles::on(dir.path());
    let batches = changes.div_ceil(BATCH * CHANGES);
    cycles.create(batches * BATCH);
    let begun = Instant::now();
    (0..batches).for_each(|_| cycles.cycle());
    let spent = begun.elapsed();
    // What was done beyond what was asked for does not count.
    spent.mul_f64(changes as f64 / (batches * BATCH * CHANGES) as f64)
}

criterion_group!(benches, writer);
criterion_main!(benches);
