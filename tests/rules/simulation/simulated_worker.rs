//! [`SimulatedWorker`]: claims work, sends heartbeats, keeps its own deadline or is paused past it, repeats unanswered calls, and
//! restarts after a crash. It decides what to do; the system executes it.

use sagad::domain::{
    command::{Change, ClaimNext, Command, Holder, HolderOperation, Operation, Request, UnleasedOperation},
    compensation::{CompensationOutcome, CompensationSpec},
    ids::{FencingToken, OwnerId, QueueName, TaskId},
    lease::LeasePurpose,
    saga::{Saga, State},
    text::{Blob, Kind, Text},
    time::Span,
};

use super::{planted_fault::PlantedFault, rng::Rng};

/// The largest error of a worker's clock, in parts per million.
pub const DRIFT_PPM: i64 = 10_000;
/// The part of a lease that a worker leaves unused, in parts per million, because its clock may be slow.
pub const MARGIN_PPM: i64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerRole {
    Execute,
    Compensate,
    /// Claims stale sagas by id, or decides on them.
    Recover,
}

/// A call without an answer so far.
#[derive(Clone)]
pub struct UnansweredCall {
    pub id: u64,
    pub request: Request,
    /// When it was first sent.
    pub first_sent: i64,
}

/// The saga that a worker works on.
#[derive(Clone)]
pub struct Job {
    pub task: TaskId,
    pub token: FencingToken,
    pub purpose: LeasePurpose,
    /// By the worker's own clock.
    pub until: i64,
    pub ttl: i64,
    steps: u64,
    /// It has stopped working and reports that.
    pub finishing: bool,
    cancelled: bool,
    unsettled: Vec<u32>,
}

pub struct SimulatedWorker {
    pub owner: OwnerId,
    pub role: WorkerRole,
    ppm: i64,
    pub incarnation: u32,
    /// The number of its next wake-up; others are ignored.
    pub wake: u64,
    pub pending: Option<UnansweredCall>,
    pub job: Option<Job>,
    /// Its earlier leases.
    had: Vec<(TaskId, FencingToken)>,
    /// True if its heartbeats change the length of the lease. False where the wall clock is stepped forward during an
    /// absence: there a heartbeat that extends the lease may end it earlier in true time.
    changes_ttl: bool,
    pub fault: PlantedFault,
}

/// What a worker does next, executed by the system.
pub enum WorkerAction {
    /// Sends a command; true: with a `request_id`.
    Call(Command, bool),
    /// Finds a stale saga and claims it.
    Recover,
    /// Gives up its job without a report.
    Drop,
    Nothing,
}

impl SimulatedWorker {
    pub fn new(n: usize, rng: &mut Rng, changes_ttl: bool, fault: PlantedFault) -> Self {
        let role = match n % 10 {
            0 => WorkerRole::Recover,
            1..=3 => WorkerRole::Compensate,
            _ => WorkerRole::Execute,
        };
        SimulatedWorker {
            owner: OwnerId::parse(&format!("w{n}")).unwrap(),
            role,
            ppm: rng.between(-DRIFT_PPM, DRIFT_PPM + 1),
            incarnation: 0,
            wake: 0,
            pending: None,
            job: None,
            had: Vec::new(),
            changes_ttl,
            fault,
        }
    }

    /// Its own clock at a true time.
    pub fn local(&self, now: i64) -> i64 {
        (i128::from(now) * i128::from(1_000_000 + self.ppm) / 1_000_000) as i64
    }

    /// The true time at which its own clock shows `local`.
    pub fn true_time(&self, local: i64) -> i64 {
        (i128::from(local) * 1_000_000 / i128::from(1_000_000 + self.ppm)) as i64
    }

    /// Until when, by its own clock, it works under a lease of this length that it requested at the true time `sent`.
    pub fn deadline(&self, sent: i64, length: Span) -> i64 {
        let margin = if self.fault == PlantedFault::WorkersExceedDeadlines { -MARGIN_PPM } else { MARGIN_PPM };
        self.local(sent) + (i128::from(length.micros()) * i128::from(1_000_000 - margin) / 1_000_000) as i64
    }

    /// Begins to work on a claimed saga.
    pub fn take(&mut self, saga: &Saga, first_sent: i64, rng: &mut Rng) {
        let Some(lease) = &saga.lease else { return };
        self.had.push((saga.task_id().clone(), lease.token));
        self.job = Some(Job {
            task: saga.task_id().clone(),
            token: lease.token,
            purpose: lease.purpose,
            until: self.deadline(first_sent, lease.expire_time.since(lease.heartbeat_time)),
            ttl: lease.ttl.micros(),
            steps: rng.below(12),
            finishing: false,
            cancelled: false,
            unsettled: unsettled(saga),
        });
    }

    /// Updates its job from an answer.
    pub fn learn(&mut self, saga: &Saga) {
        if let Some(job) = &mut self.job {
            job.unsettled = unsettled(saga);
            let over = saga.state.is_terminal() || saga.lease.as_ref().is_none_or(|lease| lease.token != job.token);
            if over || (job.purpose == LeasePurpose::Execute && saga.state != State::Running) {
                self.job = None;
            }
        }
    }

    pub fn cancel(&mut self) {
        if let Some(job) = &mut self.job {
            job.cancelled = true;
        }
    }

    /// What it does next, if no call is pending.
    pub fn act(&mut self, now: i64, queues: &[QueueName], rng: &mut Rng) -> WorkerAction {
        if let Some(call) = self.use_earlier_lease(rng) {
            return call;
        }
        let local = self.local(now);
        let Some(job) = &mut self.job else {
            return if self.role == WorkerRole::Recover { WorkerAction::Recover } else { self.ask(queues, rng) };
        };
        if local >= job.until && !job.finishing {
            // It has stopped working. It may try to renew the lease, or report a result.
            return match rng.below(4) {
                0 => WorkerAction::Drop,
                1 => self.held(HolderOperation::Heartbeat { ttl: None, progress: None }, false),
                _ => self.finish(rng),
            };
        }
        if job.finishing || job.cancelled || job.steps == 0 || job.purpose == LeasePurpose::Compensate {
            return self.finish(rng);
        }
        job.steps -= 1;
        match rng.below(10) {
            0 | 1 => self.held(HolderOperation::RegisterCompensation { compensations: vec![spec(rng)] }, false),
            2 if self.changes_ttl => {
                let progress = Some(Blob::parse(format!("{}", rng.below(100)).into()).unwrap());
                self.held(HolderOperation::Heartbeat { ttl: Some(ttl(rng)), progress }, false)
            }
            _ => self.held(HolderOperation::Heartbeat { ttl: None, progress: None }, false),
        }
    }

    /// It uses an earlier job again, or the token of an earlier lease of the same saga.
    fn use_earlier_lease(&self, rng: &mut Rng) -> Option<WorkerAction> {
        if self.had.is_empty() || !rng.chance(60) {
            return None;
        }
        let latest = self.had.len().min(4) as u64;
        let (task, token) = &self.had[self.had.len() - 1 - rng.below(latest) as usize];
        let Some(job) = &self.job else { return Some(WorkerAction::Call(self.claim(task.clone(), rng), true)) };
        if job.task != *task || job.token == *token {
            return None;
        }
        let holder = Holder { owner: self.owner.clone(), token: *token };
        let result = Blob::parse("late".into()).unwrap();
        let operation = HolderOperation::Complete { result, reason: Text::default(), progress: None };
        Some(WorkerAction::Call(
            Command::Change(Change { task_id: task.clone(), operation: Operation::ByHolder(holder, operation) }),
            false,
        ))
    }

    fn ask(&self, queues: &[QueueName], rng: &mut Rng) -> WorkerAction {
        let purpose =
            if self.role == WorkerRole::Compensate { LeasePurpose::Compensate } else { LeasePurpose::Execute };
        let some = rng.chance(200);
        let kinds = if some { vec![kind(0), kind(1), kind(2)] } else { Vec::new() };
        let first = rng.below(queues.len() as u64) as usize;
        let queues = if rng.chance(500) { queues.to_vec() } else { vec![queues[first].clone()] };
        let wish = ClaimNext {
            queues,
            owner: self.owner.clone(),
            ttl: ttl(rng),
            max_sagas: 1 + usize::from(rng.chance(50)),
            wait: if rng.chance(500) { Span::from_millis(rng.below(5000) as u32) } else { Span::ZERO },
            purpose,
            kinds: if purpose == LeasePurpose::Compensate { kinds } else { Vec::new() },
        };
        WorkerAction::Call(Command::ClaimNext(wish), rng.chance(800))
    }

    /// The next call on the way to the end of its job.
    fn finish(&mut self, rng: &mut Rng) -> WorkerAction {
        let Some(job) = &mut self.job else { return WorkerAction::Nothing };
        let reason = Text::parse("simulated").unwrap();
        let operation = match job.purpose {
            LeasePurpose::Execute => {
                job.finishing = true;
                let number = rng.below(3);
                match rng.below(20) {
                    0..=9 if !job.cancelled => HolderOperation::Complete {
                        result: Blob::parse(number.to_string().into()).unwrap(),
                        reason,
                        progress: None,
                    },
                    0..=12 => HolderOperation::Release {
                        delay: Span::from_millis(rng.below(500) as u32),
                        reason,
                        progress: None,
                    },
                    13..=18 => HolderOperation::Fail {
                        reason,
                        compensations: vec![spec(rng)],
                        retryable: rng.chance(500),
                        progress: None,
                    },
                    _ => HolderOperation::Quarantine { reason },
                }
            }
            LeasePurpose::Compensate => match (job.unsettled.last(), rng.below(40)) {
                (_, 0) => {
                    job.finishing = true;
                    HolderOperation::Release { delay: Span::ZERO, reason, progress: None }
                }
                (_, 1..=6) => HolderOperation::Heartbeat { ttl: None, progress: None },
                (None, _) | (_, 8) => {
                    job.finishing = job.unsettled.is_empty();
                    HolderOperation::Compensate { reason }
                }
                (Some(last), n) => {
                    let position = if n == 7 { 1 } else { *last };
                    let failed = rng.chance(150);
                    let outcome = if failed { CompensationOutcome::Failed } else { CompensationOutcome::Done };
                    HolderOperation::RecordCompensation { position, outcome, detail: reason }
                }
            },
        };
        let keyed = matches!(operation, HolderOperation::RecordCompensation { .. }) && rng.chance(700);
        self.held(operation, keyed)
    }

    fn held(&self, operation: HolderOperation, keyed: bool) -> WorkerAction {
        let Some(job) = &self.job else { return WorkerAction::Nothing };
        let holder = Holder { owner: self.owner.clone(), token: job.token };
        WorkerAction::Call(
            Command::Change(Change { task_id: job.task.clone(), operation: Operation::ByHolder(holder, operation) }),
            keyed,
        )
    }

    /// Claims a stale saga, by its id.
    pub fn claim(&self, task_id: TaskId, rng: &mut Rng) -> Command {
        let purpose = if rng.chance(500) { LeasePurpose::Compensate } else { LeasePurpose::Execute };
        let reason = Text::default();
        let claim = UnleasedOperation::Claim { owner: self.owner.clone(), ttl: ttl(rng), purpose, reason };
        Command::Change(Change { task_id, operation: Operation::Unleased(claim) })
    }
}

fn unsettled(saga: &Saga) -> Vec<u32> {
    saga.compensations.iter().filter(|c| !c.is_settled()).map(|c| c.position).collect()
}

/// A random length of a lease: from the minimum to ten seconds.
pub fn ttl(rng: &mut Rng) -> Span {
    let short = rng.chance(600);
    Span::from_micros(rng.between(100_000, if short { 1_000_000 } else { 10_000_000 })).unwrap()
}

fn kind(n: u64) -> Kind {
    Kind::parse(["worktree", "branch", "port", "file"][n as usize]).unwrap()
}

pub fn spec(rng: &mut Rng) -> CompensationSpec {
    let target = Text::parse(["/a", "/b", "/c"][rng.below(3) as usize]).unwrap();
    CompensationSpec { kind: kind(rng.below(4)), target, reason: Text::default() }
}
