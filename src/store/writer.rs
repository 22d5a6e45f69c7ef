//! The writer thread. It owns the backend; every change reaches it through one bounded queue.
//!
//! Each turn of its loop takes what is queued, executes it in one transaction, commits, answers, and publishes the
//! events. A batch is what was queued while the last one was written; nothing is delayed to make it larger. Answers
//! never precede the commit. What is due is applied after what was queued before it.

mod maintenance;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use crossbeam_channel::Receiver;
use tokio::sync::oneshot;

use crate::{
    clock::Clock,
    coordinator::{
        Backend, BackendError, CommittedTurn, Coordinator, FailedTurn, HeldClaimSummary, InitialState, StoreError,
        TurnLimits, TurnStep,
    },
    domain::{
        command::{Answer, Command},
        lease::RestartGrace,
        time::{Span, Timestamp},
    },
    metrics::{BatchEvents, BatchTimes, LogMetrics, WriteStage},
    mutants::{self, Mutant},
};

use super::{
    Reader, RecentEvents, Store,
    command_queue::CommandQueue,
    reply::send_all,
    shared_state::SharedState,
    submission::{Submission, WaitingCaller},
    writer_message::WriterMessage,
};

/// How often an idle writer runs: often enough to notice its own absence.
const IDLE_WAKE: Span = Span::from_millis(250);
/// When a caller should try again if the disk was full.
const FULL_RETRY: Span = Span::from_secs(5);
/// From how many sagas on a request counts as large, and how many sagas of large requests one transaction takes
/// together. Creating a thousand, or repeating the answer, takes tens of milliseconds; small changes that arrive
/// meanwhile don't wait for several of them.
const LARGE: usize = 100;
const LARGE_TOGETHER: usize = 1000;
/// Why the writer ended early.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WriterFailure {
    /// The store can't be used any more.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The store's files were removed or replaced; says which.
    #[error("{0}")]
    Gone(String),
    /// Another coordinator writes now.
    #[error("another coordinator has taken over")]
    Deposed,
}

/// The running writer thread.
pub struct WriterThread {
    ended: oneshot::Receiver<Result<(), WriterFailure>>,
}

impl WriterThread {
    /// Resolves when the thread has ended: Ok after `Store::close`, else with the failure.
    pub async fn ended(&mut self) -> Result<(), WriterFailure> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(WriterFailure::Failed("the writer thread panicked".into())))
    }
}

/// Options of a store, for every backend.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// The least time that leases from before an absence keep after the coordinator's return.
    pub restart_grace: Span,
    /// Most changes that wait for the writer.
    pub queue: usize,
    /// Most changes in one transaction.
    pub batch: usize,
    /// Most reads at a time.
    pub readers: usize,
    /// Most held `ClaimNext` calls.
    pub max_waiting: usize,
}

/// An opened backend, on which a store can be started.
pub(super) struct OpenedBackend<M, G> {
    /// Makes the writing half; called on the writer thread.
    pub(super) make: M,
    pub(super) opening: InitialState,
    pub(super) reader: Arc<dyn Reader>,
    /// The metrics of its log.
    pub(super) log: Arc<LogMetrics>,
    /// A description for people: its name, then its version and location.
    pub(super) description: String,
    /// Keeps other processes out; dropped when the writer has ended.
    pub(super) guard: G,
}

/// Starts a store on a backend. When this returns, the writer is ready.
///
/// # Errors
/// The backend can't start.
pub(super) fn start<B: Backend>(
    options: &StoreOptions,
    clock: Arc<dyn Clock>,
    opened: OpenedBackend<impl FnOnce() -> Result<B, BackendError> + Send + 'static, impl Send + 'static>,
) -> Result<(Store, WriterThread), std::io::Error> {
    let OpenedBackend { make, opening, reader, log, description, guard } = opened;
    clock.advance_to(opening.last_time);
    // Leases that were live when the last run ended had no coordinator since.
    let grace = RestartGrace { returned_at: clock.now(), length: options.restart_grace };
    let shared = SharedState::new(clock, Arc::new(RecentEvents::starting_at(opening.head)), grace, log);
    let (store, messages) = Store::new(options.queue, reader, options.readers, shared.clone(), &description);
    let options = *options;
    let (done, ended) = oneshot::channel();
    let (started, has_started) = mpsc::sync_channel(1);
    thread::Builder::new().name("sagad-writer".into()).spawn(move || {
        let (backend, is_ready) = match make() {
            Ok(backend) => (Some(backend), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // The starter waits for this.
        let is_awaited = started.send(is_ready).is_ok();
        let Some(backend) = backend.filter(|_| is_awaited) else { return };
        let mut writer = Writer::new(backend, opening, messages, shared, options);
        let result = writer.run().map_err(|failure| match failure {
            BackendError::Gone(what) => WriterFailure::Gone(what),
            BackendError::Deposed => WriterFailure::Deposed,
            BackendError::Full
            | BackendError::Away(_)
            | BackendError::Corrupt(_)
            | BackendError::Unwritable(..)
            | BackendError::Unavailable(_)
            | BackendError::OutcomeUnknown(_) => WriterFailure::Failed(failure.to_string()),
        });
        writer.refuse_waiting();
        let Writer { command_queue, backend, coordinator, .. } = writer;
        drop((backend, coordinator, guard));
        // Perhaps nobody waits for the end.
        let _ = done.send(result);
        command_queue.refuse_the_rest();
    })?;
    // Wait for it before anyone can read: a backup that started at once would be in its way.
    has_started.recv().map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;
    Ok((store, WriterThread { ended }))
}

struct Writer<B> {
    coordinator: Coordinator<WaitingCaller>,
    backend: B,
    command_queue: CommandQueue,
    shared: Arc<SharedState>,
    /// Large requests that wait for their turn. Their memory counts with that of all changes.
    large: VecDeque<Submission>,
    options: StoreOptions,
    /// When the writer was last known to be able to write.
    last_able: Timestamp,
    /// When the backend may do the next step of maintenance that can wait, and whether more was left after the last
    /// one.
    step_at: Timestamp,
    steps_left: bool,
    /// While the backend takes no changes: what callers are told instead.
    refusal: Option<StoreError>,
}

impl<B: Backend> Writer<B> {
    fn new(
        backend: B,
        opening: InitialState,
        messages: Receiver<WriterMessage>,
        shared: Arc<SharedState>,
        options: StoreOptions,
    ) -> Self {
        let now = shared.clock.now();
        let grace =
            if mutants::on(Mutant::RestartWithoutGrace) { RestartGrace::default() } else { *shared.grace.read() };
        Writer {
            coordinator: Coordinator::new(opening, grace, options.max_waiting, now),
            backend,
            command_queue: CommandQueue::new(messages, Arc::clone(&shared.clock)),
            large: VecDeque::new(),
            options,
            last_able: now,
            step_at: now,
            steps_left: false,
            refusal: None,
            shared,
        }
    }

    fn run(&mut self) -> Result<(), BackendError> {
        loop {
            let first = self.wait();
            self.begin_turn();
            let takes_changes = match self.takes_changes() {
                Ok(takes_changes) => takes_changes,
                Err(failure) => {
                    // It is answered like those still in the queue: nothing of it has happened.
                    first.into_iter().for_each(WriterMessage::refuse);
                    return Err(failure);
                }
            };
            if let Some(refusal) = self.refusal.clone().filter(|_| !takes_changes) {
                self.answer_overdue();
                match first {
                    // The store can't be closed properly, and needn't be: the next start skips what was reserved.
                    Some(WriterMessage::Close) => return Ok(()),
                    Some(message) => self.refuse(message, &refusal),
                    None => {}
                }
                // Nothing is swept until it takes changes again, so these would wait too long.
                for held in self.coordinator.held_claims.take_until_swept() {
                    held.caller.send(Err(refusal.clone()));
                }
                for submission in std::mem::take(&mut self.large) {
                    self.refuse(WriterMessage::Submit(submission), &refusal);
                }
                continue;
            }
            let mut batch = Vec::new();
            let mut closing = false;
            // What is left out of a drained batch arrived after this instant. So if the queue is drained, applying
            // what is due by it overtakes nothing in the queue.
            let now = self.shared.clock.now();
            if mutants::on(Mutant::AbsenceUnnoticedWhileDraining) {
                // Short sleeps, one after the other: those left after a suspension let others send something.
                (0..8).for_each(|_| thread::sleep(Duration::from_millis(1)));
            }
            let mut next = first;
            while let Some(message) = next {
                match message {
                    WriterMessage::Submit(submission) if is_large(&submission) => self.large.push_back(submission),
                    WriterMessage::Submit(submission) => batch.push(submission),
                    WriterMessage::ReportHeldClaims(answer) => self.report_held_claims(answer),
                    WriterMessage::Drain => self.drain(),
                    WriterMessage::Close => closing = true,
                }
                if closing || batch.len() >= self.options.batch {
                    break;
                }
                next = self.command_queue.take();
            }
            self.take_large(&mut batch, closing);
            self.command_queue.turn_done(batch.len());
            // The machine may have been suspended since the turn began, and the batch may hold what arrived after its
            // return. From here on nothing is executed with a later time than this.
            if !mutants::on(Mutant::AbsenceUnnoticedWhileDraining) {
                self.notice_absence();
            }
            let drained = batch.len() < self.options.batch;
            self.turn(batch, drained.then_some(now))?;
            if closing {
                return self.backend.close(self.shared.clock.now());
            }
            self.maintain()?;
        }
    }

    /// Takes some of the large requests, at least one if there are any, after the others; all of them at the end.
    fn take_large(&mut self, batch: &mut Vec<Submission>, all: bool) {
        let mut sagas = 0;
        while (all || sagas < LARGE_TOGETHER)
            && let Some(submission) = self.large.pop_front()
        {
            sagas += sagas_asked(&submission.request.command);
            batch.push(submission);
        }
    }

    /// Answers with the summaries of held claims. The asker may have stopped waiting.
    fn report_held_claims(&self, answer: oneshot::Sender<Vec<HeldClaimSummary>>) {
        let _ = answer.send(self.coordinator.held_claims.summaries());
    }

    /// Waits for a message, but not beyond what is due next.
    fn wait(&mut self) -> Option<WriterMessage> {
        let now = self.shared.clock.now();
        let mut until = now.plus(IDLE_WAKE);
        // While the backend takes no changes, what is due can't be applied.
        let due = [self.coordinator.next_at(now), self.steps_left.then_some(self.step_at)];
        for due in due.into_iter().flatten().filter(|_| self.refusal.is_none()) {
            until = until.min(due);
        }
        if !self.large.is_empty() {
            return self.command_queue.take();
        }
        self.command_queue.wait(until)
    }

    fn refuse(&mut self, message: WriterMessage, refusal: &StoreError) {
        match message {
            WriterMessage::Submit(submission) => {
                self.count_refused(refusal, 1);
                submission.caller.send(Err(refusal.clone()));
            }
            WriterMessage::ReportHeldClaims(answer) => self.report_held_claims(answer),
            WriterMessage::Drain => self.drain(),
            WriterMessage::Close => {}
        }
    }

    /// Refuses what was not executed before the end.
    fn refuse_waiting(&mut self) {
        self.refuse_held_claims();
        self.large.drain(..).map(WriterMessage::Submit).for_each(WriterMessage::refuse);
        std::iter::from_fn(|| self.command_queue.take()).for_each(WriterMessage::refuse);
    }

    /// Runs one turn: the batch, then what is due by `sweep_to`, or by the last arrival if more is queued.
    fn turn(&mut self, batch: Vec<Submission>, sweep_to: Option<Timestamp>) -> Result<(), BackendError> {
        self.answer_overdue();
        let begun = self.shared.clock.now();
        if batch.is_empty() && !self.coordinator.has_work(begun) {
            return Ok(());
        }
        let changes = batch.len();
        match self.judge_and_commit(batch, sweep_to) {
            Ok((CommittedTurn { events, answered }, commit_begun)) => {
                let committed = self.shared.clock.now();
                for (caller, _) in &answered {
                    caller.reached(WriteStage::Committing, commit_begun);
                    caller.reached(WriteStage::Committed, committed);
                }
                send_all(answered.into_iter().map(|(caller, outcome)| (caller.reply, outcome)).collect());
                let batch_events = BatchEvents::of(&events);
                self.shared.recent.publish(events);
                self.shared.waiting.store(self.coordinator.held_claims.len() as u64, Ordering::Relaxed);
                let answered = self.shared.clock.now();
                self.shared
                    .metrics
                    .batch(BatchTimes { changes, begun, commit_begun, committed, answered }, batch_events);
                Ok(())
            }
            Err(FailedTurn { error, callers }) => {
                let is_broken = matches!(error, BackendError::Unavailable(_) | BackendError::OutcomeUnknown(_));
                let error =
                    if is_broken && mutants::on(Mutant::FailingDiskIsFull) { BackendError::Full } else { error };
                let (outcome, goes_on) = self.failed(&error);
                let told = callers.into_iter().map(|caller| caller.send(Err(outcome.clone()))).count() as u64;
                self.count_refused(&outcome, told);
                if goes_on { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Executes a batch and commits it; also returns when the commit started.
    fn judge_and_commit(
        &mut self,
        batch: Vec<Submission>,
        sweep_to: Option<Timestamp>,
    ) -> Result<(CommittedTurn<WaitingCaller>, Timestamp), FailedTurn<WaitingCaller>> {
        let clock = &*self.shared.clock;
        let time = || clock.now();
        let limits = TurnLimits { time: Some(&time), answer_room: self.shared.memory.left(), ..TurnLimits::default() };
        let mut observe = |seen: TurnStep<'_, WaitingCaller>, _, _| match seen {
            TurnStep::Unreadable(id, what) => {
                tracing::error!(row = id.0, what, "a stored saga can't be read and is passed over");
            }
            TurnStep::Judged(..) | TurnStep::Served(_) | TurnStep::Swept(_) => {}
        };
        let mut turn = self.coordinator.turn(&mut self.backend, batch, sweep_to, limits, &mut observe)?;
        if mutants::on(Mutant::AnswerBeforeCommit) {
            turn.take_answered().into_iter().for_each(|(caller, outcome)| caller.send(outcome));
            thread::sleep(Duration::from_millis(5));
        }
        let commit_begun = clock.now();
        Ok((turn.commit()?, commit_begun))
    }

    /// Answers held calls whose callers were revoked, and those whose deadline has passed.
    fn answer_overdue(&mut self) {
        if self.shared.revoked.swap(false, Ordering::AcqRel) {
            for held in self.coordinator.held_claims.take_revoked() {
                held.caller.send(Err(StoreError::Revoked));
            }
        }
        let now = self.shared.clock.now();
        while let Some(held) = self.coordinator.held_claims.take_overdue(now) {
            held.caller.send(Ok(Answer::Sagas(Vec::new())));
        }
        self.shared.waiting.store(self.coordinator.held_claims.len() as u64, Ordering::Relaxed);
    }

    fn drain(&mut self) {
        self.coordinator.drain();
        self.refuse_held_claims();
    }

    fn refuse_held_claims(&mut self) {
        for held in self.coordinator.held_claims.take_all() {
            held.caller.send(Err(StoreError::ShuttingDown));
        }
    }

    fn count_refused(&self, refusal: &StoreError, callers: u64) {
        if matches!(refusal, StoreError::Full { .. }) {
            self.shared.metrics.refused.disk_full.fetch_add(callers, Ordering::Relaxed);
        }
    }

    /// What the callers of a failed turn are told, and whether the writer continues; if it does, nothing of the turn
    /// was stored.
    fn failed(&mut self, error: &BackendError) -> (StoreError, bool) {
        match error {
            BackendError::Full | BackendError::Away(_) => {
                tracing::error!(%error, "changes are refused until the store takes them again");
                (self.refuse_from_now_on(error), true)
            }
            BackendError::Deposed => (StoreError::Unavailable(error.to_string()), false),
            BackendError::Corrupt(_) | BackendError::Unwritable(..) => {
                tracing::error!(%error, "a turn was not carried out, since what is stored makes no sense");
                if let BackendError::Unwritable(id, _) = error {
                    self.coordinator.set_aside(*id);
                }
                (StoreError::Corrupt(format!("nothing was changed: {error}")), true)
            }
            BackendError::OutcomeUnknown(_) | BackendError::Gone(_) => (StoreError::OutcomeUnknown, false),
            BackendError::Unavailable(what) => (StoreError::Unavailable(what.clone()), false),
        }
    }
}

/// How many sagas a command creates, or 1.
fn sagas_asked(command: &Command) -> usize {
    match command {
        Command::Create(creations) => creations.len(),
        Command::ClaimNext(_) | Command::Change(_) | Command::SetPaused(_) | Command::Purge(_) => 1,
    }
}

fn is_large(submission: &Submission) -> bool {
    sagas_asked(&submission.request.command) > LARGE
}
