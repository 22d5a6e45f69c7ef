//! One store of the two: an engine, its held calls, and what it can be opened on again.

use std::path::PathBuf;

use sagad::{
    domain::{
        command::{ClaimNext, Command, Request},
        event::Event,
        lease::Absence,
        time::Timestamp,
    },
    store::{
        Reader,
        execute::{Engine, Outcome},
        memory::{Memory, MemoryRows},
        post::Reply,
        rows::{Opening, Rows},
        sqlite,
        sweep::SweepBudget,
        waiters::{Waiter, Waiters},
    },
};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Revisions that are reserved at each opening: more than are given until the next one.
const RESERVE: usize = 1 << 20;

/// What outlives an engine.
pub trait Disk {
    type Rows: Rows;
    fn open(&self) -> (Self::Rows, Opening, Box<dyn Reader>);
}

#[derive(Default)]
pub struct MemoryDisk(Memory);

impl Disk for MemoryDisk {
    type Rows = MemoryRows;

    fn open(&self) -> (MemoryRows, Opening, Box<dyn Reader>) {
        let (rows, opening) = self.0.open_rows();
        (rows, opening, Box::new(self.0.reader()))
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
    type Rows = sqlite::SqliteRows;

    fn open(&self) -> (Self::Rows, Opening, Box<dyn Reader>) {
        let (rows, opening, gate) = sqlite::open_rows(&self.path(), 1 << 20).unwrap();
        (rows.into_rows(), opening, Box::new(sqlite::open_reader(&self.path(), 2, gate).unwrap()))
    }
}

/// An outcome, and which held calls were answered after it with what.
pub type Executed = (Option<Outcome>, Vec<(ClaimNext, Outcome)>);

struct Open<R> {
    engine: Engine<R>,
    reader: Box<dyn Reader>,
}

/// One of the two.
pub struct Side<D: Disk> {
    pub disk: D,
    open: Option<Open<D::Rows>>,
    waiters: Waiters,
    callers: Vec<oneshot::Receiver<Outcome>>,
}

impl<D: Disk> Side<D> {
    pub fn open(disk: D, absence: Absence) -> Self {
        let mut side = Side { disk, open: None, waiters: Waiters::default(), callers: Vec::new() };
        side.open_again(absence);
        side
    }

    fn open_again(&mut self, absence: Absence) -> Opening {
        let (mut rows, mut opening, reader) = self.disk.open();
        assert!(rows.reserve_revisions(opening.next_revision.after(RESERVE)).unwrap());
        self.open = Some(Open { engine: Engine::new(rows, opening.clone(), absence), reader });
        opening.due.sort_by_key(|due| due.id);
        opening.ready.sort_by_key(|(id, _)| *id);
        opening.paused.sort();
        opening
    }

    pub fn engine(&self) -> &Engine<D::Rows> {
        &self.open.as_ref().unwrap().engine
    }

    fn engine_mut(&mut self) -> &mut Engine<D::Rows> {
        &mut self.open.as_mut().unwrap().engine
    }

    pub fn reader(&self) -> &dyn Reader {
        &*self.open.as_ref().unwrap().reader
    }

    pub fn begin(&mut self, budget: usize) {
        self.engine_mut().begin_with(SweepBudget::of_cost(budget)).unwrap();
    }

    pub fn execute(&mut self, request: &Request, now: Timestamp) -> Executed {
        let outcome = self.engine_mut().execute(request, now).unwrap();
        let until = self.engine_mut().held_until(request, &outcome, now, now).unwrap();
        let outcome = match (&request.command, until) {
            (Command::ClaimNext(wish), Some(until)) => {
                let (answer, caller) = Reply::expected();
                self.callers.push(caller);
                self.waiters.hold(Waiter {
                    wish: wish.clone(),
                    key: request.key,
                    by: None,
                    until,
                    answer,
                    credentials: None,
                    share: None,
                });
                None
            }
            (
                Command::ClaimNext(_)
                | Command::Create(_)
                | Command::Change(_)
                | Command::SetPaused(_)
                | Command::Purge(_),
                _,
            ) => Some(outcome),
        };
        (outcome, self.serve(now))
    }

    fn serve(&mut self, now: Timestamp) -> Vec<(ClaimNext, Outcome)> {
        let Side { open, waiters, .. } = self;
        let served = open.as_mut().unwrap().engine.serve(waiters, now).unwrap();
        served.into_iter().map(|(waiter, outcome)| (waiter.wish, outcome)).collect()
    }

    pub fn sweep(&mut self, now: Timestamp) -> (bool, Vec<(ClaimNext, Outcome)>) {
        let Side { open, waiters, .. } = self;
        let engine = &mut open.as_mut().unwrap().engine;
        engine.sweep_for_held(waiters, now).unwrap();
        let complete = engine.sweep(now).unwrap();
        let mut answered = self.serve(now);
        let Side { open, waiters, .. } = self;
        let swept = open.as_mut().unwrap().engine.take_swept(waiters);
        answered.extend(swept.into_iter().map(|(waiter, outcome)| (waiter.wish, outcome)));
        (complete, answered)
    }

    pub fn forget(&mut self, before: Timestamp, limit: usize) -> usize {
        self.engine_mut().rows.forget_answers(before, limit).unwrap()
    }

    pub fn commit(&mut self) -> Vec<Event> {
        let events = self.engine_mut().commit().unwrap();
        self.engine_mut().rows.maintain(true).unwrap();
        events
    }

    pub fn roll_back(&mut self) {
        self.engine_mut().rollback().unwrap();
    }

    pub fn returned(&mut self, absence: Absence) {
        self.engine_mut().returned(absence);
    }

    pub fn let_go_overdue(&mut self, now: Timestamp) {
        while self.waiters.take_overdue(now).is_some() {}
    }

    /// The oldest caller goes away, whether or not it was answered.
    pub fn lose_a_caller(&mut self) {
        if !self.callers.is_empty() {
            self.callers.remove(0);
        }
    }

    /// Ends, with what was not committed lost unless it ends in good order, and opens again.
    pub fn reopen(&mut self, in_order: bool, now: Timestamp, absence: Absence) -> Opening {
        self.waiters.take_all();
        self.callers.clear();
        if let Some(mut open) = self.open.take()
            && in_order
        {
            let next = open.engine.next_revision();
            open.engine.rows.close(next, now).unwrap();
        }
        self.open_again(absence)
    }
}
