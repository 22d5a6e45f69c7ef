//! The world: true time, the network, faults, and everybody who takes part. Nothing here depends on anything but the
//! seed.

mod faults;
mod life;

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
    daemon::{Batch, Daemon},
    judge::Judge,
    people,
    rng::Rng,
    sabotage::Sabotage,
    watcher::Watcher,
    worker::Worker,
};

const WORKERS: usize = 200;
const WATCHERS: usize = 6;
/// When the simulated part of history begins, in true and in wall time.
const START: i64 = 1_700_000_000_000_000;

/// Who made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Worker(usize, u32),
    Person,
}

/// A call on its way.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: u64,
    pub from: From,
    pub request: Request,
    pub sent: i64,
}

enum Happening {
    Arrive(Box<Call>),
    Answered(Box<(Call, CallOutcome)>),
    /// A worker, and the number of what wakes it.
    Claimable(usize, u64),
    Turn(u64),
    Write(u64),
    Restart,
    BackendError,
    Person,
    Create,
    Watch(usize),
}

impl Happening {
    fn name(&self) -> &'static str {
        match self {
            Happening::Arrive(_) => "step: a request arrives",
            Happening::Answered(_) => "step: an answer arrives",
            Happening::Claimable(..) => "step: a worker acts",
            Happening::Turn(_) => "step: the writer looks up",
            Happening::Write(_) => "step: a transaction is written",
            Happening::Restart => "step: the coordinator starts",
            Happening::BackendError => "step: a fault",
            Happening::Person => "step: a person acts",
            Happening::Create => "step: sagas are created",
            Happening::Watch(_) => "step: a watcher looks",
        }
    }
}

struct Scheduled(i64, u64, Happening);

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
struct Active {
    worker: usize,
    token: FencingToken,
    until: i64,
}

/// What happened to the coordinator.
#[derive(Clone, Debug, Default)]
pub struct Faults {
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

pub struct World {
    pub now: i64,
    pub rng: Rng,
    sequence: u64,
    calls: u64,
    due_index: BinaryHeap<Scheduled>,
    pub disk: Memory,
    daemon: Option<Daemon>,
    writing: Option<Batch>,
    /// The turn that is scheduled, and when; others are void.
    turn: (u64, i64),
    busy_until: i64,
    /// It ends in good order after the next transaction.
    closes: bool,
    workers: Vec<Worker>,
    watchers: Vec<Watcher>,
    pub queues: Vec<QueueName>,
    active: HashMap<usize, Active>,
    pub judge: Judge,
    /// What the wall clock is off by.
    wall: i64,
    grace: Span,
    /// Whether the wall clock is also stepped forward; then the grace is as long as the longest lease.
    steps_forward: bool,
    pub faults: Faults,
    pub steps: BTreeMap<&'static str, u64>,
    traced: Option<String>,
    sabotage: Sabotage,
    runtime: Runtime,
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> Self {
        let mut rng = Rng::new(seed);
        let steps_forward = rng.chance(300);
        let grace = if steps_forward { 10_000_000 } else { rng.pick(&[0, 300_000, 2_000_000, 10_000_000]) };
        let grace = Span::from_micros(grace).unwrap();
        let (disk, mut judge) = (Memory::default(), Judge::default());
        let queues: Vec<_> = ["a", "b", "c"].into_iter().map(|name| QueueName::parse(name).unwrap()).collect();
        let daemon = Daemon::start(&disk, START, START, grace, sabotage, &mut judge);
        let workers = (0..WORKERS).map(|n| Worker::new(n, &mut rng, !steps_forward, sabotage)).collect();
        let watched = |n: usize| if n % 3 == 2 { vec![queues[n % 2].clone()] } else { Vec::new() };
        let mut world = World {
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
            watchers: (0..WATCHERS).map(|n| Watcher::new(watched(n), n % 2 == 1)).collect(),
            queues: queues.clone(),
            active: HashMap::new(),
            judge,
            wall: 0,
            grace,
            steps_forward,
            faults: Faults::default(),
            steps: BTreeMap::new(),
            traced: std::env::var("SIM_TRACE").ok(),
            sabotage,
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap(),
            rng,
        };
        for n in 0..WORKERS {
            world.after(n as i64 * 1000, Happening::Claimable(n, 0));
        }
        for n in 0..WATCHERS {
            world.after(500_000, Happening::Watch(n));
        }
        for first in [Happening::Turn(0), Happening::BackendError, Happening::Person, Happening::Create] {
            world.after(0, first);
        }
        world
    }

    /// How much time has passed in it.
    pub fn seconds(&self) -> u64 {
        ((self.now - START) / 1_000_000) as u64
    }

    fn after(&mut self, delay: i64, happening: Happening) {
        self.sequence += 1;
        self.due_index.push(Scheduled(self.now + delay, self.sequence, happening));
    }

    /// One thing happens.
    pub fn step(&mut self) {
        let Scheduled(at, _, happening) = loop {
            let next = self.due_index.pop().expect("something always comes next");
            if !self.is_void(&next.2) {
                break next;
            }
        };
        self.now = at;
        *self.steps.entry(happening.name()).or_default() += 1;
        match happening {
            Happening::Arrive(call) => self.arrive(*call),
            Happening::Answered(answered) => self.answered(answered.0, &answered.1),
            Happening::Claimable(n, _) => self.wake(n),
            Happening::Turn(_) => self.turn(),
            Happening::Write(_) => self.write(),
            Happening::Restart => self.restart(),
            Happening::BackendError => self.error(),
            Happening::Person => {
                people::act(self);
                let delay = self.rng.between(1000, 150_000);
                self.after(delay, Happening::Person);
            }
            Happening::Create => {
                people::create(self);
                self.after(50_000, Happening::Create);
            }
            Happening::Watch(n) => self.watch(n),
        }
    }

    /// Whether nothing comes of it any more: it is no step.
    fn is_void(&self, happening: &Happening) -> bool {
        match happening {
            Happening::Turn(number) | Happening::Write(number) => self.daemon.is_none() || *number != self.turn.0,
            Happening::Claimable(n, number) => *number != self.workers[*n].wake,
            Happening::Arrive(_)
            | Happening::Answered(_)
            | Happening::Restart
            | Happening::BackendError
            | Happening::Person
            | Happening::Create
            | Happening::Watch(_) => false,
        }
    }

    /// A worker acts next after a delay; what was to wake it before does not.
    fn wake_after(&mut self, n: usize, delay: i64) {
        self.workers[n].wake += 1;
        let number = self.workers[n].wake;
        self.after(delay, Happening::Claimable(n, number));
    }

    /// How long something takes on the network; none: it gets lost.
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

    /// Tells what concerns the saga that `SIM_TRACE` names.
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
            self.after(delay, Happening::Arrive(Box::new(call)));
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
            self.after(delay, Happening::Answered(Box::new((call, outcome))));
        }
    }

    fn schedule_turn(&mut self, at: i64) {
        if self.turn.1 != at {
            self.turn = (self.turn.0 + 1, at);
            let number = self.turn.0;
            self.after(at - self.now, Happening::Turn(number));
        }
    }

    fn turn(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        self.writing = Some(daemon.turn(self.now, &mut self.judge));
        let long = self.rng.chance(3);
        let latency = if long { self.rng.between(10_000, 4_000_000) } else { self.rng.between(100, 4000) };
        self.turn.1 = -1;
        let number = self.turn.0;
        self.after(latency, Happening::Write(number));
    }

    fn write(&mut self) {
        let (Some(daemon), Some(batch)) = (&mut self.daemon, self.writing.take()) else { return };
        let dies = self.rng.chance(1);
        let Some(answers) = daemon.write(batch, self.now, &mut self.judge, dies) else {
            self.faults.in_transaction += 1;
            return self.crash();
        };
        if self.rng.chance(1) {
            // It dies between the commit and the answers.
            return self.crash();
        }
        let next = daemon.next_turn(self.now);
        for (call, outcome) in answers {
            let task = match &call.request.command {
                Command::Change(change) => Some(change.task_id.clone()),
                Command::Create(_) | Command::ClaimNext(_) | Command::SetPaused(_) | Command::Purge(_) => None,
            };
            self.judge.acknowledged(&outcome, task.as_ref());
            self.answer(call, outcome);
        }
        let revoked = &self.judge.revoked;
        self.active.retain(|_, active| !revoked.contains(&active.token));
        if self.closes {
            return self.close();
        }
        self.schedule_turn(next.max(self.busy_until));
    }

    fn watch(&mut self, n: usize) {
        let long = self.rng.chance(40);
        let delay = self.rng.between(50_000, if long { 30_000_000 } else { 1_000_000 });
        self.after(delay, Happening::Watch(n));
        let Some(daemon) = &self.daemon else { return };
        let skip = self.sabotage == Sabotage::WatchSkips;
        let limit = self.rng.below(400) as usize;
        let seen = self.watchers[n].seen;
        let before = self.watchers[n].compacted;
        self.watchers[n].watch(&self.runtime, &daemon.store, (&self.disk, &self.judge), limit, skip);
        self.faults.watched += self.watchers[n].seen - seen;
        self.faults.compacted += self.watchers[n].compacted - before;
    }
}
