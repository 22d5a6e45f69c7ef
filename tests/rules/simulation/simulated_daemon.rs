//! [`SimulatedDaemon`]: the real coordinator with the simulation's clock and disk, and a loop like the writer's.

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
    planted_fault::PlantedFault,
    promise_checker::{ExecutedCommand, PromiseChecker},
    system::{Call, CallSource},
};

const LOOK_UP: i64 = 250_000;
/// Far less than the daemon's sweep budget, because only a few sagas are due at once in the simulation.
const SWEEP: usize = 12;
const BATCH: usize = 64;
const WAITING: usize = 40;
const RETRY: Span = Span::from_secs(1);

/// The number of each worker's last call before its connection was closed, if the coordinator learned of it.
type ClosedConnections = Rc<RefCell<HashMap<usize, u64>>>;

/// Who made a call.
pub struct SimulatedCaller {
    call: Call,
    closed_connections: ClosedConnections,
}

impl Caller for SimulatedCaller {
    fn is_gone(&self) -> bool {
        match self.call.from {
            CallSource::Worker(worker, _) => {
                self.closed_connections.borrow().get(&worker).is_some_and(|last| self.call.id <= *last)
            }
            CallSource::Operator => false,
        }
    }
}

/// The calls of one turn.
pub struct Batch {
    calls: Vec<coordinator::Call<SimulatedCaller>>,
    sweep_to: Option<Timestamp>,
}

/// An observation of a turn, for the checker once the turn is committed.
enum TurnObservation {
    Judged(Box<Request>, CallOutcome),
    Served(Vec<(Request, CallOutcome)>),
    Swept(bool),
}

struct ObservationEntry {
    logged: TurnObservation,
    through: Revision,
    now: Timestamp,
}

pub struct SimulatedDaemon {
    coordinator: Coordinator<SimulatedCaller>,
    backend: MemoryBackend,
    disk: Memory,
    pub store: Store,
    recent: Arc<RecentEvents>,
    inbox: VecDeque<coordinator::Call<SimulatedCaller>>,
    closed_connections: ClosedConnections,
    /// The difference of the coordinator's clock from the true time. Set at start; clock steps don't change it.
    offset: i64,
    grace: Span,
    last_able: Timestamp,
    disk_was_full: bool,
    fault: PlantedFault,
}

impl SimulatedDaemon {
    /// Opens the store at the true time `now`, when the wall clock shows `utc`.
    pub fn start(
        disk: &Memory,
        now: i64,
        utc: i64,
        grace: Span,
        fault: PlantedFault,
        checker: &mut PromiseChecker,
    ) -> Self {
        let (backend, opening) = disk.open_backend();
        let clock = Timestamp::from_micros(utc).max(opening.last_time);
        let returned = RestartGrace { returned_at: clock, length: grace };
        checker.grace = returned;
        let recent = Arc::new(RecentEvents::starting_at(opening.head));
        let store = Store::observer(Arc::new(disk.reader()), Arc::new(ManualClock::at(clock)), recent.clone());
        let told = if fault == PlantedFault::NoGrace { RestartGrace::default() } else { returned };
        SimulatedDaemon {
            coordinator: Coordinator::new(opening, told, WAITING, clock),
            backend,
            disk: disk.clone(),
            store,
            recent,
            inbox: VecDeque::new(),
            closed_connections: ClosedConnections::default(),
            offset: clock.micros() - now,
            grace,
            last_able: clock,
            disk_was_full: false,
            fault,
        }
    }

    pub fn clock(&self, now: i64) -> Timestamp {
        Timestamp::from_micros(now + self.offset)
    }

    pub fn arrive(&mut self, call: Call, now: i64) {
        let (request, arrival) = (call.request.clone(), self.clock(now));
        let caller = SimulatedCaller { call, closed_connections: self.closed_connections.clone() };
        self.inbox.push_back(coordinator::Call { request, arrival, caller });
    }

    /// A worker's connection is closed: its calls so far are cancelled.
    pub fn close_connection(&mut self, worker: usize, last_call: u64) {
        self.closed_connections.borrow_mut().insert(worker, last_call);
    }

    /// When the writer's loop runs next if nothing arrives.
    pub fn next_turn(&self, now: i64) -> i64 {
        if !self.inbox.is_empty() {
            return now;
        }
        let next = self.coordinator.next_at(self.clock(now)).filter(|_| !self.disk_was_full);
        next.map_or(now + LOOK_UP, |at| (at.micros() - self.offset).min(now + LOOK_UP).max(now + 1))
    }

    /// The begin of the writer's loop: takes the next batch.
    pub fn turn(&mut self, now: i64, checker: &mut PromiseChecker) -> Batch {
        self.notice_absence(now, checker);
        let sweep_to = self.clock(now);
        let calls: Vec<_> = (0..BATCH).map_while(|_| self.inbox.pop_front()).collect();
        let drained = calls.len() < BATCH;
        Batch { calls, sweep_to: drained.then_some(sweep_to) }
    }

    fn notice_absence(&mut self, now: i64, checker: &mut PromiseChecker) {
        let clock = self.clock(now);
        if clock.since(self.last_able) > ABSENCE_WITHOUT_GRACE && !self.disk_was_full {
            let grace = RestartGrace { returned_at: clock, length: self.grace };
            checker.grace = grace;
            if self.fault != PlantedFault::NoGrace {
                self.coordinator.returned(grace);
            }
        }
        if !self.disk_was_full {
            self.last_able = clock;
        }
    }

    /// Executes and commits a batch; returns the answers. `None`: the coordinator crashed before the commit.
    pub fn write(
        &mut self,
        batch: Batch,
        now: i64,
        checker: &mut PromiseChecker,
        dies: bool,
    ) -> Option<Vec<(Call, CallOutcome)>> {
        let full = |caller: SimulatedCaller| (caller.call, Err(StoreError::Full { retry_after: RETRY }));
        if self.disk_was_full {
            if self.disk.is_full() {
                return Some(batch.calls.into_iter().map(|call| full(call.caller)).collect());
            }
            self.disk_was_full = false;
            self.notice_absence(now, checker);
        }
        let clock = self.clock(now);
        let mut answers = Vec::new();
        while let Some(waiter) = self.coordinator.held_claims.take_overdue(clock) {
            answers.push((waiter.caller, Ok(Answer::Sagas(Vec::new()))));
        }
        if !batch.calls.is_empty() || self.coordinator.has_work(clock) {
            let mut log = Vec::new();
            match self.execute_and_commit(batch, &mut log, checker, dies)? {
                Ok(CommittedTurn { answered, events }) => {
                    self.tell(checker, log, &events);
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
        // Answers to closed connections are lost.
        Some(answers.into_iter().map(|(caller, outcome)| (caller.call, outcome)).collect())
    }

    #[allow(clippy::type_complexity, reason = "what a turn may come to, or that the coordinator died in it")]
    fn execute_and_commit(
        &mut self,
        batch: Batch,
        log: &mut Vec<ObservationEntry>,
        checker: &mut PromiseChecker,
        dies: bool,
    ) -> Option<Result<CommittedTurn<SimulatedCaller>, FailedTurn<SimulatedCaller>>> {
        let mut observe = |seen: TurnStep<'_, SimulatedCaller>, through, now| {
            let logged = match seen {
                TurnStep::Judged(request, outcome) => {
                    TurnObservation::Judged(Box::new(request.clone()), outcome.clone())
                }
                TurnStep::Served(served) => {
                    let request = |caller: &SimulatedCaller| caller.call.request.clone();
                    TurnObservation::Served(
                        served.iter().map(|(caller, outcome)| (request(caller), outcome.clone())).collect(),
                    )
                }
                TurnStep::Swept(complete) => TurnObservation::Swept(complete),
                TurnStep::Unreadable(id, what) => panic!("{id:?}: {what}"),
            };
            log.push(ObservationEntry { logged, through, now });
        };
        let limits = TurnLimits { sweep: SweepBudget::of_cost(SWEEP), ..TurnLimits::default() };
        let turn = self.coordinator.turn(&mut self.backend, batch.calls, batch.sweep_to, limits, &mut observe);
        let mut turn = match turn {
            Ok(turn) => turn,
            Err(failed) => return Some(Err(failed)),
        };
        if dies {
            if self.fault == PlantedFault::AnswerBeforeCommit {
                turn.take_answered().iter().for_each(|(_, outcome)| checker.acknowledged(outcome, None));
            }
            return None;
        }
        Some(turn.commit())
    }

    /// Passes what was committed to the checker.
    fn tell(&self, checker: &mut PromiseChecker, log: Vec<ObservationEntry>, events: &[Event]) {
        let mut from = 0;
        for ObservationEntry { logged, through, now } in log {
            let to = events.partition_point(|event| event.revision < through);
            let (events, true_time) = (&events[from..to], now.micros() - self.offset);
            from = to;
            match logged {
                TurnObservation::Judged(request, outcome) => {
                    checker.executed(&ExecutedCommand { request: &request, outcome: &outcome, events, now, true_time });
                }
                TurnObservation::Served(served) => checker.served(&served, events, now, true_time),
                TurnObservation::Swept(complete) => checker.swept(events, now, true_time, complete),
            }
        }
        assert_eq!(from, events.len());
    }

    /// Shuts down cleanly; returns the calls that are refused.
    pub fn close(mut self, now: i64) -> Vec<Call> {
        let clock = self.clock(now);
        self.backend.close(clock).unwrap();
        let held = self.coordinator.held_claims.take_all().into_iter().map(|waiter| waiter.caller);
        self.inbox.into_iter().map(|call| call.caller).chain(held).map(|caller| caller.call).collect()
    }
}
