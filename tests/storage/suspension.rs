//! A suspension at any moment of the writer's turn: whatever arrives after the return is executed with the grace.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    mpsc,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use sagad::{
    clock::{Clock, ManualClock},
    domain::{
        command::{Answer, Command, Request},
        event::EventType,
        ids::Revision,
        rejection::Rejection,
        time::{Span, Timestamp},
    },
    store::{EventQuery, Store, StoreError, StoreOptions, memory::Memory},
};
use tokio::runtime::Runtime;

use super::{
    builders::*,
    test_store::{START, refusal_of, saga_of, sagas_of},
};

/// Far longer than the lease, and than an absence without grace.
const AWAY: Span = Span::from_secs(60);
const GRACE: Span = Span::from_secs(20);
/// At how many reads of the clock it is tried. A turn of a few changes has fewer than 60, but a writer that waits for the next one
/// reads it, too: with 60, one run in four missed the moment between looking at the clock and taking what arrived.
const READS: usize = 300;

/// A clock that stands still, except for one jump when the writer reads it for the n-th time. That simulates a suspension of the
/// process; the writer continues when the test lets it.
struct SuspendingClock {
    clock: ManualClock,
    armed: AtomicBool,
    /// The writer's reads until the jump.
    left: AtomicUsize,
    suspended: Mutex<mpsc::Sender<()>>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Clock for SuspendingClock {
    fn now(&self) -> Timestamp {
        let is_writer = std::thread::current().name() == Some("sagad-writer");
        if is_writer && self.armed.load(SeqCst) && self.left.fetch_sub(1, SeqCst) == 1 {
            self.armed.store(false, SeqCst);
            self.clock.advance(AWAY);
            self.suspended.lock().send(()).unwrap();
            self.go_on.lock().recv().unwrap();
        }
        self.clock.now()
    }

    fn advance_to(&self, time: Timestamp) {
        self.clock.advance_to(time);
    }

    fn utc(&self) -> Timestamp {
        self.clock.utc()
    }
}

/// A change that is in the writer's queue.
struct QueuedChange(Shared<BoxFuture<'static, Result<Answer, StoreError>>>);

impl QueuedChange {
    fn submit(store: &Store, command: impl ToCommand) -> Self {
        let (store, command) = (store.clone(), command.command());
        let call = async move { store.submit(Request { command, key: None, by: None }).await }.boxed().shared();
        let queued = QueuedChange(call);
        queued.is_answered();
        queued
    }

    fn is_answered(&self) -> bool {
        self.0.clone().now_or_never().is_some()
    }

    fn answer(self) -> Result<Answer, StoreError> {
        futures::executor::block_on(self.0)
    }
}

/// A lease that expires during the suspension, and the calls right after it.
fn suspended_at_read(runtime: &Runtime, nth: usize) {
    let (suspended, is_suspended) = mpsc::channel();
    let (goes_on, go_on) = mpsc::channel();
    let clock = Arc::new(SuspendingClock {
        clock: ManualClock::at(START),
        armed: AtomicBool::new(false),
        left: AtomicUsize::new(nth),
        suspended: Mutex::new(suspended),
        go_on: Mutex::new(go_on),
    });
    let options = StoreOptions { restart_grace: GRACE, queue: 1000, batch: 100, readers: 1, max_waiting: 10 };
    let (store, mut writer) =
        Memory::default().open(&options, Arc::<SuspendingClock>::clone(&clock) as Arc<dyn Clock>).unwrap();
    let at_once = |command: Command| QueuedChange::submit(&store, command).answer();
    sagas_of(at_once(create([creation("kept"), creation("busy")])));
    let held = saga_of(at_once(claim("kept", "w")));

    clock.armed.store(true, SeqCst);
    'busy: loop {
        let change = QueuedChange::submit(&store, annotate("busy", "noted"));
        while !change.is_answered() {
            if is_suspended.try_recv().is_ok() {
                break 'busy;
            }
            std::thread::yield_now();
        }
    }
    // Calls right after the return, before the writer has read the clock.
    let (claimed, kept) =
        (QueuedChange::submit(&store, claim("kept", "other")), QueuedChange::submit(&store, heartbeat(&held)));
    goes_on.send(()).unwrap();

    let claimed = refusal_of(claimed.answer());
    assert!(matches!(claimed, Rejection::LeaseHeld { .. }), "suspended at read {nth}: {claimed:?}");
    let kept = kept.answer();
    assert!(kept.is_ok(), "suspended at read {nth}: {kept:?}");
    let all = EventQuery { through: Revision(i64::MAX), limit: 10_000, whole: true, ..EventQuery::default() };
    let events = runtime.block_on(store.events(all)).unwrap();
    let expired: Vec<_> = events.iter().filter(|event| event.kind == EventType::LeaseExpired).collect();
    assert!(expired.is_empty(), "suspended at read {nth}: {expired:?}");
    assert!(store.vitals().clock.absences > 0, "suspended at read {nth}: the absence was not noticed");
    store.close();
    runtime.block_on(writer.ended()).unwrap();
}

#[test]
fn p6_a_suspension_at_any_moment_of_a_turn_gives_grace() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    for nth in 1..=READS {
        suspended_at_read(&runtime, nth);
    }
}
