//! [`ComparedStore`]: a coordinator on a backend, which can be opened again.

use std::{cell::Cell, path::PathBuf, rc::Rc, sync::Arc};

use sagad::{
    clock::{Clock, ManualClock},
    coordinator::{
        Backend, Call, CallOutcome, Caller, Coordinator, InitialState, MaintenanceBudget, SweepBudget, TurnLimits,
        TurnStep,
    },
    domain::{
        command::{ClaimNext, Command, Request},
        event::Event,
        lease::RestartGrace,
        time::Timestamp,
    },
    store::{
        Reader,
        memory::{Memory, MemoryBackend},
        postgres::{self, ConnectOptions, CoordinatorName, PostgresWriter},
        sqlite,
    },
};
use tempfile::TempDir;

use crate::postgres::Database;

/// Data that outlives a coordinator.
pub trait StoreDisk {
    type Backend: Backend;

    /// The reference that it is compared with.
    fn reference(&self) -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Checks what the comparison can't see.
    fn verify(&self) {}

    fn open(&self) -> (Self::Backend, InitialState, Box<dyn Reader>);
}

#[derive(Default)]
pub struct MemoryDisk(Memory);

impl StoreDisk for MemoryDisk {
    type Backend = MemoryBackend;

    fn open(&self) -> (MemoryBackend, InitialState, Box<dyn Reader>) {
        let (backend, opening) = self.0.open_backend();
        (backend, opening, Box::new(self.0.reader()))
    }
}

pub struct SqliteDisk(TempDir);

impl Default for SqliteDisk {
    fn default() -> Self {
        SqliteDisk(tempfile::tempdir().unwrap())
    }
}

impl SqliteDisk {
    fn path(&self) -> PathBuf {
        self.0.path().join("sagad.db")
    }
}

impl StoreDisk for SqliteDisk {
    type Backend = sqlite::SqliteWriter;

    /// Runs the checks of `sagad check`.
    fn verify(&self) {
        assert_eq!(sqlite::check::check_file(&self.path()).unwrap().problems, Vec::<String>::new());
    }

    fn open(&self) -> (Self::Backend, InitialState, Box<dyn Reader>) {
        let (rows, opening, gate) = sqlite::open_writer(&self.path(), 1 << 20).unwrap();
        (rows.start().unwrap(), opening, Box::new(sqlite::open_reader(&self.path(), 2, gate).unwrap()))
    }
}

pub struct PostgresDisk(Database);

impl Default for PostgresDisk {
    fn default() -> Self {
        PostgresDisk(Database::new())
    }
}

impl StoreDisk for PostgresDisk {
    type Backend = PostgresWriter;

    fn reference(&self) -> MemoryDisk {
        MemoryDisk(Memory::that_loses_nothing())
    }

    fn open(&self) -> (Self::Backend, InitialState, Box<dyn Reader>) {
        let connect = ConnectOptions::parse(&self.0.url()).unwrap();
        let me = CoordinatorName { name: "test".into(), address: "nowhere".into() };
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let opened = postgres::open_parts(&connect, &me, 2, &clock, |_| {}).unwrap();
        (opened.writer, opened.initial_state, Box::new(opened.reader))
    }
}

/// Who made a call.
pub struct TestCaller {
    command: Command,
    is_held: Rc<Cell<bool>>,
    is_gone: Rc<Cell<bool>>,
}

impl Caller for TestCaller {
    fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    fn on_held(&self) {
        self.is_held.set(true);
    }
}

/// Held calls with their answers.
pub type AnsweredClaims = Vec<(ClaimNext, CallOutcome)>;
/// The outcome of a call, none if it is held, and the held calls that were answered after it.
pub type CallResult = (Option<CallOutcome>, AnsweredClaims);

/// The result of a turn.
#[derive(Debug, PartialEq)]
pub struct TurnReport {
    /// For each call.
    pub executed: Vec<CallResult>,
    /// The held calls that were answered before the first call and after the last.
    pub served: AnsweredClaims,
    /// True if all that was due was applied.
    pub complete: bool,
    /// The published events; none of a lost turn.
    pub events: Vec<Event>,
}

struct OpenStore<B> {
    coordinator: Coordinator<TestCaller>,
    backend: B,
    reader: Box<dyn Reader>,
}

/// One of the two compared stores.
pub struct ComparedStore<D: StoreDisk> {
    pub disk: D,
    open: Option<OpenStore<D::Backend>>,
    /// For each held call, in order, whether it was cancelled.
    held: Vec<Rc<Cell<bool>>>,
}

impl<D: StoreDisk> ComparedStore<D> {
    pub fn open(disk: D, grace: RestartGrace) -> Self {
        let mut store = ComparedStore { disk, open: None, held: Vec::new() };
        store.open_again(grace);
        store
    }

    fn open_again(&mut self, grace: RestartGrace) -> InitialState {
        let (backend, mut opening, reader) = self.disk.open();
        let coordinator = Coordinator::new(opening.clone(), grace, usize::MAX, Timestamp::ZERO);
        self.open = Some(OpenStore { coordinator, backend, reader });
        opening.due.sort_by_key(|(id, _)| *id);
        opening.ready.sort_by_key(|(id, _)| *id);
        opening.paused.sort();
        opening
    }

    pub fn coordinator(&self) -> &Coordinator<TestCaller> {
        &self.open.as_ref().unwrap().coordinator
    }

    fn coordinator_mut(&mut self) -> &mut Coordinator<TestCaller> {
        &mut self.open.as_mut().unwrap().coordinator
    }

    pub fn reader(&self) -> &dyn Reader {
        &*self.open.as_ref().unwrap().reader
    }

    /// Executes a turn with this budget for due changes.
    pub fn turn(&mut self, budget: usize, requests: &[Request], now: Timestamp) -> TurnReport {
        self.judge(budget, requests, now, true)
    }

    /// The same, but the turn is lost before its commit.
    pub fn lose_turn(&mut self, budget: usize, requests: &[Request], now: Timestamp) -> TurnReport {
        self.judge(budget, requests, now, false)
    }

    fn judge(&mut self, budget: usize, requests: &[Request], now: Timestamp, commits: bool) -> TurnReport {
        let held: Vec<_> = requests.iter().map(|_| (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)))).collect();
        let calls = requests.iter().zip(&held).map(|(request, (is_held, is_gone))| {
            let (is_held, is_gone) = (is_held.clone(), is_gone.clone());
            let caller = TestCaller { command: request.command.clone(), is_held, is_gone };
            Call { request: request.clone(), arrival: now, caller }
        });
        let mut report = TurnReport { executed: Vec::new(), served: Vec::new(), complete: false, events: Vec::new() };
        let mut is_swept = false;
        let mut observe = |seen: TurnStep<'_, TestCaller>, _, _| match seen {
            TurnStep::Judged(_, outcome) => report.executed.push((Some(outcome.clone()), Vec::new())),
            TurnStep::Served(served) => {
                let claim = |caller: &TestCaller| match &caller.command {
                    Command::ClaimNext(claim) => claim.clone(),
                    other => panic!("held: {other:?}"),
                };
                let served = served.iter().map(|(caller, outcome)| (claim(caller), outcome.clone()));
                match report.executed.last_mut().filter(|_| !is_swept) {
                    Some((_, after)) => after.extend(served),
                    None => report.served.extend(served),
                }
            }
            TurnStep::Swept(complete) => (report.complete, is_swept) = (complete, true),
            TurnStep::Unreadable(id, what) => panic!("{id:?}: {what}"),
        };
        let limits = TurnLimits { sweep: SweepBudget::of_cost(budget), ..TurnLimits::default() };
        let OpenStore { coordinator, backend, .. } = self.open.as_mut().unwrap();
        let turn = coordinator.turn(backend, calls.collect(), Some(now), limits, &mut observe);
        let turn = turn.unwrap_or_else(|failed| panic!("{:?}", failed.error));
        if commits {
            report.events = turn.commit().unwrap_or_else(|failed| panic!("{:?}", failed.error)).events;
        } else {
            drop(turn);
        }
        backend.maintain(MaintenanceBudget { no_calls_waiting: true, step: false }).unwrap();
        for ((outcome, _), (is_held, is_gone)) in report.executed.iter_mut().zip(held) {
            if is_held.get() {
                *outcome = None;
                self.held.push(is_gone);
            }
        }
        report
    }

    pub fn returned(&mut self, grace: RestartGrace) {
        self.coordinator_mut().returned(grace);
    }

    pub fn answer_overdue(&mut self, now: Timestamp) {
        while self.coordinator_mut().held_claims.take_overdue(now).is_some() {}
    }

    /// Cancels the oldest call, whether or not it was answered.
    pub fn cancel_a_call(&mut self) {
        if !self.held.is_empty() {
            self.held.remove(0).set(true);
        }
    }

    /// Closes the store, cleanly or not, and opens it again.
    pub fn reopen(&mut self, in_order: bool, now: Timestamp, grace: RestartGrace) -> InitialState {
        self.held.clear();
        if let Some(OpenStore { coordinator, mut backend, .. }) = self.open.take()
            && in_order
        {
            backend.close(now).unwrap();
            let opening = self.open_again(grace);
            assert_eq!(opening.next_revision, coordinator.next_revision(), "no revision is skipped");
            return opening;
        }
        self.open_again(grace)
    }
}
