//! The coordinator in the simulation: its turns as they are built, on a clock and a disk of the simulation's.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use sagad::{
    clock::ManualClock,
    coordinator::{
        self, Backend, BackendError, CallOutcome, Caller, CommittedTurn, Coordinator, FailedTurn, StoreError,
        SweepBudget, TurnLimits, TurnStep,
    },
    domain::{
        bounds::ABSENCE_WITHOUT_GRACE,
        command::{Answer, Request},
        event::Event,
        ids::Revision,
        lease::RestartGrace,
        time::{Span, Timestamp},
    },
    store::{
        RecentEvents, Store,
        memory::{Memory, MemoryBackend},
    },
};

use super::{
    judge::{Executed, Judge},
    sabotage::Sabotage,
    world::{Call, From},
};

const LOOK_UP: i64 = 250_000;
/// Far less than the daemon spends on what is due: a few sagas are all that is due at once here.
const SWEEP: usize = 12;
const BATCH: usize = 64;
const WAITING: usize = 40;
const RETRY: Span = Span::from_secs(1);

/// The number of each worker's last call from before it hung up, if the coordinator was told.
type HungUp = Rc<RefCell<HashMap<usize, u64>>>;

/// Who made a call.
pub struct SimulatedCaller {
    call: Call,
    hung_up: HungUp,
}

impl Caller for SimulatedCaller {
    fn is_gone(&self) -> bool {
        match self.call.from {
            From::Worker(worker, _) => self.hung_up.borrow().get(&worker).is_some_and(|last| self.call.id <= *last),
            From::Person => false,
        }
    }
}

/// What is written in one turn.
pub struct Batch {
    calls: Vec<coordinator::Call<SimulatedCaller>>,
    sweep_to: Option<Timestamp>,
}

/// What was seen of a turn, for the judge, once it is committed.
enum Logged {
    Judged(Box<Request>, CallOutcome),
    Served(Vec<(Request, CallOutcome)>),
    Swept(bool),
}

struct Entry {
    logged: Logged,
    through: Revision,
    now: Timestamp,
}

pub struct Daemon {
    coordinator: Coordinator<SimulatedCaller>,
    backend: MemoryBackend,
    disk: Memory,
    pub store: Store,
    recent: Arc<RecentEvents>,
    inbox: VecDeque<coordinator::Call<SimulatedCaller>>,
    hung_up: HungUp,
    /// The coordinator's clock is the true time and this: set at start, and not moved by any step.
    offset: i64,
    grace: Span,
    last_able: Timestamp,
    disk_was_full: bool,
    sabotage: Sabotage,
}

impl Daemon {
    /// Opens the store at a true time, when the wall clock shows `utc`.
    pub fn start(disk: &Memory, now: i64, utc: i64, grace: Span, sabotage: Sabotage, judge: &mut Judge) -> Self {
        let (backend, opening) = disk.open_backend();
        let clock = Timestamp::from_micros(utc).max(opening.last_time);
        let returned = RestartGrace { returned_at: clock, length: grace };
        judge.grace = returned;
        let recent = Arc::new(RecentEvents::starting_at(opening.head));
        let store = Store::observer(Arc::new(disk.reader()), Arc::new(ManualClock::at(clock)), recent.clone());
        let told = if sabotage == Sabotage::NoGrace { RestartGrace::default() } else { returned };
        Daemon {
            coordinator: Coordinator::new(opening, told, WAITING, clock),
            backend,
            disk: disk.clone(),
            store,
            recent,
            inbox: VecDeque::new(),
            hung_up: HungUp::default(),
            offset: clock.micros() - now,
            grace,
            last_able: clock,
            disk_was_full: false,
            sabotage,
        }
    }

    pub fn clock(&self, now: i64) -> Timestamp {
        Timestamp::from_micros(now + self.offset)
    }

    pub fn arrive(&mut self, call: Call, now: i64) {
        let (request, arrival) = (call.request.clone(), self.clock(now));
        let caller = SimulatedCaller { call, hung_up: self.hung_up.clone() };
        self.inbox.push_back(coordinator::Call { request, arrival, caller });
    }

    /// A worker's connection is closed: of whatever it has called so far it wants to know nothing any more.
    pub fn hang_up(&mut self, worker: usize, last_call: u64) {
        self.hung_up.borrow_mut().insert(worker, last_call);
    }

    /// When the writer looks up next, if nothing arrives.
    pub fn next_turn(&self, now: i64) -> i64 {
        if !self.inbox.is_empty() {
            return now;
        }
        let next = self.coordinator.next_at(self.clock(now)).filter(|_| !self.disk_was_full);
        next.map_or(now + LOOK_UP, |at| (at.micros() - self.offset).min(now + LOOK_UP).max(now + 1))
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
        if clock.since(self.last_able) > ABSENCE_WITHOUT_GRACE && !self.disk_was_full {
            let grace = RestartGrace { returned_at: clock, length: self.grace };
            judge.grace = grace;
            if self.sabotage != Sabotage::NoGrace {
                self.coordinator.returned(grace);
            }
        }
        if !self.disk_was_full {
            self.last_able = clock;
        }
    }

    /// Judges and commits a batch; `None`: the coordinator died before the commit. Returns the answers.
    pub fn write(&mut self, batch: Batch, now: i64, judge: &mut Judge, dies: bool) -> Option<Vec<(Call, CallOutcome)>> {
        let full = |caller: SimulatedCaller| (caller.call, Err(StoreError::Full { retry_after: RETRY }));
        if self.disk_was_full {
            if self.disk.is_full() {
                return Some(batch.calls.into_iter().map(|call| full(call.caller)).collect());
            }
            self.disk_was_full = false;
            self.notice_absence(now, judge);
        }
        let clock = self.clock(now);
        let mut answers = Vec::new();
        while let Some(waiter) = self.coordinator.held_claims.take_overdue(clock) {
            answers.push((waiter.caller, Ok(Answer::Sagas(Vec::new()))));
        }
        if !batch.calls.is_empty() || self.coordinator.has_work(clock) {
            let mut log = Vec::new();
            match self.judge_and_commit(batch, &mut log, judge, dies)? {
                Ok(CommittedTurn { answered, events }) => {
                    self.tell(judge, log, &events);
                    self.recent.publish(events);
                    answers.extend(answered);
                }
                Err(FailedTurn { error: BackendError::Full, callers }) => {
                    self.disk_was_full = true;
                    let gone = answers.into_iter().map(|(caller, outcome)| (caller.call, outcome));
                    return Some(gone.chain(callers.into_iter().map(full)).collect());
                }
                Err(FailedTurn { error, .. }) => panic!("{error:?}"),
            }
        }
        // Whoever has hung up is answered into the void.
        Some(answers.into_iter().map(|(caller, outcome)| (caller.call, outcome)).collect())
    }

    #[allow(clippy::type_complexity, reason = "what a turn may come to, or that the coordinator died in it")]
    fn judge_and_commit(
        &mut self,
        batch: Batch,
        log: &mut Vec<Entry>,
        judge: &mut Judge,
        dies: bool,
    ) -> Option<Result<CommittedTurn<SimulatedCaller>, FailedTurn<SimulatedCaller>>> {
        let mut observe = |seen: TurnStep<'_, SimulatedCaller>, through, now| {
            let logged = match seen {
                TurnStep::Judged(request, outcome) => Logged::Judged(Box::new(request.clone()), outcome.clone()),
                TurnStep::Served(served) => {
                    let request = |caller: &SimulatedCaller| caller.call.request.clone();
                    Logged::Served(served.iter().map(|(caller, outcome)| (request(caller), outcome.clone())).collect())
                }
                TurnStep::Swept(complete) => Logged::Swept(complete),
                TurnStep::Unreadable(id, what) => panic!("{id:?}: {what}"),
            };
            log.push(Entry { logged, through, now });
        };
        let limits = TurnLimits { sweep: SweepBudget::of_cost(SWEEP), ..TurnLimits::default() };
        let turn = self.coordinator.turn(&mut self.backend, batch.calls, batch.sweep_to, limits, &mut observe);
        let mut turn = match turn {
            Ok(turn) => turn,
            Err(failed) => return Some(Err(failed)),
        };
        if dies {
            if self.sabotage == Sabotage::AnswerBeforeCommit {
                turn.take_answered().iter().for_each(|(_, outcome)| judge.acknowledged(outcome, None));
            }
            return None;
        }
        Some(turn.commit())
    }

    /// Tells the judge what was committed.
    fn tell(&self, judge: &mut Judge, log: Vec<Entry>, events: &[Event]) {
        let mut from = 0;
        for Entry { logged, through, now } in log {
            let to = events.partition_point(|event| event.revision < through);
            let (events, true_time) = (&events[from..to], now.micros() - self.offset);
            from = to;
            match logged {
                Logged::Judged(request, outcome) => {
                    judge.executed(&Executed { request: &request, outcome: &outcome, events, now, true_time });
                }
                Logged::Served(served) => judge.served(&served, events, now, true_time),
                Logged::Swept(complete) => judge.swept(events, now, true_time, complete),
            }
        }
        assert_eq!(from, events.len());
    }

    /// Ends in good order; returns those who are told that it did not happen.
    pub fn close(mut self, now: i64) -> Vec<Call> {
        let clock = self.clock(now);
        self.backend.close(clock).unwrap();
        let held = self.coordinator.held_claims.take_all().into_iter().map(|waiter| waiter.caller);
        self.inbox.into_iter().map(|call| call.caller).chain(held).map(|caller| caller.call).collect()
    }
}
