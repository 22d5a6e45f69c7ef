//! [`System`]: the simulated system with its true time, network, faults, daemon, workers, operators and watchers. Everything
//! depends on the seed only.

mod faults;
mod worker_events;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap, HashMap},
};

use sagad::{
    coordinator::{CallOutcome, StoreError},
    domain::{
        command::{Command, Request, RequestKey},
        ids::{FencingToken, QueueName},
        time::Span,
    },
    store::memory::Memory,
};
use tokio::runtime::Runtime;

use super::{
    operators,
    planted_fault::PlantedFault,
    promise_checker::PromiseChecker,
    rng::Rng,
    simulated_daemon::{Batch, SimulatedDaemon},
    simulated_watcher::SimulatedWatcher,
    simulated_worker::SimulatedWorker,
};

const WORKERS: usize = 200;
const WATCHERS: usize = 6;
/// When the simulation begins, in true time and on the wall clock.
const START: i64 = 1_700_000_000_000_000;

/// Who made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallSource {
    Worker(usize, u32),
    Operator,
}

/// A call on its way.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: u64,
    pub from: CallSource,
    pub request: Request,
    pub sent: i64,
}

enum SimulatedEvent {
    Arrive(Box<Call>),
    Answered(Box<(Call, CallOutcome)>),
    /// A worker, and the number of its wake-up.
    Claimable(usize, u64),
    Turn(u64),
    Write(u64),
    Restart,
    BackendError,
    Operator,
    Create,
    Watch(usize),
}

impl SimulatedEvent {
    fn name(&self) -> &'static str {
        match self {
            SimulatedEvent::Arrive(_) => "step: a request arrives",
            SimulatedEvent::Answered(_) => "step: an answer arrives",
            SimulatedEvent::Claimable(..) => "step: a worker acts",
            SimulatedEvent::Turn(_) => "step: the writer's loop runs",
            SimulatedEvent::Write(_) => "step: a transaction is written",
            SimulatedEvent::Restart => "step: the coordinator starts",
            SimulatedEvent::BackendError => "step: a fault",
            SimulatedEvent::Operator => "step: an operator acts",
            SimulatedEvent::Create => "step: sagas are created",
            SimulatedEvent::Watch(_) => "step: a watcher reads",
        }
    }
}

struct Scheduled(i64, u64, SimulatedEvent);

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

/// Who works on a saga in true time, and until when.
struct ActiveWork {
    worker: usize,
    token: FencingToken,
    until: i64,
}

/// How often each fault happened.
#[derive(Clone, Debug, Default)]
pub struct FaultCounts {
    pub crashes: u64,
    pub in_transaction: u64,
    pub closes: u64,
    pub stalls: u64,
    pub full: u64,
    pub clock_steps: u64,
    pub worker_crashes: u64,
    pub pauses: u64,
    pub lost: u64,
    pub cuts: u64,
    pub watched: u64,
    pub compacted: u64,
}

pub struct System {
    pub now: i64,
    pub rng: Rng,
    sequence: u64,
    calls: u64,
    due_index: BinaryHeap<Scheduled>,
    pub disk: Memory,
    daemon: Option<SimulatedDaemon>,
    writing: Option<Batch>,
    /// The number and time of the scheduled turn; others are ignored.
    turn: (u64, i64),
    busy_until: i64,
    /// The daemon shuts down cleanly after the next transaction.
    closes: bool,
    workers: Vec<SimulatedWorker>,
    watchers: Vec<SimulatedWatcher>,
    pub queues: Vec<QueueName>,
    active: HashMap<usize, ActiveWork>,
    pub checker: PromiseChecker,
    /// The difference of the wall clock from the true time.
    wall: i64,
    grace: Span,
    /// True if the wall clock is also stepped forward; then the grace is as long as the longest lease.
    steps_forward: bool,
    pub faults: FaultCounts,
    pub steps: BTreeMap<&'static str, u64>,
    traced: Option<String>,
    fault: PlantedFault,
    runtime: Runtime,
}

impl System {
    pub fn new(seed: u64, fault: PlantedFault) -> Self {
        let mut rng = Rng::new(seed);
        let steps_forward = rng.chance(300);
        let grace = if steps_forward { 10_000_000 } else { rng.pick(&[0, 300_000, 2_000_000, 10_000_000]) };
        let grace = Span::from_micros(grace).unwrap();
        let (disk, mut checker) = (Memory::default(), PromiseChecker::default());
        let queues: Vec<_> = ["a", "b", "c"].into_iter().map(|name| QueueName::parse(name).unwrap()).collect();
        let daemon = SimulatedDaemon::start(&disk, START, START, grace, fault, &mut checker);
        let workers = (0..WORKERS).map(|n| SimulatedWorker::new(n, &mut rng, !steps_forward, fault)).collect();
        let watched = |n: usize| if n % 3 == 2 { vec![queues[n % 2].clone()] } else { Vec::new() };
        let mut system = System {
            now: START,
            sequence: 0,
            calls: 0,
            due_index: BinaryHeap::new(),
            disk,
            daemon: Some(daemon),
            writing: None,
            turn: (0, START),
            busy_until: START,
            closes: false,
            workers,
            watchers: (0..WATCHERS).map(|n| SimulatedWatcher::new(watched(n), n % 2 == 1)).collect(),
            queues: queues.clone(),
            active: HashMap::new(),
            checker,
            wall: 0,
            grace,
            steps_forward,
            faults: FaultCounts::default(),
            steps: BTreeMap::new(),
            traced: std::env::var("SIM_TRACE").ok(),
            fault,
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap(),
            rng,
        };
        for n in 0..WORKERS {
            system.after(n as i64 * 1000, SimulatedEvent::Claimable(n, 0));
        }
        for n in 0..WATCHERS {
            system.after(500_000, SimulatedEvent::Watch(n));
        }
        for first in
            [SimulatedEvent::Turn(0), SimulatedEvent::BackendError, SimulatedEvent::Operator, SimulatedEvent::Create]
        {
            system.after(0, first);
        }
        system
    }

    /// The simulated seconds so far.
    pub fn seconds(&self) -> u64 {
        ((self.now - START) / 1_000_000) as u64
    }

    fn after(&mut self, delay: i64, event: SimulatedEvent) {
        self.sequence += 1;
        self.due_index.push(Scheduled(self.now + delay, self.sequence, event));
    }

    /// Simulates the next event.
    pub fn step(&mut self) {
        let Scheduled(at, _, event) = loop {
            let next = self.due_index.pop().expect("there is always a next event");
            if !self.is_void(&next.2) {
                break next;
            }
        };
        self.now = at;
        *self.steps.entry(event.name()).or_default() += 1;
        match event {
            SimulatedEvent::Arrive(call) => self.arrive(*call),
            SimulatedEvent::Answered(answered) => self.answered(answered.0, &answered.1),
            SimulatedEvent::Claimable(n, _) => self.wake(n),
            SimulatedEvent::Turn(_) => self.turn(),
            SimulatedEvent::Write(_) => self.write(),
            SimulatedEvent::Restart => self.restart(),
            SimulatedEvent::BackendError => self.error(),
            SimulatedEvent::Operator => {
                operators::act(self);
                let delay = self.rng.between(1000, 150_000);
                self.after(delay, SimulatedEvent::Operator);
            }
            SimulatedEvent::Create => {
                operators::create(self);
                self.after(50_000, SimulatedEvent::Create);
            }
            SimulatedEvent::Watch(n) => self.watch(n),
        }
    }

    /// True if the event has no effect any more and is not counted as a step.
    fn is_void(&self, event: &SimulatedEvent) -> bool {
        match event {
            SimulatedEvent::Turn(number) | SimulatedEvent::Write(number) => {
                self.daemon.is_none() || *number != self.turn.0
            }
            SimulatedEvent::Claimable(n, number) => *number != self.workers[*n].wake,
            SimulatedEvent::Arrive(_)
            | SimulatedEvent::Answered(_)
            | SimulatedEvent::Restart
            | SimulatedEvent::BackendError
            | SimulatedEvent::Operator
            | SimulatedEvent::Create
            | SimulatedEvent::Watch(_) => false,
        }
    }

    /// Schedules a worker's next action; an earlier wake-up is ignored.
    fn wake_after(&mut self, n: usize, delay: i64) {
        self.workers[n].wake += 1;
        let number = self.workers[n].wake;
        self.after(delay, SimulatedEvent::Claimable(n, number));
    }

    /// The delay of a message on the network; none: it is lost.
    fn delay(&mut self) -> Option<i64> {
        match self.rng.below(100) {
            0..=87 => Some(self.rng.between(50, 3000)),
            88..=95 => Some(self.rng.between(10_000, 500_000)),
            96 | 97 => Some(self.rng.between(1_000_000, 15_000_000)),
            _ => {
                self.faults.lost += 1;
                None
            }
        }
    }

    /// Prints messages about the saga that `SIM_TRACE` names.
    fn trace(&self, what: &str, about: &dyn std::fmt::Debug) {
        if let Some(wanted) = &self.traced {
            let about = format!("{about:?}");
            if about.contains(wanted) {
                eprintln!("{:>10} us: {what}: {about}", self.now - START);
            }
        }
    }

    pub fn send(&mut self, call: Call) {
        self.trace("sent", &call);
        if let Some(delay) = self.delay() {
            self.after(delay, SimulatedEvent::Arrive(Box::new(call)));
        }
    }

    /// A request, with a new `request_id` if it is to have one.
    pub fn request(&mut self, command: Command, keyed: bool) -> (u64, Request) {
        self.calls += 1;
        let id = u128::from(self.calls).to_be_bytes();
        (self.calls, Request { command, key: keyed.then_some(RequestKey { id, digest: id }), by: None })
    }

    fn arrive(&mut self, call: Call) {
        self.trace("arrives", &call);
        match &mut self.daemon {
            Some(daemon) => {
                daemon.arrive(call, self.now);
                if self.writing.is_none() {
                    self.schedule_turn(self.now.max(self.busy_until));
                }
            }
            None => self.answer(call, Err(StoreError::Unavailable("away".into()))),
        }
    }

    fn answer(&mut self, call: Call, outcome: CallOutcome) {
        if let Some(delay) = self.delay() {
            self.after(delay, SimulatedEvent::Answered(Box::new((call, outcome))));
        }
    }

    fn schedule_turn(&mut self, at: i64) {
        if self.turn.1 != at {
            self.turn = (self.turn.0 + 1, at);
            let number = self.turn.0;
            self.after(at - self.now, SimulatedEvent::Turn(number));
        }
    }

    fn turn(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        self.writing = Some(daemon.turn(self.now, &mut self.checker));
        let long = self.rng.chance(3);
        let latency = if long { self.rng.between(10_000, 4_000_000) } else { self.rng.between(100, 4000) };
        self.turn.1 = -1;
        let number = self.turn.0;
        self.after(latency, SimulatedEvent::Write(number));
    }

    fn write(&mut self) {
        let (Some(daemon), Some(batch)) = (&mut self.daemon, self.writing.take()) else { return };
        let dies = self.rng.chance(1);
        let Some(answers) = daemon.write(batch, self.now, &mut self.checker, dies) else {
            self.faults.in_transaction += 1;
            return self.crash();
        };
        if self.rng.chance(1) {
            // The daemon crashes between the commit and the answers.
            return self.crash();
        }
        let next = daemon.next_turn(self.now);
        for (call, outcome) in answers {
            let task = match &call.request.command {
                Command::Change(change) => Some(change.task_id.clone()),
                Command::Create(_) | Command::ClaimNext(_) | Command::SetPaused(_) | Command::Purge(_) => None,
            };
            self.checker.acknowledged(&outcome, task.as_ref());
            self.answer(call, outcome);
        }
        let revoked = &self.checker.revoked;
        self.active.retain(|_, active| !revoked.contains(&active.token));
        if self.closes {
            return self.close();
        }
        self.schedule_turn(next.max(self.busy_until));
    }

    fn watch(&mut self, n: usize) {
        let long = self.rng.chance(40);
        let delay = self.rng.between(50_000, if long { 30_000_000 } else { 1_000_000 });
        self.after(delay, SimulatedEvent::Watch(n));
        let Some(daemon) = &self.daemon else { return };
        let skip = self.fault == PlantedFault::WatchSkips;
        let limit = self.rng.below(400) as usize;
        let seen = self.watchers[n].seen;
        let before = self.watchers[n].compacted;
        self.watchers[n].watch(&self.runtime, &daemon.store, (&self.disk, &self.checker), limit, skip);
        self.faults.watched += self.watchers[n].seen - seen;
        self.faults.compacted += self.watchers[n].compacted - before;
    }
}
