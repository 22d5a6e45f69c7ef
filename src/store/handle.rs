//! [`Store`]: what the floors above hold. Changes go through a bounded queue to the one writer thread; reads run on
//! the blocking pool, as many at once as there are reading connections, and wait in a [`ReadQueue`] for their turn.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::{
    clock::Clock,
    coordinator::out_of_scope,
    domain::{
        bounds::ABSENCE,
        command::{Answer, Command, QueueStatus, Request},
        event::Event,
        ids::{QueueName, Revision},
        lease::Absence,
        saga::{Saga, State},
        time::{Span, Timestamp},
    },
};

use super::{
    CallOrigin, Credentials, EventQuery, Feed, ListQuery, Moment, Outcome, PageBounds, ReadCaller, Reader,
    RecentEvents, SagaKey, SagaPage, Stats, StoreError, Stretch, Waiting,
    memory_share::{ChangesMemory, MemoryShare},
    post::Reply,
    read_queue::{ReadQueue, Reads, in_background},
    submission::{Submission, WaitingCaller},
    vitals::{LogMeter, Meter, Step, Timing, Vitals, WatchKind, Watching},
};

/// When a caller that found the queue full should try again: by then the writer has worked most of it off.
const OVERLOAD_RETRY: Span = Span::from_millis(100);

/// How long the writer is given to tell of held claims: a batch or two, with a slow disk.
const TELLING: Duration = Duration::from_millis(500);

/// What reaches the writer.
#[allow(clippy::large_enum_variant, reason = "nearly every message is a change, and a box for each would cost more")]
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

impl Message {
    /// Tells whoever sent it that the writer has ended.
    pub(super) fn refuse(self) {
        match self {
            Message::Submit(submission) => submission.caller.send(Err(StoreError::ShuttingDown)),
            // Dropped, it is answered.
            Message::Tell(_) | Message::Drain | Message::Close => {}
        }
    }
}

/// The answer to a change that the writer was handed; dropped, the change may still happen.
#[derive(Debug)]
pub struct PendingAnswer {
    answered: oneshot::Receiver<Outcome>,
    /// What the change and its answer hold, until it is here.
    _memory: Arc<MemoryShare>,
}

impl Future for PendingAnswer {
    type Output = Result<Answer, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The writer answers everything it takes up. If it is gone without an answer, it ended between taking and committing, or
        // died: the caller has to assume either.
        Pin::new(&mut self.answered).poll(cx).map(|outcome| outcome.unwrap_or(Err(StoreError::OutcomeUnknown)))
    }
}

/// What the writer and the handles share.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) recent: Arc<RecentEvents>,
    /// The last absence, written by the writer alone.
    pub(super) absence: RwLock<Absence>,
    /// Held claims, written by the writer alone.
    pub(super) waiting: AtomicU64,
    /// Set when the caller of a held call was revoked: the writer looks through them and clears it.
    pub(super) revoked: AtomicBool,
    /// What changes and their answers hold.
    pub(super) memory: ChangesMemory,
    /// What is measured.
    pub(super) meter: Meter,
}

impl Shared {
    /// For a store whose newest event is at `head`, back from an absence, with what its backend tells of its log.
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        recent: Arc<RecentEvents>,
        absence: Absence,
        log: Arc<LogMeter>,
    ) -> Arc<Self> {
        let meter = Meter::new(clock.now()).with_log(log);
        let absence = RwLock::new(absence);
        let (waiting, revoked, memory) = (AtomicU64::new(0), AtomicBool::new(false), ChangesMemory::default());
        Arc::new(Shared { clock, recent, absence, waiting, revoked, memory, meter })
    }
}

/// A handle on an open store, for the daemon itself or for one caller; cheap to clone.
#[derive(Clone)]
pub struct Store {
    intake: Sender<Message>,
    reads: Reads,
    pub(super) shared: Arc<Shared>,
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
        let (queue, caller, clock) = (ReadQueue::new(reads), ReadCaller::default(), shared.clock.clone());
        let store =
            Store { intake, reads: Reads { reader, queue, caller, clock }, shared, description: description.into() };
        (store, messages)
    }

    /// A store that only looks at what somebody else writes and publishes: for a simulation, which drives the coordinator
    /// itself.
    pub fn looking_on(reader: Arc<dyn Reader>, clock: Arc<dyn Clock>, recent: Arc<RecentEvents>) -> Self {
        let shared = Shared::new(clock, recent, Absence::default(), Arc::default());
        Self::new(1, reader, 1, shared, "looking on").0
    }

    /// The same store for a caller: its reads take turns with those of others, and are refused once its credentials are over.
    pub fn read_for(&self, caller: ReadCaller) -> Self {
        Store { reads: Reads { caller, ..self.reads.clone() }, ..self.clone() }
    }

    /// Submits a change and waits for its commit. When the future is dropped, the change may still happen.
    pub async fn submit(&self, request: Request) -> Result<Answer, StoreError> {
        self.submit_for(request, CallOrigin::default(), None).await
    }

    /// The same for a caller that showed credentials, with a record of when it got where. Once they are over, the change is
    /// refused in its turn, and a call that is held is let go: [`StoreError::Revoked`].
    pub async fn submit_for(
        &self,
        request: Request,
        origin: CallOrigin,
        timing: Option<Arc<Timing>>,
    ) -> Result<Answer, StoreError> {
        let held_for = origin.credentials.clone().filter(|_| matches!(request.command, Command::ClaimNext(_)));
        let answer = self.begin(request, origin, timing)?;
        match held_for {
            None => answer.await,
            Some(credentials) => self.answered_or_revoked(answer, &credentials).await,
        }
    }

    /// Hands a change to the writer, behind all that was handed to it before. Does not wait; dropping the answer takes nothing
    /// back. Whoever may be revoked while a `ClaimNext` of it is held calls [`Self::caller_revoked`] then.
    ///
    /// # Errors
    /// The change was not taken up.
    pub fn begin(
        &self,
        request: Request,
        origin: CallOrigin,
        timing: Option<Arc<Timing>>,
    ) -> Result<PendingAnswer, StoreError> {
        let refused = &self.shared.meter.refused;
        let Some(memory) = self.shared.memory.take(request.command.weight()) else {
            refused.no_room.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::Overloaded { retry_after: OVERLOAD_RETRY });
        };
        // Held until the answer is here: it may be larger than the request.
        let memory = Arc::new(memory);
        let (answer, answered) = Reply::counted(memory.clone());
        let arrival = self.shared.clock.now();
        // Only whoever may claim there counts as somebody who does.
        if matches!(request.command, Command::ClaimNext(_)) && out_of_scope(&request).is_none() {
            self.shared.meter.asked(&request.command, arrival);
        }
        if let Some(timing) = &timing {
            timing.reached(Step::Queued, arrival);
        }
        let caller = WaitingCaller::new(answer, origin, timing, &self.shared);
        let submission = Submission { request, arrival, caller };
        match self.send(Message::Submit(submission)) {
            Ok(()) => Ok(PendingAnswer { answered, _memory: memory }),
            Err(not_sent) => {
                if let StoreError::Overloaded { .. } = not_sent {
                    refused.queue_full.fetch_add(1, Ordering::Relaxed);
                }
                Err(not_sent)
            }
        }
    }

    /// Hands a message to the writer, if there is room for it.
    fn send(&self, message: Message) -> Result<(), StoreError> {
        self.intake.try_send(message).map_err(|not_sent| match not_sent {
            TrySendError::Full(_) => StoreError::Overloaded { retry_after: OVERLOAD_RETRY },
            TrySendError::Disconnected(_) => StoreError::ShuttingDown,
        })
    }

    /// The credentials of somebody whose `ClaimNext` may be held are over: the writer looks for such calls and lets them go.
    pub fn caller_revoked(&self) {
        self.shared.revoked.store(true, Ordering::Release);
    }

    /// Waits for the answer to a call that may be held. When its caller is revoked, the writer is told and not the caller: only
    /// the writer knows whether the call was given something before.
    async fn answered_or_revoked(
        &self,
        mut answer: PendingAnswer,
        credentials: &Credentials,
    ) -> Result<Answer, StoreError> {
        tokio::select! {
            biased;
            outcome = &mut answer => return outcome,
            () = credentials.end() => self.caller_revoked(),
        }
        answer.await
    }

    /// Waits until the writer has committed what it had begun when this was called.
    pub async fn caught_up(&self) -> Result<(), StoreError> {
        let (answer, told) = oneshot::channel();
        self.send(Message::Tell(answer))?;
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

    /// Events, as many as there are up to the limit: stretch by stretch, each in a turn of its own.
    pub async fn events(&self, mut query: EventQuery) -> Result<Vec<Event>, StoreError> {
        let mut all = Vec::new();
        loop {
            let part = query.clone();
            let Stretch { found, through } = self.reads.read(move |reader| reader.events(&part)).await?;
            query.limit -= found.len();
            query.after = through;
            all.extend(found);
            if query.limit == 0 || query.after >= query.through {
                return Ok(all);
            }
        }
    }

    /// Sagas reported stale, in order of their `lease_expired` revisions, each with it: what a bounded stretch has.
    pub async fn stale(
        &self,
        queues: Vec<QueueName>,
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<Stretch<(Revision, Saga)>, StoreError> {
        self.reads.read(move |reader| reader.stale(&queues, after, through, bounds)).await
    }

    /// Sagas in a terminal state, unchanged since before a time, the longest first: at most `limit`, with their contents.
    pub async fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError> {
        self.reads.read(move |reader| reader.ended(state, before, limit)).await
    }

    /// Counts of everything.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let moment = self.moment();
        let queues = self.reads.read(move |reader| reader.counts(&moment)).await?;
        Ok(Stats {
            queues,
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            revision: self.shared.recent.head(),
            writer_queue_depth: self.intake.len() as u64,
        })
    }

    /// The queues that ever held a saga or were paused, in order of name, behind one of them: at most `limit`.
    pub async fn queues(&self, after: Option<QueueName>, limit: usize) -> Result<Vec<QueueStatus>, StoreError> {
        self.reads.read(move |reader| reader.queues(after.as_ref(), limit)).await
    }

    /// Writes a consistent copy to a new file; returns the newest revision in it. It can take minutes, and takes no reader from
    /// others meanwhile.
    pub async fn backup(&self, path: PathBuf) -> Result<Revision, StoreError> {
        let reader = self.reads.reader.clone();
        in_background(move || reader.backup(&path)).await
    }

    /// What the store measures of itself. Reads a few hundred numbers; never waits for the writer.
    pub fn vitals(&self) -> Vitals {
        let shared = &self.shared;
        Vitals {
            waiting: shared.waiting.load(Ordering::Relaxed),
            writer_queue_depth: self.intake.len() as u64,
            writer_queue_max: self.intake.capacity().unwrap_or(0) as u64,
            head: shared.recent.head(),
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
        self.send(Message::Tell(answer)).ok()?;
        tokio::time::timeout(TELLING, told).await.ok()?.ok()
    }

    /// This moment on the coordinator's clock.
    pub fn moment(&self) -> Moment {
        let now = self.shared.clock.now();
        let mut absence = *self.shared.absence.read();
        // Back from an absence that the writer has not noticed yet: it will, before it judges anything.
        if self.shared.meter.silence(now) > ABSENCE {
            absence.returned_at = now;
        }
        Moment { now, absence }
    }

    /// The wall clock's UTC, for showing how far the coordinator's clock is from it.
    pub fn utc(&self) -> Timestamp {
        self.shared.clock.utc()
    }

    /// The history, for those who follow it.
    pub fn feed(&self) -> Feed {
        Feed::new(self.shared.recent.clone(), self.reads.clone())
    }

    /// The backend's name.
    pub fn kind(&self) -> &str {
        self.description.split(' ').next().unwrap_or_default()
    }

    /// What the store is, for people: the backend's name, then its version and where it is.
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
    fn silence_is_the_time_since_the_writer_last_turned() {
        let clock = Arc::new(ManualClock::default());
        let options = StoreOptions { restart_grace: Span::ZERO, queue: 1, batch: 1, readers: 1, max_waiting: 1 };
        let (store, mut writer) =
            Memory::default().open(&options, Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>).unwrap();
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
}
