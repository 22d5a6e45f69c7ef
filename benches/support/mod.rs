//! What the benches share: the engine on a store in SQLite, without network or threads, driven as the writer drives it, through
//! cycles of claim, heartbeat, complete.

#![allow(dead_code, clippy::unwrap_used, reason = "each bench uses a part; a bench that fails has to panic")]

use std::path::Path;

use sagad::{
    coordinator::{Backend, Call, Caller, Coordinator, LoadKey, LoadResult, MaintenanceBudget, TurnLimits, TurnStep},
    domain::{
        command::{Answer, Change, Command, Creation, Holder, HolderOperation, Operation, Request, UnleasedOperation},
        ids::{FencingToken, OwnerId, QueueName, TaskId},
        lease::{LeasePurpose, RestartGrace},
        text::{Blob, Text},
        time::{Span, Timestamp},
    },
    store::sqlite::{SqliteWriter, open_writer},
};

/// Commands of one transaction, as with so many clients.
pub const BATCH: u64 = 256;
/// Changes of one saga in a cycle.
pub const CHANGES: u64 = 3;

const START: i64 = 1_700_000_000_000_000;
const TTL: Span = Span::from_secs(30);
const MAX_WAL_BYTES: u64 = 64 << 20;

/// When a bench's saga is created.
pub fn start() -> Timestamp {
    Timestamp::from_micros(START)
}

pub fn task(n: u64) -> TaskId {
    TaskId::parse(&format!("bench-{n:010}")).unwrap()
}

fn owner(n: u64) -> OwnerId {
    OwnerId::parse(&format!("worker-{}", n % BATCH)).unwrap()
}

/// A saga to be, with nothing special about it.
pub fn creation(task_id: TaskId) -> Creation {
    Creation::new(task_id, QueueName::parse("bench").unwrap())
}

pub fn claim(n: u64) -> Operation {
    let (purpose, reason) = (LeasePurpose::Execute, Text::default());
    Operation::Unleased(UnleasedOperation::Claim { owner: owner(n), ttl: TTL, purpose, reason })
}

pub fn heartbeat(n: u64, token: FencingToken) -> Operation {
    Operation::ByHolder(Holder { owner: owner(n), token }, HolderOperation::Heartbeat { ttl: None, progress: None })
}

pub fn complete(n: u64, token: FencingToken) -> Operation {
    let operation = HolderOperation::Complete { result: Blob::default(), reason: Text::default(), progress: None };
    Operation::ByHolder(Holder { owner: owner(n), token }, operation)
}

/// Nobody in particular.
pub struct Nobody;

impl Caller for Nobody {}

/// A coordinator with its store.
pub struct Core {
    coordinator: Coordinator<Nobody>,
    backend: SqliteWriter,
}

/// A store, and how far it has got.
pub struct Cycles {
    core: Core,
    run: Run,
    now: i64,
    created: u64,
    completed: u64,
}

impl Cycles {
    /// On a new store in this directory.
    pub fn on(dir: &Path) -> Self {
        let (rows, opening, _) = open_writer(&dir.join("bench.db"), MAX_WAL_BYTES).unwrap();
        let grace = RestartGrace { returned_at: start(), length: Span::ZERO };
        let coordinator = Coordinator::new(opening, grace, 0, start());
        let core = Core { coordinator, backend: rows.into_writer() };
        Cycles { core, run, now: START, created: 0, completed: 0 }
    }

    /// Creates so many sagas.
    pub fn create(&mut self, count: u64) {
        let last = self.created + count;
        while self.created < last {
            let upto = (self.created + 1000).min(last);
            let creations = (self.created..upto).map(|n| creation(task(n))).collect();
            self.transaction([Command::Create(creations)]);
            self.created = upto;
        }
    }

    /// A batch of sagas through their cycle, in order of creation: three transactions of [`BATCH`] changes.
    pub fn cycle(&mut self) {
        let sagas = self.completed..self.completed + BATCH;
        assert!(sagas.end <= self.created, "enough sagas were created");
        let claims = sagas.clone().map(|n| change(n, claim(n)));
        let tokens: Vec<FencingToken> = self.transaction(claims).iter().map(token).collect();
        for operation in [heartbeat, complete] {
            self.transaction(sagas.clone().zip(&tokens).map(|(n, token)| change(n, operation(n, *token))));
        }
        self.completed = sagas.end;
    }

    /// How many sagas have not been through their cycle.
    pub fn left(&self) -> u64 {
        self.created - self.completed
    }

    /// Reads a saga's row.
    pub fn find(&mut self, n: u64) {
        let found = self.core.backend.load(&[LoadKey::Task(task(n))]).unwrap();
        assert!(matches!(found[..], [LoadResult::Saga(..)]));
    }

    /// Runs commands as one batch of the writer's, by what [`Self::run_by`] said.
    fn transaction(&mut self, commands: impl IntoIterator<Item = Command>) -> Vec<Answer> {
        self.now += 1000;
        let request = |command| Request { command, key: None, by: None };
        let requests: Vec<Request> = commands.into_iter().map(request).collect();
        (self.run)(&mut self.core, requests, Timestamp::from_micros(self.now))
    }

    /// What runs each batch from now on.
    pub fn run_by(&mut self, run: Run) {
        self.run = run;
    }
}

/// Runs a batch.
pub type Run = fn(&mut Core, Vec<Request>, Timestamp) -> Vec<Answer>;

/// What the writer does with a batch.
pub fn run(core: &mut Core, requests: Vec<Request>, now: Timestamp) -> Vec<Answer> {
    let calls = requests.into_iter().map(|request| Call { request, arrival: now, caller: Nobody }).collect();
    let mut observe = |_: TurnStep<'_, Nobody>, _, _| {};
    let turn = core.coordinator.turn(&mut core.backend, calls, Some(now), TurnLimits::default(), &mut observe);
    let committed = turn.and_then(|turn| turn.commit()).unwrap_or_else(|failed| panic!("{:?}", failed.error));
    core.backend.maintain(MaintenanceBudget::default()).unwrap();
    committed.answered.into_iter().map(|(_, outcome)| outcome.unwrap()).collect()
}

fn change(n: u64, operation: Operation) -> Command {
    Command::Change(Change { task_id: task(n), operation })
}

fn token(answer: &Answer) -> FencingToken {
    match answer {
        Answer::Saga(saga) => saga.lease.as_ref().unwrap().token,
        other => panic!("no saga: {other:?}"),
    }
}
