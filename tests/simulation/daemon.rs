//! The coordinator in the simulation: the engine, driven as the writer thread drives it (`src/store/writer.rs`), on a
//! clock of the simulation's.

use std::{collections::VecDeque, sync::Arc};

use sagad::{
    clock::ManualClock,
    domain::{
        bounds::{ABSENCE, ANSWER_KEPT},
        command::{Answer, Command, Request},
        event::Event,
        ids::Revision,
        lease::Absence,
        time::{Span, Timestamp},
    },
    store::{
        Store, StoreError,
        execute::{Engine, Outcome},
        post::Reply,
        rows::{Rows, RowsError},
        sweep::SweepBudget,
        waiters::{HeldUntil, Waiter, Waiters},
    },
};
use tokio::sync::oneshot;

use super::{
    disk::{Disk, DiskRows},
    judge::{Executed, Judge},
    sabotage::Sabotage,
    world::Call,
};

const LOOK_UP: i64 = 250_000;
/// Far less than the daemon spends on what is due: a few sagas are all that is due at once here.
const SWEEP: usize = 12;
const RESERVE: usize = 1 << 24;
const BATCH: usize = 64;
const WAITING: usize = 40;
const RETRY: Span = Span::from_secs(1);

/// What is written in one transaction.
pub struct Batch {
    calls: Vec<(Call, Timestamp)>,
    sweep_to: Option<Timestamp>,
}

/// Where an answer goes: straight to its caller, or to a call that was held.
enum To {
    Call(Box<Call>),
    Held(Reply),
}

/// What was executed, for the judge, once it is committed.
enum Logged {
    Command(Box<Request>, Outcome),
    Served(Vec<(Request, Outcome)>),
    Swept(bool),
}

struct Entry {
    logged: Logged,
    through: Revision,
    now: Timestamp,
}

pub struct Daemon {
    engine: Engine<DiskRows>,
    disk: Disk,
    pub store: Store,
    inbox: VecDeque<(Call, Timestamp)>,
    waiters: Waiters,
    pub held: Vec<(oneshot::Receiver<Outcome>, Call)>,
    /// The coordinator's clock is the true time and this: set at start, and not moved by any step.
    offset: i64,
    grace: Span,
    time: Timestamp,
    last_able: Timestamp,
    forgot_at: Timestamp,
    disk_was_full: bool,
    sabotage: Sabotage,
}

impl Daemon {
    /// Opens the store at a true time, when the wall clock shows `utc`.
    pub fn start(disk: &Disk, now: i64, utc: i64, grace: Span, sabotage: Sabotage, judge: &mut Judge) -> Self {
        let opening = disk.0.lock().open();
        let clock = Timestamp::from_micros(utc).max(opening.last_time);
        let absence = Absence { returned_at: clock, grace };
        judge.absence = absence;
        let store = Store::looking_on(Arc::new(disk.clone()), Arc::new(ManualClock::at(clock)), opening.head);
        let reserved = opening.next_revision.after(RESERVE);
        let told = if sabotage == Sabotage::NoGrace { Absence::default() } else { absence };
        let mut engine = Engine::new(DiskRows(disk.clone()), opening, told);
        assert_eq!(engine.rows.reserve_revisions(reserved), Ok(true));
        Daemon {
            engine,
            disk: disk.clone(),
            store,
            inbox: VecDeque::new(),
            waiters: Waiters::default(),
            held: Vec::new(),
            offset: clock.micros() - now,
            grace,
            time: clock,
            last_able: clock,
            forgot_at: clock,
            disk_was_full: false,
            sabotage,
        }
    }

    pub fn clock(&self, now: i64) -> Timestamp {
        Timestamp::from_micros(now + self.offset)
    }

    pub fn arrive(&mut self, call: Call, now: i64) {
        let arrival = self.clock(now);
        self.inbox.push_back((call, arrival));
    }

    /// When the writer looks up next, if nothing arrives.
    pub fn next_turn(&self, now: i64) -> i64 {
        if !self.inbox.is_empty() || (self.engine.has_to_serve() && !self.disk_was_full) {
            return now;
        }
        let due = [self.engine.agenda.next(), self.waiters.next_deadline()];
        let due = due.into_iter().flatten().filter(|_| !self.disk_was_full).map(|at| at.micros() - self.offset);
        due.fold(now + LOOK_UP, i64::min).max(now + 1)
    }

    /// The top of the writer's loop: what it takes up now.
    pub fn turn(&mut self, now: i64, judge: &mut Judge) -> Batch {
        self.notice_absence(now, judge);
        let sweep_to = self.clock(now);
        let calls: Vec<_> = (0..BATCH).map_while(|_| self.inbox.pop_front()).collect();
        let drained = calls.len() < BATCH;
        Batch { calls, sweep_to: drained.then_some(sweep_to) }
    }

    fn notice_absence(&mut self, now: i64, judge: &mut Judge) {
        let clock = self.clock(now);
        if clock.since(self.last_able) > ABSENCE && !self.disk_was_full {
            let absence = Absence { returned_at: clock, grace: self.grace };
            judge.absence = absence;
            if self.sabotage != Sabotage::NoGrace {
                self.engine.returned(absence);
            }
        }
        if !self.disk_was_full {
            self.last_able = clock;
        }
    }

    /// Executes and commits a batch; `None`: the coordinator died before the commit. Returns the answers.
    pub fn write(&mut self, batch: Batch, now: i64, judge: &mut Judge, dies: bool) -> Option<Vec<(Call, Outcome)>> {
        if self.disk_was_full {
            if self.disk.0.lock().full_after == Some(0) {
                let full = || Err(StoreError::Full { retry_after: RETRY });
                return Some(batch.calls.into_iter().map(|(call, _)| (call, full())).collect());
            }
            self.disk_was_full = false;
            self.notice_absence(now, judge);
        }
        while let Some(waiter) = self.waiters.take_overdue(self.clock(now)) {
            waiter.answer.send(Ok(Answer::Sagas(Vec::new())));
        }
        let mut answered = Vec::new();
        let due = self.engine.agenda.due_by(self.clock(now)).is_some();
        let held = self.engine.has_to_serve() || self.waiters.has_until_swept();
        if !batch.calls.is_empty() || due || held {
            let mut calls = batch.calls.into_iter();
            let mut log = Vec::new();
            match self.execute_all(&mut calls, batch.sweep_to, &mut answered, &mut log, dies) {
                Ok(Some(events)) => {
                    self.tell(judge, log, &events);
                    self.store.tail().publish(events);
                }
                Ok(None) => {
                    if self.sabotage == Sabotage::AnswerBeforeCommit {
                        answered.iter().for_each(|(_, outcome)| judge.acknowledged(outcome, None));
                    }
                    return None;
                }
                Err(RowsError::Full) => {
                    self.engine.rollback().unwrap();
                    self.disk_was_full = true;
                    let rest = calls.map(|(call, _)| To::Call(Box::new(call)));
                    let all: Vec<_> = answered.drain(..).map(|(to, _)| to).chain(rest).collect();
                    answered = all.into_iter().map(|to| (to, Err(StoreError::Full { retry_after: RETRY }))).collect();
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        Some(self.deliver(answered))
    }

    fn execute_all(
        &mut self,
        calls: &mut impl Iterator<Item = (Call, Timestamp)>,
        sweep_to: Option<Timestamp>,
        answered: &mut Vec<(To, Outcome)>,
        log: &mut Vec<Entry>,
        dies: bool,
    ) -> Result<Option<Vec<Event>>, RowsError> {
        self.engine.begin_with(SweepBudget::of_cost(SWEEP))?;
        self.serve(answered, log)?;
        for (call, arrival) in calls {
            self.time = self.time.max(arrival);
            let executed = self.engine.execute(&call.request, self.time);
            let Ok(outcome) = executed else {
                answered.push((To::Call(Box::new(call)), Err(StoreError::OutcomeUnknown)));
                return executed.map(|_| None);
            };
            self.log(log, Logged::Command(Box::new(call.request.clone()), outcome.clone()));
            match self.engine.held_until(&call.request, &outcome, arrival, self.time)? {
                Some(until) => self.hold(call, until, answered),
                None => answered.push((To::Call(Box::new(call)), outcome)),
            }
            self.serve(answered, log)?;
        }
        self.time = self.time.max(sweep_to.unwrap_or(self.time));
        self.engine.sweep_for_held(&self.waiters, self.time)?;
        let complete = self.engine.sweep(self.time)?;
        self.log(log, Logged::Swept(complete));
        self.serve(answered, log)?;
        for (waiter, outcome) in self.engine.take_swept(&mut self.waiters) {
            answered.push((To::Held(waiter.answer), outcome));
        }
        if self.time.since(self.forgot_at) >= Span::from_secs(1) {
            self.forgot_at = self.time;
            self.engine.rows.forget_answers(self.time.minus(ANSWER_KEPT), 5000)?;
        }
        if dies {
            return Ok(None);
        }
        self.engine.commit().map(Some)
    }

    fn log(&self, log: &mut Vec<Entry>, logged: Logged) {
        log.push(Entry { logged, through: self.engine.next_revision(), now: self.time });
    }

    fn hold(&mut self, call: Call, until: HeldUntil, answered: &mut Vec<(To, Outcome)>) {
        let Command::ClaimNext(wish) = &call.request.command else { return };
        if self.waiters.len() >= WAITING {
            let overloaded = Err(StoreError::Overloaded { retry_after: RETRY });
            return answered.push((To::Call(Box::new(call)), overloaded));
        }
        let (answer, receiver) = Reply::expected();
        self.waiters.hold(Waiter {
            wish: wish.clone(),
            key: call.request.key,
            by: None,
            until,
            answer,
            credentials: None,
            share: None,
        });
        self.held.push((receiver, call));
    }

    fn serve(&mut self, answered: &mut Vec<(To, Outcome)>, log: &mut Vec<Entry>) -> Result<(), RowsError> {
        let mut all = Vec::new();
        for (waiter, outcome) in self.engine.serve(&mut self.waiters, self.time)? {
            let request = Request { command: Command::ClaimNext(waiter.wish), key: waiter.key, by: None };
            all.push((request, outcome.clone()));
            answered.push((To::Held(waiter.answer), outcome));
        }
        self.log(log, Logged::Served(all));
        Ok(())
    }

    /// Tells the judge what was committed.
    fn tell(&self, judge: &mut Judge, log: Vec<Entry>, events: &[Event]) {
        let mut from = 0;
        for Entry { logged, through, now } in log {
            let to = events.partition_point(|event| event.revision < through);
            let (events, true_time) = (&events[from..to], now.micros() - self.offset);
            from = to;
            match logged {
                Logged::Command(request, outcome) => {
                    judge.executed(&Executed { request: &request, outcome: &outcome, events, now, true_time });
                }
                Logged::Served(served) => judge.served(&served, events, now, true_time),
                Logged::Swept(complete) => judge.swept(events, now, true_time, complete),
            }
        }
        assert_eq!(from, events.len());
    }

    fn deliver(&mut self, answered: Vec<(To, Outcome)>) -> Vec<(Call, Outcome)> {
        let mut answers = Vec::new();
        for (to, outcome) in answered {
            match to {
                To::Call(call) => answers.push((*call, outcome)),
                To::Held(reply) => reply.send(outcome),
            }
        }
        let mut waiting = Vec::new();
        for (mut receiver, call) in std::mem::take(&mut self.held) {
            match receiver.try_recv() {
                Ok(outcome) => answers.push((call, outcome)),
                Err(oneshot::error::TryRecvError::Empty) => waiting.push((receiver, call)),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        self.held = waiting;
        answers
    }

    /// Ends in good order; returns those who are told that it did not happen.
    pub fn close(mut self, now: i64) -> Vec<Call> {
        let (next, clock) = (self.engine.next_revision(), self.clock(now));
        self.engine.rows.close(next, clock).unwrap();
        self.inbox.into_iter().map(|(call, _)| call).chain(self.held.into_iter().map(|(_, call)| call)).collect()
    }
}
