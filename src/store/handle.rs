//! [`Store`]: what the floors above hold. Changes go through a bounded queue to the one writer thread; reads run on
//! the blocking pool, as many at once as there are reading connections.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, oneshot};

use crate::{
    clock::Clock,
    domain::{
        command::{Answer, QueueStatus, Request},
        event::Event,
        ids::{QueueName, Revision},
        lease::Absence,
        saga::{Saga, State},
        time::{Span, Timestamp},
    },
};

use super::{
    EventQuery, ListQuery, Moment, Reader, SagaKey, SagaPage, Stats, StoreError, Tail,
    post::Reply,
    vitals::{LogMeter, Meter, Step, Timing, Vitals, WatchKind, Watching},
    waiters::Waiting,
};

/// When a caller that found the queue full should try again: by then the writer has worked most of it off.
const OVERLOAD_RETRY: Span = Span::from_millis(100);
/// Most memory of the changes that wait for the writer or are being written: some twenty of the largest batches. A caller
/// that goes away leaves its change in the queue, so what bounds calls does not bound this.
const QUEUE_BYTES: usize = 128 << 20;
/// A change that is no larger is not refused for that: as many as fit into the queue hold little.
const SMALL_BYTES: usize = 4 << 10;

/// How long the writer is given to tell of held claims: a batch or two, with a slow disk.
const TELLING: Duration = Duration::from_millis(500);

/// What reaches the writer.
pub(super) enum Message {
    /// A change, with the time of its arrival.
    Submit(Submission),
    /// Held claims are to be told of.
    Tell(oneshot::Sender<Vec<Waiting>>),
    /// Held claims are to be let go, and no more are to be held.
    Drain,
    /// The last message: answer what came before and end.
    Close,
}

/// A change on its way to the writer.
pub(super) struct Submission {
    pub(super) request: Request,
    pub(super) arrival: Timestamp,
    pub(super) answer: Reply,
    /// Where it is noted how far it is, if somebody asked for that.
    pub(super) timing: Option<Arc<Timing>>,
    /// Held until the change is written and answered.
    _room: Room,
}

/// A part of the memory that changes may hold; given back when it is dropped.
struct Room {
    taken: Arc<AtomicUsize>,
    bytes: usize,
}

impl Room {
    /// None: there is none left.
    fn take(taken: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let room = Room { taken: taken.clone(), bytes };
        let all = taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (bytes <= SMALL_BYTES || all <= QUEUE_BYTES).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What the writer and the handles share.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tail: Tail,
    /// The last absence, written by the writer alone.
    pub(super) absence: RwLock<Absence>,
    /// Held claims, written by the writer alone.
    pub(super) waiting: AtomicU64,
    /// What is measured.
    pub(super) meter: Meter,
}

impl Shared {
    /// For a store whose newest event is at `head`, back from an absence, with what its backend tells of its log.
    pub(super) fn new(clock: Arc<dyn Clock>, head: Revision, absence: Absence, log: Arc<LogMeter>) -> Arc<Self> {
        let meter = Meter::new(clock.now()).with_log(log);
        let (tail, absence) = (Tail::starting_at(head), RwLock::new(absence));
        Arc::new(Shared { clock, tail, absence, waiting: AtomicU64::new(0), meter })
    }
}

/// A handle on an open store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    intake: Sender<Message>,
    taken: Arc<AtomicUsize>,
    reader: Arc<dyn Reader>,
    reads: Arc<Semaphore>,
    shared: Arc<Shared>,
    description: Arc<str>,
}

impl Store {
    pub(super) fn new(
        queue: usize,
        reader: Arc<dyn Reader>,
        reads: usize,
        shared: Arc<Shared>,
        description: &str,
    ) -> (Self, Receiver<Message>) {
        let (intake, messages) = crossbeam_channel::bounded(queue);
        let (taken, reads) = (Arc::default(), Arc::new(Semaphore::new(reads)));
        let store = Store { intake, taken, reader, reads, shared, description: description.into() };
        (store, messages)
    }

    /// A store that only looks at what somebody else writes and publishes to its tail, from behind `head`: for a
    /// simulation, which drives the engine itself.
    pub fn looking_on(reader: Arc<dyn Reader>, clock: Arc<dyn Clock>, head: Revision) -> Self {
        let shared = Shared::new(clock, head, Absence::default(), Arc::default());
        Self::new(1, reader, 1, shared, "looking on").0
    }

    /// Submits a change and waits for its commit. When the future is dropped, the change may still happen.
    pub async fn submit(&self, request: Request) -> Result<Answer, StoreError> {
        self.submit_timed(request, None).await
    }

    /// The same, with a record of when it got where.
    pub async fn submit_timed(&self, request: Request, timing: Option<Arc<Timing>>) -> Result<Answer, StoreError> {
        let refused = &self.shared.meter.refused;
        let Some(_room) = Room::take(&self.taken, request.command.weight()) else {
            refused.no_room.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Overloaded { retry_after: OVERLOAD_RETRY });
        };
        let (answer, answered) = Reply::expected();
        let arrival = self.shared.clock.now();
        self.shared.meter.asked(&request.command, arrival);
        if let Some(timing) = &timing {
            timing.reached(Step::Queued, arrival);
        }
        let submission = Submission { request, arrival, answer, timing, _room };
        match self.intake.try_send(Message::Submit(submission)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                refused.queue_full.fetch_add(1, Ordering::Relaxed);
                return Err(StoreError::Overloaded { retry_after: OVERLOAD_RETRY });
            }
            Err(TrySendError::Disconnected(_)) => return Err(StoreError::ShuttingDown),
        }
        // The writer answers everything it takes up. If it is gone without an answer, it ended between taking and
        // committing, or died: the caller has to assume either.
        answered.await.unwrap_or(Err(StoreError::OutcomeUnknown))
    }

    /// The saga as it is now.
    pub async fn get(&self, key: SagaKey) -> Result<Option<Saga>, StoreError> {
        self.read(move |reader| reader.get(&key)).await
    }

    /// A page of sagas.
    pub async fn list(&self, query: ListQuery) -> Result<SagaPage, StoreError> {
        self.read(move |reader| reader.list(&query)).await
    }

    /// A stretch of the history.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<Event>, StoreError> {
        self.read(move |reader| reader.events(&query)).await
    }

    /// Sagas reported stale, in order of their `lease_expired` revisions, each with it.
    pub async fn stale(
        &self,
        queues: Vec<QueueName>,
        after: Revision,
        through: Revision,
        limit: usize,
    ) -> Result<Vec<(Revision, Saga)>, StoreError> {
        self.read(move |reader| reader.stale(&queues, after, through, limit)).await
    }

    /// Sagas in a terminal state, unchanged since before a time, the longest first: at most `limit`, with their contents.
    pub async fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError> {
        self.read(move |reader| reader.ended(state, before, limit)).await
    }

    /// Counts of everything.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let moment = self.moment();
        let queues = self.read(move |reader| reader.counts(&moment)).await?;
        Ok(Stats {
            queues,
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            revision: self.shared.tail.head(),
            writer_queue_depth: self.intake.len() as u64,
        })
    }

    /// All queues.
    pub async fn queues(&self) -> Result<Vec<QueueStatus>, StoreError> {
        self.read(Reader::queues).await
    }

    /// Writes a consistent copy to a new file; returns the newest revision in it.
    pub async fn backup(&self, path: PathBuf) -> Result<Revision, StoreError> {
        self.read(move |reader| reader.backup(&path)).await
    }

    /// What the store measures of itself. Reads a few hundred numbers; never waits for the writer.
    pub fn vitals(&self) -> Vitals {
        let shared = &self.shared;
        Vitals {
            waiting: shared.waiting.load(Ordering::Relaxed),
            writer_queue_depth: self.intake.len() as u64,
            writer_queue_max: self.intake.capacity().unwrap_or(0) as u64,
            head: shared.tail.head(),
            ..shared.meter.read(shared.clock.now(), shared.clock.utc())
        }
    }

    /// How long ago the writer's loop last turned. It does every 250 ms when there is nothing to do; a step of it takes some
    /// tens of milliseconds, and a sync as long as the disk takes. So a silence of many seconds means a disk that hangs, a
    /// machine that stood still, or a mistake in the program. It grows from the writer's end on, too.
    pub fn silence(&self) -> Span {
        self.shared.meter.silence(self.shared.clock.now())
    }

    /// A watch is opened, with everything up to a position handed out, until what this returns is dropped. No queues: of
    /// all; `one_task`: of one saga alone.
    pub fn watching(&self, kind: WatchKind, queues: Vec<QueueName>, one_task: bool, position: Revision) -> Watching {
        self.shared.meter.watches.open(kind, queues, one_task, position)
    }

    /// Which claims are held, by queue and purpose: a question to the writer, which it answers between two batches.
    /// `None`: it does not within a moment, or its queue is full.
    pub async fn waiting(&self) -> Option<Vec<Waiting>> {
        let (answer, told) = oneshot::channel();
        self.intake.try_send(Message::Tell(answer)).ok()?;
        tokio::time::timeout(TELLING, told).await.ok()?.ok()
    }

    /// This moment on the coordinator's clock.
    pub fn moment(&self) -> Moment {
        Moment { now: self.shared.clock.now(), absence: *self.shared.absence.read() }
    }

    /// The wall clock's UTC, for showing how far the coordinator's clock is from it.
    pub fn utc(&self) -> Timestamp {
        self.shared.clock.utc()
    }

    /// The end of the history, for those who follow it.
    pub fn tail(&self) -> &Tail {
        &self.shared.tail
    }

    /// What the store is, for people: the backend and its version.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Lets held claims go, and holds no more. Blocks while the queue is full.
    pub fn drain(&self) {
        // A writer that is gone holds no claims.
        let _ = self.intake.send(Message::Drain);
    }

    /// Ends the writer once it has answered what was submitted before. Blocks while the queue is full.
    pub fn close(&self) {
        let _ = self.intake.send(Message::Close);
    }

    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.reads.clone().acquire_owned().await.map_err(|_| StoreError::ShuttingDown)?;
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            look(&*reader)
        })
        .await
        .unwrap_or_else(|gone| Err(StoreError::Unavailable(format!("a read ended early: {gone}"))))
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::{clock::ManualClock, store::memory};

    #[test]
    fn silence_is_the_time_since_the_writer_last_turned() {
        let clock = Arc::new(ManualClock::default());
        let options = memory::Options { restart_grace: Span::ZERO, queue: 1, batch: 1, readers: 1, max_waiting: 1 };
        let (store, mut writer) = memory::open(&options, Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>).unwrap();
        let minute = Span::from_secs(60);
        clock.advance(minute);
        // An idle writer looks up by itself.
        while store.silence() > Span::ZERO {
            thread::sleep(Duration::from_millis(5));
        }
        store.close();
        futures::executor::block_on(writer.ended()).unwrap();
        clock.advance(minute);
        assert_eq!(store.silence(), minute, "whoever has ended turns no more");
    }

    #[test]
    fn p10_large_changes_share_a_room_and_small_ones_need_none() {
        let taken = Arc::default();
        let half = Room::take(&taken, QUEUE_BYTES / 2).unwrap();
        let _other = Room::take(&taken, QUEUE_BYTES / 2).unwrap();
        assert!(Room::take(&taken, SMALL_BYTES + 1).is_none());
        let _small = Room::take(&taken, SMALL_BYTES).unwrap();
        drop(half);
        assert!(Room::take(&taken, QUEUE_BYTES / 4).is_some());
        assert_eq!(taken.load(Ordering::Relaxed), QUEUE_BYTES / 2 + SMALL_BYTES, "what was refused took nothing");
    }
}
