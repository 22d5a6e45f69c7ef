//! [`TestStore`]: a store on a clock that the test moves, for every backend.

use std::{path::PathBuf, pin::Pin, sync::Arc, task::Poll, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use rusqlite::Connection;
use sagad::{
    clock::{Clock, ManualClock},
    domain::{
        command::{Answer, LeaseAnswer, PurgeResult, Request},
        event::Event,
        ids::{Revision, TaskId},
        rejection::Rejection,
        saga::Saga,
        time::{Span, Timestamp},
    },
    store::{
        EventQuery, ListQuery, SagaKey, SagaPage, Store, StoreError, StoreOptions, WriterThread,
        memory::Memory,
        postgres::{ConnectOptions, CoordinatorName},
        sqlite,
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{
    builders::{ToCommand, annotate, key_of},
    postgres::{self, Database},
};

/// Makes each function a test on every backend.
macro_rules! on_every_backend {
    ($($case:ident)*) => {
        mod memory {
            $(#[test] fn $case() { super::$case(crate::test_store::TestStore::memory()) })*
        }
        mod sqlite {
            $(#[test] fn $case() { super::$case(crate::test_store::TestStore::sqlite()) })*
        }
        mod postgres {
            $(#[test] fn $case() { crate::test_store::TestStore::postgres().into_iter().for_each(super::$case) })*
        }
    };
}

/// The time at which every test begins.
pub const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
/// The longest wait in real time before a test fails.
const WAIT_MAX: Duration = Duration::from_secs(20);

#[derive(Clone)]
enum StoreLocation {
    Memory(Memory),
    Sqlite(Arc<TempDir>),
    Postgres(Arc<Database>),
}

/// How the store is opened.
#[derive(Clone, Copy)]
pub struct StoreSetup {
    pub restart_grace: Span,
    pub max_waiting: usize,
    pub max_wal_bytes: u64,
}

impl Default for StoreSetup {
    fn default() -> Self {
        StoreSetup { restart_grace: Span::ZERO, max_waiting: 100, max_wal_bytes: 64 << 20 }
    }
}

/// An open store.
pub struct TestStore {
    pub handle: Store,
    pub clock: Arc<ManualClock>,
    pub runtime: Runtime,
    writer: WriterThread,
    place: StoreLocation,
    setup: StoreSetup,
}

impl TestStore {
    pub fn memory() -> Self {
        Self::open(StoreLocation::Memory(Memory::default()), StoreSetup::default(), Arc::new(ManualClock::at(START)))
    }

    pub fn sqlite() -> Self {
        Self::sqlite_with(StoreSetup::default())
    }

    pub fn sqlite_with(setup: StoreSetup) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::open(StoreLocation::Sqlite(dir), setup, Arc::new(ManualClock::at(START)))
    }

    /// None if PostgreSQL is not installed.
    pub fn postgres() -> Option<Self> {
        let database = Arc::new(postgres::is_there().then(Database::new)?);
        Some(Self::open(StoreLocation::Postgres(database), StoreSetup::default(), Arc::new(ManualClock::at(START))))
    }

    /// A new store on the same kind of backend.
    pub fn fresh(&self) -> Self {
        match &self.place {
            StoreLocation::Memory(_) => Self::memory(),
            StoreLocation::Sqlite(_) => Self::sqlite_with(self.setup),
            StoreLocation::Postgres(_) => Self::postgres().expect("it is installed"),
        }
    }

    /// Of many similar cases one in so many is run: fewer on SQLite, where each opens files and the reference has run all.
    pub fn thinned_by(&self) -> usize {
        match &self.place {
            StoreLocation::Memory(_) => 1,
            StoreLocation::Sqlite(_) => 11,
            StoreLocation::Postgres(_) => 47,
        }
    }

    fn open(place: StoreLocation, setup: StoreSetup, clock: Arc<ManualClock>) -> Self {
        let StoreSetup { restart_grace, max_waiting, max_wal_bytes } = setup;
        let (queue, batch, readers) = (10_000, 1000, 4);
        let as_clock: Arc<dyn Clock> = clock.clone();
        let options = StoreOptions { restart_grace, queue, batch, readers, max_waiting };
        let (store, writer) = match &place {
            StoreLocation::Memory(memory) => memory.open(&options, as_clock).unwrap(),
            StoreLocation::Sqlite(dir) => sqlite::open(dir.path(), max_wal_bytes, &options, as_clock).unwrap(),
            StoreLocation::Postgres(database) => {
                let connect = ConnectOptions::parse(&database.url()).unwrap();
                let me = CoordinatorName { name: "test".into(), address: "nowhere".into() };
                sagad::store::postgres::open(&connect, &me, &options, as_clock, |_| {}).unwrap()
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        TestStore { handle: store, clock, runtime, writer, place, setup }
    }

    /// The directory of a store on disk.
    pub fn data(&self) -> PathBuf {
        self.keep().path().to_owned()
    }

    /// The directory, which then outlives the store.
    pub fn keep(&self) -> Arc<TempDir> {
        match &self.place {
            StoreLocation::Memory(_) | StoreLocation::Postgres(_) => panic!("not in a directory"),
            StoreLocation::Sqlite(dir) => dir.clone(),
        }
    }

    /// Makes every later commit that changes this saga fail.
    pub fn make_unwritable(&self, task: &str) {
        match &self.place {
            StoreLocation::Memory(memory) => memory.make_unwritable(&TaskId::parse(task).unwrap()),
            StoreLocation::Sqlite(dir) => {
                let damage = Connection::open(dir.path().join("sagad.db")).unwrap();
                damage.busy_timeout(WAIT_MAX).unwrap();
                let trigger = format!(
                    "CREATE TRIGGER ignore_{task} BEFORE UPDATE ON work \
                     WHEN old.id = (SELECT id FROM saga WHERE task_id = '{task}') BEGIN SELECT RAISE(IGNORE); END"
                );
                damage.execute_batch(&trigger).unwrap();
            }
            StoreLocation::Postgres(database) => database.execute(&format!(
                "SET search_path = sagad; CREATE FUNCTION ignore_{task}() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN IF old.id = (SELECT id FROM sagad.saga WHERE task_id = ''{task}'') THEN RETURN NULL; END IF; RETURN new; END'; \
                 CREATE TRIGGER ignore_{task} BEFORE UPDATE ON work FOR EACH ROW EXECUTE FUNCTION ignore_{task}()"
            )),
        }
    }

    /// Closes the store and opens it with other options.
    pub fn reopened_with(mut self, setup: StoreSetup) -> Self {
        self.setup = setup;
        self.reopened()
    }

    /// Closes the store cleanly and opens it again, at the same time.
    pub fn reopened(self) -> Self {
        let (place, setup, now) = (self.place.clone(), self.setup, self.now());
        self.close();
        Self::open(place, setup, Arc::new(ManualClock::at(now)))
    }

    /// Closes the store cleanly.
    pub fn close(mut self) {
        self.handle.close();
        self.runtime.block_on(async { self.writer.ended().await }).unwrap();
    }

    /// Opens the store in a directory.
    pub fn open_dir(dir: Arc<TempDir>, setup: StoreSetup, now: Timestamp) -> Self {
        Self::open(StoreLocation::Sqlite(dir), setup, Arc::new(ManualClock::at(now)))
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(WAIT_MAX, future).await.expect("it takes too long") })
    }

    /// Submits a command.
    pub fn submit(&self, command: impl ToCommand) -> Result<Answer, StoreError> {
        self.wait(self.handle.submit(Request { command: command.command(), key: None, by: None }))
    }

    /// Submits a command with the `request_id` that this number stands for.
    pub fn submit_as(&self, id: u8, command: impl ToCommand) -> Result<Answer, StoreError> {
        let command = command.command();
        let key = Some(key_of(id, &command));
        self.wait(self.handle.submit(Request { command, key, by: None }))
    }

    /// A command that changes one saga and is accepted.
    pub fn saga(&self, command: impl ToCommand) -> Saga {
        saga_of(self.submit(command))
    }

    /// A command whose answer is sagas.
    pub fn sagas(&self, command: impl ToCommand) -> Vec<Saga> {
        sagas_of(self.submit(command))
    }

    /// The task ids of a command's sagas.
    pub fn tasks(&self, command: impl ToCommand) -> Vec<String> {
        self.sagas(command).iter().map(task_of).collect()
    }

    pub fn lease(&self, command: impl ToCommand) -> LeaseAnswer {
        match self.submit(command) {
            Ok(Answer::Lease(lease)) => lease,
            other => panic!("{other:?}"),
        }
    }

    pub fn purged(&self, command: impl ToCommand) -> PurgeResult {
        match self.submit(command) {
            Ok(Answer::Purged(purged)) => purged,
            other => panic!("{other:?}"),
        }
    }

    /// Submits a command that must be refused; returns the reason.
    pub fn refusal(&self, command: impl ToCommand) -> Rejection {
        refusal_of(self.submit(command))
    }

    /// Waits until the writer has done everything that was submitted before and all that is due.
    pub fn settle(&self) {
        assert_eq!(self.refusal(annotate("nobody-at-all", "poke")), Rejection::SagaNotFound);
    }

    /// Moves the clock without waking the writer.
    pub fn tick(&self, span: Span) {
        self.clock.advance(span);
    }

    /// Moves the clock, and waits until the writer has applied what is due.
    pub fn advance(&self, span: Span) {
        self.tick(span);
        self.settle();
    }

    /// Submits a command, which must be held.
    pub fn hold(&self, command: impl ToCommand) -> HeldCall<'_> {
        self.hold_request(Request { command: command.command(), key: None, by: None })
    }

    pub fn hold_as(&self, id: u8, command: impl ToCommand) -> HeldCall<'_> {
        let command = command.command();
        let key = Some(key_of(id, &command));
        self.hold_request(Request { command, key, by: None })
    }

    fn hold_request(&self, request: Request) -> HeldCall<'_> {
        let mut held = self.begin(request);
        held.poll();
        self.settle();
        held
    }

    /// Submits a command without waiting until the writer has received it.
    pub fn hold_unsettled(&self, command: impl ToCommand) -> HeldCall<'_> {
        let mut held = self.begin(Request { command: command.command(), key: None, by: None });
        held.poll();
        held
    }

    fn begin(&self, request: Request) -> HeldCall<'_> {
        let store = self.handle.clone();
        HeldCall { store: self, call: async move { store.submit(request).await }.boxed(), answer: None }
    }

    pub fn get(&self, task: &str) -> Option<Saga> {
        self.wait(self.handle.get(SagaKey::Task(TaskId::parse(task).unwrap()))).unwrap()
    }

    pub fn list(&self, query: ListQuery) -> SagaPage {
        self.wait(self.handle.list(query)).unwrap()
    }

    pub fn events(&self, query: EventQuery) -> Result<Vec<Event>, StoreError> {
        self.wait(self.handle.events(query))
    }

    /// The whole history.
    pub fn history(&self) -> Vec<Event> {
        let all = EventQuery { through: Revision(i64::MAX), limit: 1 << 20, whole: true, ..EventQuery::default() };
        self.events(all).unwrap()
    }
}

/// A call that the store may hold.
pub struct HeldCall<'a> {
    store: &'a TestStore,
    call: BoxFuture<'static, Result<Answer, StoreError>>,
    answer: Option<Result<Answer, StoreError>>,
}

impl HeldCall<'_> {
    fn poll(&mut self) {
        if self.answer.is_none() {
            let call = Pin::new(&mut self.call);
            self.answer = match self.store.runtime.block_on(async { futures::poll!(call) }) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            };
        }
    }

    /// True if there is no answer yet.
    pub fn is_held(&mut self) -> bool {
        self.poll();
        self.answer.is_none()
    }

    /// Waits for the answer.
    pub fn answer(mut self) -> Result<Answer, StoreError> {
        self.poll();
        match self.answer.take() {
            Some(answer) => answer,
            None => self.store.wait(&mut self.call),
        }
    }

    /// The task ids of its sagas.
    pub fn tasks(self) -> Vec<String> {
        sagas_of(self.answer()).iter().map(task_of).collect()
    }
}

pub fn task_of(saga: &Saga) -> String {
    saga.spec.task_id.to_string()
}

pub fn saga_of(outcome: Result<Answer, StoreError>) -> Saga {
    match outcome {
        Ok(Answer::Saga(saga)) => Arc::unwrap_or_clone(saga),
        other => panic!("{other:?}"),
    }
}

pub fn sagas_of(outcome: Result<Answer, StoreError>) -> Vec<Saga> {
    match outcome {
        Ok(Answer::Sagas(sagas)) => sagas.into_iter().map(Arc::unwrap_or_clone).collect(),
        other => panic!("{other:?}"),
    }
}

pub fn refusal_of(outcome: Result<Answer, StoreError>) -> Rejection {
    match outcome {
        Err(StoreError::Refused(refusal)) => refusal.why,
        other => panic!("{other:?}"),
    }
}
