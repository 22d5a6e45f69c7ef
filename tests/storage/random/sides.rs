//! One store of the two: a coordinator with what it can be opened on again.

use std::{cell::Cell, path::PathBuf, rc::Rc};

use sagad::{
    coordinator::{
        Backend, Call, CallOutcome, Caller, Coordinator, InitialState, MaintenanceBudget, SweepBudget, TurnLimits,
        TurnStep,
    },
    domain::{
        command::{ClaimNext, Command, Request},
        event::Event,
        lease::ReturnGrace,
        time::Timestamp,
    },
    store::{
        Reader,
        memory::{Memory, MemoryBackend},
        sqlite,
    },
};
use tempfile::TempDir;

/// What outlives a coordinator.
pub trait Disk {
    type Backend: Backend;
    fn open(&self) -> (Self::Backend, InitialState, Box<dyn Reader>);
}

#[derive(Default)]
pub struct MemoryDisk(Memory);

impl Disk for MemoryDisk {
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

    /// Looks for anything that the comparison can't see.
    pub fn verify(&self) {
        assert_eq!(sqlite::check::check_file(&self.path()).unwrap().problems, Vec::<String>::new());
    }
}

impl Disk for SqliteDisk {
    type Backend = sqlite::SqliteWriter;

    fn open(&self) -> (Self::Backend, InitialState, Box<dyn Reader>) {
        let (rows, opening, gate) = sqlite::open_writer(&self.path(), 1 << 20).unwrap();
        (rows.start().unwrap(), opening, Box::new(sqlite::open_reader(&self.path(), 2, gate).unwrap()))
    }
}

/// Who made a call.
pub struct SideCaller {
    command: Command,
    is_held: Rc<Cell<bool>>,
    is_gone: Rc<Cell<bool>>,
}

impl Caller for SideCaller {
    fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    fn on_held(&self) {
        self.is_held.set(true);
    }
}

/// Held calls that were answered, with what.
pub type Served = Vec<(ClaimNext, CallOutcome)>;
/// An outcome, none for a call that is held, and which held calls were answered after it with what.
pub type Executed = (Option<CallOutcome>, Served);

/// What a turn came to.
#[derive(Debug, PartialEq)]
pub struct Report {
    /// For each call.
    pub executed: Vec<Executed>,
    /// What held calls were answered before the first call and after the last.
    pub served: Served,
    /// Whether all that was due was applied.
    pub complete: bool,
    /// What is published; nothing of a turn that was lost.
    pub events: Vec<Event>,
}

struct Open<B> {
    coordinator: Coordinator<SideCaller>,
    backend: B,
    reader: Box<dyn Reader>,
}

/// One of the two.
pub struct Side<D: Disk> {
    pub disk: D,
    open: Option<Open<D::Backend>>,
    /// Those that were held, in order: whether they have gone away.
    held: Vec<Rc<Cell<bool>>>,
}

impl<D: Disk> Side<D> {
    pub fn open(disk: D, grace: ReturnGrace) -> Self {
        let mut side = Side { disk, open: None, held: Vec::new() };
        side.open_again(grace);
        side
    }

    fn open_again(&mut self, grace: ReturnGrace) -> InitialState {
        let (backend, mut opening, reader) = self.disk.open();
        let coordinator = Coordinator::new(opening.clone(), grace, usize::MAX, Timestamp::ZERO);
        self.open = Some(Open { coordinator, backend, reader });
        opening.due.sort_by_key(|(id, _)| *id);
        opening.ready.sort_by_key(|(id, _)| *id);
        opening.paused.sort();
        opening
    }

    pub fn coordinator(&self) -> &Coordinator<SideCaller> {
        &self.open.as_ref().unwrap().coordinator
    }

    fn coordinator_mut(&mut self) -> &mut Coordinator<SideCaller> {
        &mut self.open.as_mut().unwrap().coordinator
    }

    pub fn reader(&self) -> &dyn Reader {
        &*self.open.as_ref().unwrap().reader
    }

    /// A turn that may spend so much on what is due.
    pub fn turn(&mut self, budget: usize, requests: &[Request], now: Timestamp) -> Report {
        self.judge(budget, requests, now, true)
    }

    /// The same, lost before its commit.
    pub fn lose_turn(&mut self, budget: usize, requests: &[Request], now: Timestamp) -> Report {
        self.judge(budget, requests, now, false)
    }

    fn judge(&mut self, budget: usize, requests: &[Request], now: Timestamp, commits: bool) -> Report {
        let held: Vec<_> = requests.iter().map(|_| (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)))).collect();
        let calls = requests.iter().zip(&held).map(|(request, (is_held, is_gone))| {
            let (is_held, is_gone) = (is_held.clone(), is_gone.clone());
            let caller = SideCaller { command: request.command.clone(), is_held, is_gone };
            Call { request: request.clone(), arrival: now, caller }
        });
        let mut report = Report { executed: Vec::new(), served: Vec::new(), complete: false, events: Vec::new() };
        let mut is_swept = false;
        let mut observe = |seen: TurnStep<'_, SideCaller>, _, _| match seen {
            TurnStep::Judged(_, outcome) => report.executed.push((Some(outcome.clone()), Vec::new())),
            TurnStep::Served(served) => {
                let claim = |caller: &SideCaller| match &caller.command {
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
        let Open { coordinator, backend, .. } = self.open.as_mut().unwrap();
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

    pub fn returned(&mut self, grace: ReturnGrace) {
        self.coordinator_mut().returned(grace);
    }

    pub fn let_go_overdue(&mut self, now: Timestamp) {
        while self.coordinator_mut().held_claims.take_overdue(now).is_some() {}
    }

    /// The oldest caller goes away, whether or not it was answered.
    pub fn lose_a_caller(&mut self) {
        if !self.held.is_empty() {
            self.held.remove(0).set(true);
        }
    }

    /// Ends, in good order or not, and opens again.
    pub fn reopen(&mut self, in_order: bool, now: Timestamp, grace: ReturnGrace) -> InitialState {
        self.held.clear();
        if let Some(Open { coordinator, mut backend, .. }) = self.open.take()
            && in_order
        {
            backend.close(now).unwrap();
            let opening = self.open_again(grace);
            assert_eq!(opening.next_revision, coordinator.next_revision(), "none is skipped");
            return opening;
        }
        self.open_again(grace)
    }
}
