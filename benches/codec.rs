//! What lies between bytes and the rules: requests decoded and parsed, answers rendered and encoded, rows read.

#![allow(clippy::unwrap_used)]

mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use prost::Message;
use sagad::{
    domain::{
        draft::Draft,
        ids::Revision,
        lease::RestartGrace,
        saga::Saga,
        transition::{create, transition},
    },
    grpc::{parse, render},
    proto::{ClaimRequest, ClaimResponse, CompleteRequest, CreateSagaRequest, HeartbeatRequest, HeartbeatResponse},
    store::ReadTime,
};
use support::{Cycles, claim, creation, start, task};

const ROWS: u64 = 10_000;

fn requests(c: &mut Criterion) {
    let (task_id, owner_id, fencing_token) = (task(1).to_string(), "worker-1".to_owned(), 4711);
    let request_id = "0190163d-8694-739b-aea5-966c26f8ad91".to_owned();
    let ttl = Some(prost_types::Duration { seconds: 30, nanos: 0 });
    let create = CreateSagaRequest { task_id: task_id.clone(), queue: "bench".into(), ..Default::default() };
    let claim = ClaimRequest { task_id: task_id.clone(), owner_id: owner_id.clone(), ttl, ..Default::default() };
    let repeatable = ClaimRequest { request_id, ..claim.clone() };
    let heartbeat =
        HeartbeatRequest { task_id: task_id.clone(), owner_id: owner_id.clone(), fencing_token, ..Default::default() };
    let complete = CompleteRequest { task_id, owner_id, fencing_token, ..Default::default() };
    let mut group = c.benchmark_group("decode and parse");
    group.bench_function("CreateSaga", |b| parsed(b, &create));
    group.bench_function("Claim", |b| parsed(b, &claim));
    group.bench_function("Claim with request_id", |b| parsed(b, &repeatable));
    group.bench_function("Heartbeat", |b| parsed(b, &heartbeat));
    group.bench_function("Complete", |b| parsed(b, &complete));
    group.finish();
}

fn parsed<M: parse::ChangeRequest + Default>(b: &mut criterion::Bencher<'_>, message: &M) {
    let bytes = message.encode_to_vec();
    b.iter(|| parse::request(M::decode(black_box(bytes.as_slice())).unwrap()).unwrap());
}

/// A saga that is running.
fn running() -> Saga {
    let planned = create(creation(task(1)), start(), Revision(1)).0;
    let mut draft = Draft::begin(planned, start(), RestartGrace::default(), Revision(2));
    transition(&mut draft, &claim(1), None).unwrap();
    draft.saga
}

fn answers(c: &mut Criterion) {
    let saga = running();
    let lease = saga.lease.clone().unwrap();
    let read_time = ReadTime { now: start(), grace: RestartGrace::default() };
    let mut group = c.benchmark_group("render and encode");
    group.bench_function("Claim", |b| {
        b.iter(|| ClaimResponse { saga: Some(render::saga::saga(black_box(&saga), &read_time)) }.encode_to_vec());
    });
    group.bench_function("Heartbeat", |b| {
        b.iter(|| {
            let lease = Some(render::saga::lease(black_box(&lease), &read_time));
            HeartbeatResponse { lease, directive: 1, ..Default::default() }.encode_to_vec()
        });
    });
    group.finish();
}

fn rows(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut cycles = Cycles::on(dir.path());
    cycles.create(ROWS);
    let mut n = 0;
    c.bench_function("row of a saga, found by its id and read", |b| {
        b.iter(|| {
            n = (n + 1) % ROWS;
            cycles.find(n);
        });
    });
}

criterion_group!(benches, requests, answers, rows);
criterion_main!(benches);
