//! The rules alone: what one decision costs, without a store.

#![allow(clippy::unwrap_used)]

mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sagad::domain::{
    command::Operation,
    draft::Draft,
    ids::{FencingToken, Revision},
    lease::RestartGrace,
    saga::Saga,
    time::{Span, Timestamp},
    transition::{TransitionEffect, apply_due, create, next_due, transition},
};
use support::{claim, complete, creation, heartbeat, start, task};

fn now() -> Timestamp {
    start().plus(Span::from_secs(1))
}

fn draft(saga: &Saga) -> Draft {
    Draft::begin(saga.clone(), now(), RestartGrace::default(), saga.revision.after(1))
}

fn rules(c: &mut Criterion) {
    let planned = create(creation(task(1)), start(), Revision(1)).0;
    let mut claimed = draft(&planned);
    assert_eq!(transition(&mut claimed, &claim(1), None), Ok(TransitionEffect::Changed));
    let running = claimed.saga;
    let token: FencingToken = running.lease.as_ref().unwrap().token;
    // A holder that lost its lease: the refusal is on the way of every zombie.
    let refused = heartbeat(1, FencingToken(token.0 + 1));
    let cases: [(&str, &Saga, Operation); 4] = [
        ("claim", &planned, claim(1)),
        ("heartbeat", &running, heartbeat(1, token)),
        ("complete", &running, complete(1, token)),
        ("refused", &running, refused),
    ];
    let mut group = c.benchmark_group("rules");
    for (name, saga, operation) in &cases {
        let decide = |mut draft: Draft| {
            apply_due(&mut draft);
            let verdict = transition(&mut draft, black_box(operation), None);
            (verdict, draft)
        };
        assert_eq!(decide(draft(saga)).0.is_ok(), *name != "refused", "{name}");
        group.bench_function(*name, |b| b.iter_batched(|| draft(saga), decide, BatchSize::SmallInput));
    }
    group.bench_function("next due", |b| b.iter(|| next_due(black_box(&running), now(), &RestartGrace::default())));
    group.finish();
}

criterion_group!(benches, rules);
criterion_main!(benches);
