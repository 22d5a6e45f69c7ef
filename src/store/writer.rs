//! The one writer thread: it owns the writing connection, and every change reaches it through one bounded queue.
//!
//! A turn of its loop takes what waits, executes it in one transaction, commits, answers, and publishes: a batch is what
//! queued up while the last one was written, without artificial delay. Answers never precede the commit. Due leases are
//! processed behind what was queued before them.

mod house;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use crossbeam_channel::Receiver;
use tokio::sync::oneshot;

use crate::{
    domain::{
        bounds::ANSWER_KEPT,
        command::{Answer, ClaimNext, Command, FreeVerb, Request, Verb},
        event::Event,
        ids::Revision,
        lease::Absence,
        time::{Span, Timestamp},
    },
    mutants::{self, Mutant},
};

use super::{
    StoreError,
    claim::{answer_bytes, let_go},
    execute::{Engine, Outcome},
    handle::{Message, Shared, Submission},
    inbox::Inbox,
    post::{Reply, send_all},
    rows::{Opening, Rows, RowsError},
    vitals::{Batch, Step, Tally, Timing},
    waiters::{HeldUntil, Share, Waiter, Waiters, Waiting},
};

/// How often an idle writer looks up: often enough to notice its own absence.
const LOOK_UP: Span = Span::from_millis(250);
/// Most answers that one transaction forgets.
const FORGET: usize = 5000;
/// How often it looks for answers to forget.
const FORGET_EVERY: Span = Span::from_secs(1);
/// When a caller who met a full disk should try again.
const FULL_RETRY: Span = Span::from_secs(5);
/// When a caller who met too many held claims should try again.
const HOLD_RETRY: Span = Span::from_secs(1);
/// Revisions are reserved in blocks of this size: large enough to sync the reservation seldom, small enough that 2^53
/// lasts for 500 million starts.
const RESERVE: usize = 1 << 24;
/// From how many sagas on a batch is a large one, and how many of these one transaction takes together: creating a thousand, or
/// repeating the answer, takes some tens of milliseconds. Small changes that come meanwhile don't wait for several of them.
const LARGE: usize = 100;
const LARGE_TOGETHER: usize = 1000;
/// Why the writer ended early.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WriterFailure {
    /// The store can't be relied upon any more.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The store's files were removed or replaced; says which.
    #[error("{0}")]
    Gone(String),
}

/// The running writer thread.
pub struct WriterThread {
    ended: oneshot::Receiver<Result<(), WriterFailure>>,
}

impl WriterThread {
    /// Resolves when the thread has ended: fine after `Store::close`, else with what failed.
    pub async fn ended(&mut self) -> Result<(), WriterFailure> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(WriterFailure::Failed("the writer thread panicked".into())))
    }
}

/// What bounds the writer.
#[derive(Clone, Copy, Debug)]
pub struct WriterBounds {
    /// Most changes in one transaction.
    pub batch: usize,
    /// Most held claims.
    pub waiting: usize,
    /// How long leases stand at least after an absence.
    pub restart_grace: Span,
}

/// Starts the writer on an opened backend, whose rows are made on the thread that uses them. What guards the backend against
/// others is let go when the writer has ended.
pub(super) fn spawn<R: Rows>(
    make: impl FnOnce() -> R + Send + 'static,
    opening: Opening,
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    bounds: WriterBounds,
    guard: impl Send + 'static,
) -> Result<WriterThread, std::io::Error> {
    let (done, ended) = oneshot::channel();
    let (started, has_started) = mpsc::sync_channel(1);
    thread::Builder::new().name("sagad-writer".into()).spawn(move || {
        let mut rows = make();
        let reserved = opening.next_revision.after(RESERVE);
        let is_reserved =
            if mutants::on(Mutant::RevisionsNotReserved) { Ok(true) } else { rows.reserve_revisions(reserved) };
        let begins = matches!(is_reserved, Ok(true));
        // Whoever starts it waits for this.
        if started.send(is_reserved).is_err() || !begins {
            return;
        }
        let reserve_at = opening.next_revision.after(RESERVE / 2);
        let now = shared.clock.now();
        let absence =
            if mutants::on(Mutant::RestartWithoutGrace) { Absence::default() } else { *shared.absence.read() };
        let mut engine = Engine::new(rows, opening, absence);
        engine.time_sweeps(Arc::clone(&shared.clock));
        let mut writer = Writer {
            engine,
            inbox: Inbox::new(messages, Arc::clone(&shared.clock)),
            waiters: Waiters::default(),
            large: VecDeque::new(),
            bounds,
            time: now,
            last_able: now,
            forgot_at: now,
            shrink_at: now,
            shrinks: false,
            disk_was_full: false,
            draining: false,
            reserved,
            reserve_at,
            shared,
        };
        let result = writer.run().map_err(|failure| match failure {
            RowsError::Gone(what) => WriterFailure::Gone(what),
            RowsError::Full | RowsError::Corrupt(_) | RowsError::Broken(_) | RowsError::Unwritten(_) => {
                WriterFailure::Failed(failure.to_string())
            }
        });
        writer.refuse_the_rest();
        drop(writer);
        drop(guard);
        // Nobody may be waiting for the end.
        let _ = done.send(result);
    })?;
    // Before anyone can read: a backup that began at once would be in the way.
    match has_started.recv().map_err(std::io::Error::other)?.map_err(std::io::Error::other)? {
        true => Ok(WriterThread { ended }),
        false => {
            let what = "another process reads the database and keeps its log from being checkpointed";
            Err(std::io::Error::other(what))
        }
    }
}

struct Writer<R> {
    engine: Engine<R>,
    inbox: Inbox,
    shared: Arc<Shared>,
    waiters: Waiters,
    /// Large batches that wait for their turn. What they hold is bounded with all changes'.
    large: VecDeque<Submission>,
    bounds: WriterBounds,
    /// The time of the last command or sweep: no later one has an earlier time.
    time: Timestamp,
    /// When the writer was last known to be able to write.
    last_able: Timestamp,
    forgot_at: Timestamp,
    /// When to see again whether there is room to be given back, and whether there was more when it was last seen.
    shrink_at: Timestamp,
    shrinks: bool,
    disk_was_full: bool,
    draining: bool,
    /// No revision from here on may be given before it is reserved.
    reserved: Revision,
    /// When to reserve more.
    reserve_at: Revision,
}

/// A batch that is on disk.
struct Committed {
    events: Vec<Event>,
    commit_begun: Timestamp,
    committed: Timestamp,
}

/// An outcome on its way to its caller.
type Answered = (Reply, Outcome);

impl<R: Rows> Writer<R> {
    fn run(&mut self) -> Result<(), RowsError> {
        loop {
            let first = self.wait();
            self.begin_turn();
            if self.disk_was_full && !self.has_room()? {
                self.answer_overdue();
                match first {
                    // There is no room to end in good order, and no need to: the next start skips what was reserved.
                    Some(Message::Close) => return Ok(()),
                    Some(message) => self.refuse_for_lack_of_room(message),
                    None => {}
                }
                // Nothing is swept until there is room.
                for waiter in self.waiters.take_until_swept() {
                    let_go(waiter, Err(StoreError::Full { retry_after: FULL_RETRY }));
                }
                for submission in std::mem::take(&mut self.large) {
                    self.refuse_for_lack_of_room(Message::Submit(submission));
                }
                continue;
            }
            let mut batch = Vec::new();
            let mut closing = false;
            // Whatever arrives after this instant is not in the batch, so nothing due by it overtakes the queue.
            let now = self.shared.clock.now();
            if mutants::on(Mutant::AbsenceUnnoticedWhileDraining) {
                // One after the other: those that are left after a suspension give others time to send something.
                (0..8).for_each(|_| thread::sleep(Duration::from_millis(1)));
            }
            let mut next = first;
            while let Some(message) = next {
                match message {
                    Message::Submit(submission) if is_large(&submission) => self.large.push_back(submission),
                    Message::Submit(submission) => batch.push(submission),
                    Message::Tell(answer) => self.tell(answer),
                    Message::Drain => self.drain(),
                    Message::Close => closing = true,
                }
                if closing || batch.len() >= self.bounds.batch {
                    break;
                }
                next = self.inbox.take();
            }
            self.take_large(&mut batch, closing);
            self.inbox.turned(batch.len());
            // The machine may have been suspended since the turn began, and what arrived after its return is in the batch. From
            // here on nothing is judged at a later time than this, whenever the rest of the turn comes to be.
            if !mutants::on(Mutant::AbsenceUnnoticedWhileDraining) {
                self.notice_absence();
            }
            let drained = batch.len() < self.bounds.batch;
            self.turn(batch, drained.then_some(now))?;
            if closing {
                let last = self.engine.next_revision();
                return self.engine.rows.close(last, self.shared.clock.now());
            }
            self.keep_house()?;
            self.shrink()?;
        }
    }

    /// Takes some of the large batches, one at least if there are any, behind what else there is; all of them at the end.
    fn take_large(&mut self, batch: &mut Vec<Submission>, all: bool) {
        let mut sagas = 0;
        while (all || sagas < LARGE_TOGETHER)
            && let Some(submission) = self.large.pop_front()
        {
            sagas += sagas_asked(&submission.request.command);
            batch.push(submission);
        }
    }

    /// Tells of held claims. Whoever asked may have stopped waiting.
    fn tell(&self, answer: oneshot::Sender<Vec<Waiting>>) {
        let _ = answer.send(self.waiters.tell());
    }

    /// Waits for a message, but not beyond what is due next.
    fn wait(&mut self) -> Option<Message> {
        let now = self.shared.clock.now();
        let mut until = now.plus(LOOK_UP);
        // While the disk is full nothing can be done about what is due.
        let serve = self.engine.has_to_serve().then_some(now);
        let shrink = self.shrinks.then_some(self.shrink_at);
        let due = [self.engine.agenda.next(), self.waiters.next_deadline(), serve, shrink];
        for due in due.into_iter().flatten().filter(|_| !self.disk_was_full) {
            until = until.min(due);
        }
        if !self.large.is_empty() {
            return self.inbox.take();
        }
        self.inbox.wait(until)
    }

    fn refuse_for_lack_of_room(&mut self, message: Message) {
        match message {
            Message::Submit(submission) => {
                self.shared.meter.refused.disk_full.fetch_add(1, Ordering::Relaxed);
                submission.answer.send(Err(StoreError::Full { retry_after: FULL_RETRY }));
            }
            Message::Tell(answer) => self.tell(answer),
            Message::Drain => self.drain(),
            Message::Close => {}
        }
    }

    /// Answers what was not taken up before the end.
    fn refuse_the_rest(&mut self) {
        self.release_all();
        while let Some(message) = self.inbox.take() {
            if let Message::Submit(submission) = message {
                self.large.push_back(submission);
            }
        }
        for submission in self.large.drain(..) {
            submission.answer.send(Err(StoreError::ShuttingDown));
        }
    }

    /// One transaction: the batch, then what is due by `sweep_to`, or by the last arrival if more waits.
    fn turn(&mut self, batch: Vec<Submission>, sweep_to: Option<Timestamp>) -> Result<(), RowsError> {
        self.answer_overdue();
        let nothing_due = self.engine.agenda.due_by(self.shared.clock.now()).is_none();
        let nothing_held = !self.engine.has_to_serve() && !self.waiters.has_until_swept();
        if batch.is_empty() && nothing_due && nothing_held {
            return Ok(());
        }
        let (changes, begun) = (batch.len(), self.shared.clock.now());
        let mut answered = Vec::with_capacity(changes);
        let mut unanswered = batch.into_iter();
        let executed = self.execute_all(&mut unanswered, sweep_to, &mut answered);
        match executed {
            Ok(Committed { events, commit_begun, committed }) => {
                send_all(answered);
                let tally = Tally::of(&events);
                self.shared.tail.publish(events);
                self.shared.waiting.store(self.waiters.len() as u64, Ordering::Relaxed);
                let answered = self.shared.clock.now();
                self.shared.meter.batch(Batch { changes, begun, commit_begun, committed, answered }, tally);
                Ok(())
            }
            Err((error, committing)) => {
                let error = match self.engine.rows.judge(error) {
                    RowsError::Broken(_) if mutants::on(Mutant::FailingDiskIsFull) => RowsError::Full,
                    error => error,
                };
                let outcome = self.failed(&error, committing);
                let callers = answered.into_iter().map(|(caller, _)| caller).chain(unanswered.map(|s| s.answer));
                let told = callers.map(|caller| caller.send(Err(outcome.clone()))).count() as u64;
                if error != RowsError::Full {
                    return Err(error);
                }
                self.shared.meter.refused.disk_full.fetch_add(told, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Executes and commits; an error tells whether it was the commit that failed.
    fn execute_all(
        &mut self,
        batch: &mut impl Iterator<Item = Submission>,
        sweep_to: Option<Timestamp>,
        answered: &mut Vec<Answered>,
    ) -> Result<Committed, (RowsError, bool)> {
        let before = |error| (error, false);
        self.engine.begin().map_err(before)?;
        self.engine.answer_room = self.shared.memory.left();
        // What the last transaction did not get to, if anything.
        self.serve(answered).map_err(before)?;
        let mut timed: Vec<Arc<Timing>> = Vec::new();
        for submission in batch {
            if submission.answer.is_closed() && gives_work(&submission.request.command) {
                continue;
            }
            if submission.origin.credentials.as_ref().is_some_and(|shown| shown.are_over(&*self.shared.clock)) {
                answered.push((submission.answer, Err(StoreError::Revoked)));
                continue;
            }
            self.time = self.time.max(submission.arrival);
            if let Some(timing) = &submission.timing {
                timing.reached(Step::Taken, self.shared.clock.now());
            }
            let executed = self.execute(&submission);
            if let Some(timing) = &submission.timing {
                timing.reached(Step::Judged, self.shared.clock.now());
                timed.push(timing.clone());
            }
            match executed {
                Ok((outcome, None)) => answer(submission.answer, outcome, answered),
                Ok((_, Some(until))) => self.hold(submission, until, answered),
                Err(error) => {
                    answered.push((submission.answer, Err(StoreError::OutcomeUnknown)));
                    return Err(before(error));
                }
            }
            self.serve(answered).map_err(before)?;
        }
        self.time = self.time.max(sweep_to.unwrap_or(self.time));
        if !mutants::on(Mutant::SweepsOnlyWhenAsked) {
            self.engine.sweep_for_held(&self.waiters, self.time).map_err(before)?;
            self.engine.sweep(self.time).map_err(before)?;
        }
        self.serve(answered).map_err(before)?;
        answered.extend(self.engine.take_swept(&mut self.waiters).into_iter().map(|(waiter, o)| (waiter.answer, o)));
        if self.time.since(self.forgot_at) >= FORGET_EVERY {
            self.forgot_at = self.time;
            self.engine.rows.forget_answers(self.time.minus(ANSWER_KEPT), FORGET).map_err(before)?;
        }
        if mutants::on(Mutant::AnswerBeforeCommit) {
            answered.drain(..).for_each(|(caller, outcome)| caller.send(outcome));
            thread::sleep(Duration::from_millis(5));
        }
        let commit_begun = self.shared.clock.now();
        let events = self.engine.commit().map_err(|error| (error, true))?;
        let committed = self.shared.clock.now();
        for timing in timed {
            timing.reached(Step::Committing, commit_begun);
            timing.reached(Step::Committed, committed);
        }
        Ok(Committed { events, commit_begun, committed })
    }

    /// Executes one command; tells how long it is to be held, if it is.
    fn execute(&mut self, submission: &Submission) -> Result<(Outcome, Option<HeldUntil>), RowsError> {
        let Submission { request, arrival, .. } = submission;
        let outcome = self.engine.execute(request, self.time)?;
        let held = self.engine.held_until(request, &outcome, *arrival, self.time)?;
        Ok((outcome, held))
    }

    /// Holds a claim that found nothing, if there is room and time for it.
    fn hold(&mut self, submission: Submission, until: HeldUntil, answered: &mut Vec<Answered>) {
        let Submission { request: Request { command, key, by }, answer, origin, .. } = submission;
        let Some(wish) = held_wish(command) else { return };
        if self.draining {
            answered.push((answer, Err(StoreError::ShuttingDown)));
            return;
        }
        let waiter = Waiter {
            wish,
            key,
            until,
            answer,
            share: Share::of(by.as_deref(), &origin),
            by,
            credentials: origin.credentials,
        };
        if !self.waiters.have_room(&waiter, self.bounds.waiting) {
            self.shared.meter.refused.too_many_waiting.fetch_add(1, Ordering::Relaxed);
            answered.push((waiter.answer, Err(StoreError::Overloaded { retry_after: HOLD_RETRY })));
        } else {
            waiter.answer.release_bytes();
            self.waiters.hold(waiter);
        }
    }

    fn serve(&mut self, answered: &mut Vec<Answered>) -> Result<(), RowsError> {
        for (waiter, outcome) in self.engine.serve(&mut self.waiters, self.time)? {
            answer(waiter.answer, outcome, answered);
        }
        Ok(())
    }

    /// Answers held calls whose callers were revoked, and those whose time is up.
    fn answer_overdue(&mut self) {
        if self.shared.revoked.swap(false, Ordering::AcqRel) {
            for waiter in self.waiters.take_revoked(&*self.shared.clock) {
                let_go(waiter, Err(StoreError::Revoked));
            }
        }
        let now = self.shared.clock.now();
        while let Some(waiter) = self.waiters.take_overdue(now) {
            let_go(waiter, Ok(Answer::Sagas(Vec::new())));
        }
        self.shared.waiting.store(self.waiters.len() as u64, Ordering::Relaxed);
    }

    fn drain(&mut self) {
        self.draining = true;
        self.release_all();
    }

    fn release_all(&mut self) {
        for waiter in self.waiters.take_all() {
            let_go(waiter, Err(StoreError::ShuttingDown));
        }
    }

    /// What the callers of a failed transaction are told.
    fn failed(&mut self, error: &RowsError, committing: bool) -> StoreError {
        match error {
            RowsError::Full => {
                tracing::error!("the disk is full; changes are refused until it has room");
                self.disk_is_full(true);
                match self.engine.rollback() {
                    Ok(()) => StoreError::Full { retry_after: FULL_RETRY },
                    Err(worse) => StoreError::Unavailable(worse.to_string()),
                }
            }
            // A commit that failed may have happened: the row can be there when the store is opened again.
            RowsError::Broken(_) | RowsError::Unwritten(_) | RowsError::Gone(_) if committing => {
                StoreError::OutcomeUnknown
            }
            RowsError::Broken(what) | RowsError::Corrupt(what) | RowsError::Unwritten(what) | RowsError::Gone(what) => {
                StoreError::Unavailable(what.clone())
            }
        }
    }
}

/// How many sagas a command creates.
fn sagas_asked(command: &Command) -> usize {
    match command {
        Command::Create(creations) => creations.len(),
        Command::ClaimNext(_) | Command::Change(_) | Command::SetPaused(_) | Command::Purge(_) => 1,
    }
}

fn is_large(submission: &Submission) -> bool {
    sagas_asked(&submission.request.command) > LARGE
}

/// Has an outcome sent when it is committed; until it has arrived its memory is counted.
fn answer(reply: Reply, outcome: Outcome, answered: &mut Vec<Answered>) {
    reply.add_bytes(answer_bytes(&outcome));
    answered.push((reply, outcome));
}

/// Whether a command gives its caller a lease. It is not carried out when the caller has gone before its turn comes: nobody
/// would work under that lease, and the work would wait for its end. Any other change is: a worker whose connection broke
/// may have sent its result by it, and whoever repeats a call is answered alike whether it happened before or not.
fn gives_work(command: &Command) -> bool {
    match command {
        Command::ClaimNext(_) => true,
        Command::Change(change) => matches!(change.verb, Verb::Free(FreeVerb::Claim { .. })),
        Command::Create(_) | Command::SetPaused(_) | Command::Purge(_) => false,
    }
}

fn held_wish(command: Command) -> Option<ClaimNext> {
    match command {
        Command::ClaimNext(wish) => Some(wish),
        Command::Create(_) | Command::Change(_) | Command::SetPaused(_) | Command::Purge(_) => None,
    }
}
