//! [`Store`]: the handle that the layers above use. Changes go through a bounded queue to the writer thread. Reads run
//! on the blocking pool, as many at once as there are reading connections; the others wait in a [`ReadQueue`].

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use tokio::sync::oneshot;

use crate::{
    clock::Clock,
    coordinator::out_of_scope,
    domain::{
        bounds::ABSENCE_WITHOUT_GRACE,
        command::{Answer, Command, QueueStatus, Request},
        event::Event,
        ids::{QueueName, Revision},
        lease::RestartGrace,
        saga::{Saga, State},
        time::{Span, Timestamp},
    },
    metrics::{OpenWatch, Vitals, WatchKind, WriteStage},
};

use super::{
    CallOrigin, CallOutcome, Credentials, EventFeed, EventQuery, HeldClaimSummary, ListQuery, PageBounds, ReadCaller,
    ReadTime, Reader, RecentEvents, SagaKey, SagaPage, ScanPage, Stats, StoreError,
    memory_budget::MemoryReservation,
    read_queue::{CallerReader, ReadQueue, spawn_read},
    reply::Reply,
    shared_state::SharedState,
    submission::{Submission, WaitingCaller},
    writer_message::WriterMessage,
};

/// When a caller should try again if the queue was full: by then the writer has worked off most of it.
const OVERLOAD_RETRY: Span = Span::from_millis(100);

/// How long to wait for the writer's report of held claims: a batch or two on a slow disk.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// The answer to a change that was queued. Dropping it doesn't cancel the change.
#[derive(Debug)]
pub struct PendingAnswer {
    answered: oneshot::Receiver<CallOutcome>,
    /// Memory of the change and its answer, until the answer has arrived.
    _memory: Arc<MemoryReservation>,
}

impl Future for PendingAnswer {
    type Output = Result<Answer, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The writer answers everything that it takes from the queue. If it is gone without an answer, it ended
        // between taking and committing, or panicked: the change may or may not have happened.
        Pin::new(&mut self.answered).poll(cx).map(|outcome| outcome.unwrap_or(Err(StoreError::OutcomeUnknown)))
    }
}

/// A handle to an open store, for the daemon itself or for one caller. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    intake: Sender<WriterMessage>,
    reads: CallerReader,
    pub(super) shared: Arc<SharedState>,
    description: Arc<str>,
}

impl Store {
    pub(super) fn new(
        queue: usize,
        reader: Arc<dyn Reader>,
        reads: usize,
        shared: Arc<SharedState>,
        description: &str,
    ) -> (Self, Receiver<WriterMessage>) {
        let (intake, messages) = crossbeam_channel::bounded(queue);
        let (queue, caller, clock) = (ReadQueue::new(reads), ReadCaller::default(), shared.clock.clone());
        let store = Store {
            intake,
            reads: CallerReader { reader, queue, caller, clock },
            shared,
            description: description.into(),
        };
        (store, messages)
    }

    /// A store that only reads what somebody else writes and publishes: for the simulation, which drives the
    /// coordinator itself.
    pub fn observer(reader: Arc<dyn Reader>, clock: Arc<dyn Clock>, recent: Arc<RecentEvents>) -> Self {
        let shared = SharedState::new(clock, recent, RestartGrace::default(), Arc::default());
        Self::new(1, reader, 1, shared, "looking on").0
    }

    /// A handle for one caller: its reads take turns with those of others, and are refused once its credentials are
    /// invalid.
    pub fn read_for(&self, caller: ReadCaller) -> Self {
        Store { reads: CallerReader { caller, ..self.reads.clone() }, ..self.clone() }
    }

    /// Submits a change and waits until it is committed. If the future is dropped, the change may still happen.
    pub async fn submit(&self, request: Request) -> Result<Answer, StoreError> {
        self.submit_for(request, CallOrigin::default()).await
    }

    /// Like [`Self::submit`], for a caller with credentials. Once the credentials are invalid, the change is refused when its turn comes, and a held call is answered:
    /// [`StoreError::Revoked`].
    pub async fn submit_for(&self, request: Request, origin: CallOrigin) -> Result<Answer, StoreError> {
        let held_for = origin.credentials.clone().filter(|_| matches!(request.command, Command::ClaimNext(_)));
        let answer = self.begin(request, origin)?;
        match held_for {
            None => answer.await,
            Some(credentials) => self.answered_or_revoked(answer, &credentials).await,
        }
    }

    /// Queues a change for the writer, after all that were queued before. Does not wait. Dropping the answer doesn't
    /// cancel the change. A caller whose `ClaimNext` may be held must call [`Self::caller_revoked`] when it is
    /// revoked.
    ///
    /// # Errors
    /// The change was not queued.
    pub fn begin(&self, request: Request, origin: CallOrigin) -> Result<PendingAnswer, StoreError> {
        let refused = &self.shared.metrics.refused;
        let Some(memory) = self.shared.memory.reserve(request.command.weight()) else {
            refused.no_room.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Overloaded { retry_after: OVERLOAD_RETRY });
        };
        // Kept until the answer has arrived, which may be larger than the request.
        let memory = Arc::new(memory);
        let (reply, answered) = Reply::channel(memory.clone());
        let arrival = self.shared.clock.now();
        // Only callers that may claim there count as handlers of the kinds.
        if matches!(request.command, Command::ClaimNext(_)) && out_of_scope(&request).is_none() {
            self.shared.metrics.record_claim(&request.command, arrival);
        }
        let caller = WaitingCaller { reply, origin, shared: self.shared.clone() };
        caller.reached(WriteStage::Queued, arrival);
        let submission = Submission { request, arrival, caller };
        match self.send(WriterMessage::Submit(submission)) {
            Ok(()) => Ok(PendingAnswer { answered, _memory: memory }),
            Err(not_sent) => {
                if let StoreError::Overloaded { .. } = not_sent {
                    refused.queue_full.fetch_add(1, Ordering::Relaxed);
                }
                Err(not_sent)
            }
        }
    }

    /// Queues a message for the writer, if there is room for it.
    fn send(&self, message: WriterMessage) -> Result<(), StoreError> {
        self.intake.try_send(message).map_err(|not_sent| match not_sent {
            TrySendError::Full(_) => StoreError::Overloaded { retry_after: OVERLOAD_RETRY },
            TrySendError::Disconnected(_) => StoreError::ShuttingDown,
        })
    }

    /// Tells the writer that the caller of a held `ClaimNext` may have been revoked: it checks all held calls and
    /// answers those.
    pub fn caller_revoked(&self) {
        self.shared.revoked.store(true, Ordering::Release);
    }

    /// Waits for the answer to a call that may be held. If its caller is revoked, the writer is told rather than the
    /// caller: only the writer knows whether the call got something before.
    async fn answered_or_revoked(
        &self,
        mut answer: PendingAnswer,
        credentials: &Credentials,
    ) -> Result<Answer, StoreError> {
        tokio::select! {
            biased;
            outcome = &mut answer => return outcome,
            () = credentials.wait_revoked() => self.caller_revoked(),
        }
        answer.await
    }

    /// Waits until the writer has committed what it had started when this was called.
    pub async fn caught_up(&self) -> Result<(), StoreError> {
        let (answer, told) = oneshot::channel();
        self.send(WriterMessage::ReportHeldClaims(answer))?;
        told.await.map(drop).map_err(|_| StoreError::ShuttingDown)
    }

    /// The saga as it is now.
    pub async fn get(&self, key: SagaKey) -> Result<Option<Saga>, StoreError> {
        self.reads.read(move |reader| reader.get(&key)).await
    }

    /// A page of sagas.
    pub async fn list(&self, query: ListQuery) -> Result<SagaPage, StoreError> {
        self.reads.read(move |reader| reader.list(&query)).await
    }

    /// All events up to the limit, read a page at a time; each page waits for its turn.
    pub async fn events(&self, mut query: EventQuery) -> Result<Vec<Event>, StoreError> {
        let mut all = Vec::new();
        loop {
            let part = query.clone();
            let ScanPage { found, through } = self.reads.read(move |reader| reader.events(&part)).await?;
            query.limit -= found.len();
            query.after = through;
            all.extend(found);
            if query.limit == 0 || query.after >= query.through {
                return Ok(all);
            }
        }
    }

    /// One page of the sagas that are reported stale, in order of their `lease_expired` revisions, each with it.
    pub async fn stale(
        &self,
        queues: Vec<QueueName>,
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<ScanPage<(Revision, Saga)>, StoreError> {
        self.reads.read(move |reader| reader.stale(&queues, after, through, bounds)).await
    }

    /// Sagas in a terminal state that were last changed before a time, oldest first: at most `limit`, with their
    /// contents.
    pub async fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError> {
        self.reads.read(move |reader| reader.ended(state, before, limit)).await
    }

    /// Counts of everything.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let read_time = self.read_time();
        let queues = self.reads.read(move |reader| reader.counts(&read_time)).await?;
        Ok(Stats {
            queues,
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            revision: self.shared.recent.head(),
            writer_queue_depth: self.intake.len() as u64,
        })
    }

    /// The queues that ever held a saga or were paused, by name, after one of them: at most `limit`.
    pub async fn queues(&self, after: Option<QueueName>, limit: usize) -> Result<Vec<QueueStatus>, StoreError> {
        self.reads.read(move |reader| reader.queues(after.as_ref(), limit)).await
    }

    /// Writes a consistent copy to a new file; returns the newest revision in it. It can take minutes, and doesn't
    /// occupy a reader meanwhile.
    pub async fn backup(&self, path: PathBuf) -> Result<Revision, StoreError> {
        let reader = self.reads.reader.clone();
        spawn_read(move || reader.backup(&path)).await
    }

    /// The store's metrics. Reads a few hundred numbers and never waits for the writer.
    pub fn vitals(&self) -> Vitals {
        let shared = &self.shared;
        Vitals {
            waiting: shared.waiting.load(Ordering::Relaxed),
            writer_queue_depth: self.intake.len() as u64,
            writer_queue_max: self.intake.capacity().unwrap_or(0) as u64,
            head: shared.recent.head(),
            ..shared.metrics.read(shared.clock.now(), shared.clock.utc())
        }
    }

    /// The time since the writer's loop last ran. It runs every 250 ms when idle; a step of it takes tens of
    /// milliseconds, and a sync as long as the disk takes. So many seconds mean a hanging disk, a suspended machine,
    /// or a bug. It also grows after the writer has ended.
    pub fn writer_silence(&self) -> Span {
        self.shared.metrics.writer_silence(self.shared.clock.now())
    }

    /// Registers an open watch that has sent everything up to a position, until the result is dropped. No queues: all
    /// queues; `one_task`: one saga only.
    pub fn open_watch(&self, kind: WatchKind, queues: Vec<QueueName>, one_task: bool, position: Revision) -> OpenWatch {
        self.shared.metrics.watches.open(kind, queues, one_task, position)
    }

    /// Summaries of the held claims by queue and purpose, which the writer answers between two batches. `None` if it
    /// doesn't within half a second, or if its queue is full.
    pub async fn waiting(&self) -> Option<Vec<HeldClaimSummary>> {
        let (answer, told) = oneshot::channel();
        self.send(WriterMessage::ReportHeldClaims(answer)).ok()?;
        tokio::time::timeout(REPORT_TIMEOUT, told).await.ok()?.ok()
    }

    /// The time on the coordinator's clock, and the grace, for reading leases.
    pub fn read_time(&self) -> ReadTime {
        let now = self.shared.clock.now();
        let mut grace = *self.shared.grace.read();
        // After an absence that the writer has not noticed yet. It will, before it executes anything.
        if self.shared.metrics.writer_silence(now) > ABSENCE_WITHOUT_GRACE {
            grace.returned_at = now;
        }
        ReadTime { now, grace }
    }

    /// The wall clock, to show how far the coordinator's clock is from it.
    pub fn utc(&self) -> Timestamp {
        self.shared.clock.utc()
    }

    /// The history for followers.
    pub fn event_feed(&self) -> EventFeed {
        EventFeed::new(self.shared.recent.clone(), self.reads.clone())
    }

    /// The backend's name.
    pub fn kind(&self) -> &str {
        self.description.split(' ').next().unwrap_or_default()
    }

    /// A description for people: the backend's name, then its version and location.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Answers all held claims, and stops holding. Blocks while the queue is full.
    pub fn drain(&self) {
        // If the writer has ended, it holds no claims.
        let _ = self.intake.send(WriterMessage::Drain);
    }

    /// Ends the writer once it has answered what was submitted before. Blocks while the queue is full.
    pub fn close(&self) {
        let _ = self.intake.send(WriterMessage::Close);
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::{
        clock::ManualClock,
        store::{StoreOptions, memory::Memory},
    };

    #[test]
    fn writer_silence_is_the_time_since_the_writer_last_ran() {
        let clock = Arc::new(ManualClock::default());
        let options = StoreOptions { restart_grace: Span::ZERO, queue: 1, batch: 1, readers: 1, max_waiting: 1 };
        let (store, mut writer) =
            Memory::default().open(&options, Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>).unwrap();
        let minute = Span::from_secs(60);
        clock.advance(minute);
        // An idle writer runs by itself.
        while store.writer_silence() > Span::ZERO {
            thread::sleep(Duration::from_millis(5));
        }
        store.close();
        futures::executor::block_on(writer.ended()).unwrap();
        clock.advance(minute);
        assert_eq!(store.writer_silence(), minute, "a writer that has ended is silent");
    }
}
