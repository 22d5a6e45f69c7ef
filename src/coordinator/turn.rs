//! [`Turn`]: a batch of calls that are executed and committed together.

use std::{
    collections::{HashMap, HashSet},
    vec,
};

use crate::{
    domain::{
        bounds::ANSWER_KEPT,
        command::{Command, Operation, Request, UnleasedOperation},
        event::Event,
        ids::{QueueName, Revision, SagaId, TaskId},
        time::{Span, Timestamp},
    },
    mutants::{self, Mutant},
};

use super::{
    Backend, BackendError, Call, CallOutcome, Caller, ChangeSet, Claimable, Coordinator, DueEntry, HeldClaim,
    HeldUntil, ReadyEntry, RowId, RowIdBuildHasher, SagaChange, StoreError, StoredAnswer, SweepBudget,
    encoded_size::answer_bytes, load_ahead::LoadAhead,
};

/// Most sagas that one turn hands to held calls: a few milliseconds of the writer's time. When a queue with much work
/// is resumed, thousands of calls may wait for it.
const SERVED_SAGAS: usize = 256;
/// Most old answers that one turn removes …
const FORGET: usize = 5000;
/// … and how often it does.
const FORGET_EVERY: Span = Span::from_secs(1);
/// When a caller should try again if too many claims are held.
const HOLD_RETRY: Span = Span::from_secs(1);

/// Limits of one turn.
pub struct TurnLimits<'a> {
    /// What it may spend on what is due.
    pub sweep: SweepBudget,
    /// The clock that bounds the time of sweeps; none: only their cost is bounded.
    pub time: Option<&'a dyn Fn() -> Timestamp>,
    /// The most bytes of answers. What doesn't fit is left out of repeated answers; a claim takes at least one saga.
    pub answer_room: usize,
}

impl Default for TurnLimits<'_> {
    fn default() -> Self {
        TurnLimits { sweep: SweepBudget::default(), time: None, answer_room: usize::MAX }
    }
}

/// What happens in a turn, in this order.
pub enum TurnStep<'a, C> {
    /// A call was executed. If it found nothing and is held, it is not among those that are answered.
    Judged(&'a Request, &'a CallOutcome),
    /// Held calls were answered with what became claimable, if any could be.
    Served(&'a [(C, CallOutcome)]),
    /// What is due was applied; true if that was all of it.
    Swept(bool),
    /// A stored saga can't be read and was skipped; says why.
    Unreadable(RowId, &'a str),
}

/// Observes a turn step by step: what happened, the revision of the next event, and the time.
pub type TurnObserver<'a, C> = &'a mut dyn FnMut(TurnStep<'_, C>, Revision, Timestamp);

/// The result of a committed turn.
pub struct CommittedTurn<C> {
    /// The callers to answer and their outcomes, in order.
    pub answered: Vec<(C, CallOutcome)>,
    /// The new events.
    pub events: Vec<Event>,
}

/// A turn that failed.
pub struct FailedTurn<C> {
    /// Why it failed, and whether it happened.
    pub error: BackendError,
    /// All callers that wait for an answer from it.
    pub callers: Vec<C>,
}

/// A saga's index entries before the turn changed it.
struct IndexesBefore {
    id: RowId,
    due: Option<DueEntry>,
    ready: Option<ReadyEntry>,
}

/// A batch of calls that is being executed, and its changes on top of what the coordinator and its backend have. If it
/// is dropped without [`Turn::commit`], it has not happened.
pub struct Turn<'a, B, C: Caller> {
    pub(super) coordinator: &'a mut Coordinator<C>,
    pub(super) backend: &'a mut B,
    pub(super) limits: TurnLimits<'a>,
    pub(super) observe: TurnObserver<'a, C>,
    /// The changes of this turn.
    pub(super) changes: ChangeSet,
    /// The index of a saga in `changes.sagas`.
    pub(super) touched: HashMap<RowId, usize, RowIdBuildHasher>,
    before: Vec<IndexesBefore>,
    /// Sagas that this turn removed.
    pub(super) removed: HashSet<RowId, RowIdBuildHasher>,
    /// Ids of sagas that this turn created.
    pub(super) tasks: HashMap<TaskId, RowId>,
    pub(super) saga_ids: HashSet<SagaId>,
    /// Answers to store.
    pub(super) kept: HashMap<[u8; 16], StoredAnswer>,
    /// The paused queues, if this turn changed them.
    pub(super) paused: Option<HashSet<QueueName>>,
    pub(super) next_revision: Revision,
    pub(super) next_row: RowId,
    pub(super) claimable: Vec<Claimable>,
    /// How many sagas it may still hand to held calls.
    pub(super) left_to_serve: usize,
    pub(super) answered: Vec<(C, CallOutcome)>,
    is_committed: bool,
}

impl<C: Caller> Coordinator<C> {
    /// Executes a batch, each call at the time of its arrival; then applies what is due by `sweep_to` (if none, by the
    /// last arrival), and answers held calls with what became claimable. An error that concerns only one call is its
    /// outcome; any other error ends the turn.
    pub fn turn<'a, B: Backend>(
        &'a mut self,
        backend: &'a mut B,
        batch: Vec<Call<C>>,
        sweep_to: Option<Timestamp>,
        limits: TurnLimits<'a>,
        observe: TurnObserver<'a, C>,
    ) -> Result<Turn<'a, B, C>, FailedTurn<C>> {
        let (next_revision, next_row, claimable) = (self.next_revision, self.next_row, self.claimable.clone());
        let mut turn = Turn {
            coordinator: self,
            backend,
            limits,
            observe,
            changes: ChangeSet::default(),
            touched: HashMap::default(),
            before: Vec::new(),
            removed: HashSet::default(),
            tasks: HashMap::new(),
            saga_ids: HashSet::new(),
            kept: HashMap::new(),
            paused: None,
            next_revision,
            next_row,
            claimable,
            left_to_serve: SERVED_SAGAS,
            answered: Vec::with_capacity(batch.len()),
            is_committed: false,
        };
        let mut calls = batch.into_iter();
        match turn.run(&mut calls, sweep_to) {
            Ok(()) => Ok(turn),
            Err(error) => {
                let answered = std::mem::take(&mut turn.answered).into_iter().map(|(caller, _)| caller);
                Err(FailedTurn { error, callers: answered.chain(calls.map(|call| call.caller)).collect() })
            }
        }
    }
}

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    fn run(&mut self, calls: &mut vec::IntoIter<Call<C>>, sweep_to: Option<Timestamp>) -> Result<(), BackendError> {
        if B::IS_REMOTE {
            let LoadAhead { keys, answers } =
                self.coordinator.load_ahead(calls.as_slice(), sweep_to.unwrap_or(self.now()));
            self.backend.load_ahead(keys, &answers)?;
        }
        // What the last turn left to serve, if anything.
        self.serve()?;
        for call in calls {
            self.call(call)?;
            self.serve()?;
        }
        let now = self.now().max(sweep_to.unwrap_or(self.now()));
        self.coordinator.time = now;
        if !mutants::on(Mutant::SweepsOnlyWhenAsked) {
            self.sweep_for_held(now)?;
            let complete = self.sweep(now)?;
            self.observe_step(TurnStep::Swept(complete));
        }
        self.serve()?;
        self.answer_swept();
        if now.since(self.coordinator.forgot_at) >= FORGET_EVERY {
            self.coordinator.forgot_at = now;
            self.changes.forget_answers = Some((now.minus(ANSWER_KEPT), FORGET));
        }
        Ok(())
    }

    fn call(&mut self, call: Call<C>) -> Result<(), BackendError> {
        let Call { request, arrival, caller } = call;
        if caller.is_gone() && gives_work(&request.command) {
            return Ok(());
        }
        if caller.is_revoked() {
            self.answered.push((caller, Err(StoreError::Revoked)));
            return Ok(());
        }
        let now = self.now().max(arrival);
        self.coordinator.time = now;
        caller.on_taken();
        let executed = self.execute(&request, now).and_then(|outcome| {
            let until = self.held_until(&request, &outcome, arrival, now)?;
            Ok((outcome, until))
        });
        caller.on_judged();
        match executed {
            Ok((outcome, until)) => {
                self.observe_step(TurnStep::Judged(&request, &outcome));
                match until {
                    None => self.answer(caller, outcome),
                    Some(until) => self.hold(request, caller, until),
                }
                Ok(())
            }
            Err(error) => {
                self.answered.push((caller, Err(StoreError::OutcomeUnknown)));
                Err(error)
            }
        }
    }

    /// Queues an outcome, which is sent once the turn is committed.
    pub(super) fn answer(&mut self, caller: C, outcome: CallOutcome) {
        caller.on_answered(answer_bytes(&outcome));
        self.answered.push((caller, outcome));
    }

    /// Holds a claim that found nothing, if there is a place for it.
    fn hold(&mut self, request: Request, caller: C, until: HeldUntil) {
        let Request { command: Command::ClaimNext(claim), key, by } = request else { return };
        if self.coordinator.draining {
            self.answered.push((caller, Err(StoreError::ShuttingDown)));
            return;
        }
        let share = caller.share(by.as_deref());
        let held = HeldClaim { claim, key, by, until, share, caller };
        let most = self.coordinator.max_waiting;
        if self.coordinator.held_claims.have_room(&held, most) {
            held.caller.on_held();
            self.coordinator.held_claims.hold(held);
        } else {
            held.caller.on_hold_refused();
            self.answered.push((held.caller, Err(StoreError::Overloaded { retry_after: HOLD_RETRY })));
        }
    }

    pub(super) fn observe_step(&mut self, seen: TurnStep<'_, C>) {
        (self.observe)(seen, self.next_revision, self.coordinator.time);
    }

    /// The time of the call that is being executed.
    pub(super) fn now(&self) -> Timestamp {
        self.coordinator.time
    }

    /// Takes the answers collected so far; for a fault under test (see `mutants`).
    pub fn take_answered(&mut self) -> Vec<(C, CallOutcome)> {
        std::mem::take(&mut self.answered)
    }

    /// Saves a saga's index entries before they are changed.
    pub(super) fn remember(&mut self, id: RowId) {
        let (due, ready) = (self.coordinator.due_index.get(id).cloned(), self.coordinator.ready.get(id).cloned());
        self.before.push(IndexesBefore { id, due, ready });
    }

    /// Makes the turn durable and applies its changes to the coordinator.
    pub fn commit(mut self) -> Result<CommittedTurn<C>, FailedTurn<C>> {
        self.changes.answers = std::mem::take(&mut self.kept).into_iter().collect();
        self.changes.sagas.retain(|change| change.after.is_some());
        // Events of removed sagas are published, but not stored.
        let events_with_removed = (!self.removed.is_empty()).then(|| self.changes.events.clone());
        self.changes.events.retain(|appended| !self.removed.contains(&appended.saga));
        let committed = match (self.changes.is_empty(), self.answered.is_empty()) {
            (false, _) => self.backend.commit(&self.changes),
            (true, false) => self.backend.confirm(),
            (true, true) => Ok(()),
        };
        let answered = std::mem::take(&mut self.answered);
        if let Err(error) = committed {
            return Err(FailedTurn { error, callers: answered.into_iter().map(|(caller, _)| caller).collect() });
        }
        self.is_committed = true;
        let ChangeSet { sagas, events, .. } = std::mem::take(&mut self.changes);
        let coordinator = &mut *self.coordinator;
        for SagaChange { id, after, derived, .. } in sagas {
            if let Some(saga) = after {
                coordinator.cache.keep(id, saga, Some(derived));
            }
        }
        for id in self.removed.drain() {
            coordinator.cache.forget(id);
        }
        coordinator.next_revision = self.next_revision;
        coordinator.next_row = self.next_row;
        coordinator.claimable = std::mem::take(&mut self.claimable);
        if let Some(paused) = self.paused.take() {
            coordinator.paused = paused;
        }
        let events = events_with_removed.unwrap_or(events).into_iter().map(|appended| appended.event).collect();
        Ok(CommittedTurn { answered, events })
    }
}

impl<B, C: Caller> Drop for Turn<'_, B, C> {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        let coordinator = &mut *self.coordinator;
        for IndexesBefore { id, due, ready } in self.before.drain(..) {
            coordinator.due_index.set(id, due, &coordinator.grace);
            coordinator.ready.set(id, ready);
        }
        coordinator.windows.clear();
    }
}

/// True if a command gives its caller a lease. It is not executed if the caller is gone before its turn comes: nobody
/// would work under the lease, and the work would wait until it expires. Other commands are executed: a worker whose
/// connection broke may have sent its result, and a caller that repeats a call gets the same answer whether it
/// happened before or not.
fn gives_work(command: &Command) -> bool {
    match command {
        Command::ClaimNext(_) => true,
        Command::Change(change) => matches!(change.operation, Operation::Unleased(UnleasedOperation::Claim { .. })),
        Command::Create(_) | Command::SetPaused(_) | Command::Purge(_) => false,
    }
}
