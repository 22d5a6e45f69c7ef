//! Executes one call: applies what is due, then the rules, and collects the changes.

use std::sync::Arc;

use crate::{
    domain::{
        bounds::REVISION_MAX,
        command::{
            Answer, Change, Command, Creation, Holder, HolderOperation, LeaseAnswer, Operation, Purge, PurgeResult,
            QueueStatus, Request, SetPaused, UnleasedOperation,
        },
        draft::Draft,
        ids::Revision,
        lease::Standing,
        rejection::{CommandRefusal, Rejection},
        saga::{Saga, State},
        time::Timestamp,
        transition::{EarlierLease, TransitionEffect, cancel_reason, create, transition},
    },
    mutants::{self, Mutant},
};

use super::{
    Backend, BackendError, CallOutcome, Caller, Claimable, RemovalCounts, RowId, StoreError, Turn,
    call::refuse,
    scope::{out_of_scope, saga_refusal},
};

/// After how many removed rows a purge leaves the rest to the next one: a few milliseconds of the writer's time,
/// however many compensations and events each saga has. At least one saga is removed.
const PURGE_ROWS: usize = 1000;

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    /// Executes a request at `now`. An error that concerns only this request is its outcome; any other error ends the
    /// turn.
    pub(super) fn execute(&mut self, request: &Request, now: Timestamp) -> Result<CallOutcome, BackendError> {
        match self.try_execute(request, now) {
            Err(BackendError::Corrupt(what)) => Ok(Err(StoreError::Corrupt(what))),
            Err(other) => Err(other),
            Ok(outcome) => Ok(outcome),
        }
    }

    fn try_execute(&mut self, request: &Request, now: Timestamp) -> Result<CallOutcome, BackendError> {
        if let Some(refused) = out_of_scope(request) {
            return Ok(refused);
        }
        if let Some(replayed) = self.replay(request, now)? {
            return Ok(replayed);
        }
        if self.next_revision.0 >= REVISION_MAX {
            return Ok(Err(StoreError::Unavailable("all revisions below 2^53 are used up".into())));
        }
        match &request.command {
            Command::Create(creations) => self.create(creations, request, now),
            Command::Change(change) => self.change(change, request, now),
            Command::SetPaused(pause) => self.set_paused(pause, now),
            Command::Purge(purge) => self.purge(purge, now).map(Ok),
            Command::ClaimNext(claim) => {
                let sagas = self.claim_next(claim, request.key, now)?;
                Ok(Ok(Answer::Sagas(sagas)))
            }
        }
    }

    fn create(
        &mut self,
        creations: &[Creation],
        request: &Request,
        now: Timestamp,
    ) -> Result<CallOutcome, BackendError> {
        if let Some((index, field)) = self.taken(creations)? {
            return Ok(refuse(CommandRefusal {
                task_id: Some(creations[index].task_id.clone()),
                state: None,
                index: Some(index),
                why: Rejection::SagaExists { field },
            }));
        }
        let mut sagas = Vec::with_capacity(creations.len());
        let mut kept = Vec::with_capacity(creations.len());
        for creation in creations {
            let (saga, mut event) = create(creation.clone(), now, self.next_revision);
            let saga = Arc::new(saga);
            event.actor = request.by.as_ref().map(|by| by.actor.clone());
            kept.push((self.insert(&saga, event, now), None));
            sagas.push(saga);
        }
        self.keep_answer(request.key, kept, now);
        Ok(Ok(Answer::Sagas(sagas)))
    }

    fn change(&mut self, change: &Change, request: &Request, now: Timestamp) -> Result<CallOutcome, BackendError> {
        let refused = |state, why| {
            let task_id = Some(change.task_id.clone());
            Ok(refuse(CommandRefusal { task_id, state, index: None, why }))
        };
        let Some((id, before)) = self.find(&change.task_id)? else {
            return refused(None, Rejection::SagaNotFound);
        };
        // Checked before what is due is applied, so that nothing reveals that the saga exists.
        if let Some(why) = saga_refusal(&request.by, &before.spec.queue) {
            return refused(None, why);
        }
        let earlier = self.earlier_lease(id, &before, &change.operation)?;
        let mut draft = self.draft(&before, now);
        let tampered = tamper(&change.operation, &mut draft);
        let verdict = transition(&mut draft, tampered.as_ref().unwrap_or(&change.operation), earlier.as_ref());
        // What was due has happened even if the operation is refused.
        let saga = self.save(id, before, draft);
        match verdict {
            Err(why) => return refused(Some(saga.state), why),
            Ok(TransitionEffect::Changed) => {
                let token = saga.lease.as_ref().map(|lease| lease.token).filter(|_| is_claim(&change.operation));
                self.keep_answer(request.key, vec![(id, token)], now);
            }
            Ok(TransitionEffect::Unchanged) => {}
        }
        Ok(Ok(answer(&change.operation, saga)))
    }

    /// The lease that a call names, if it is not the saga's last one.
    fn earlier_lease(
        &mut self,
        id: RowId,
        saga: &Saga,
        operation: &Operation,
    ) -> Result<Option<EarlierLease>, BackendError> {
        let Operation::ByHolder(holder, operation) = operation else { return Ok(None) };
        let is_earlier = saga.lease.as_ref().is_some_and(|lease| holder.token < lease.token);
        // A heartbeat is never treated as a repeat, and there are too many to look further.
        if !is_earlier || matches!(operation, HolderOperation::Heartbeat { .. }) {
            return Ok(None);
        }
        Ok(EarlierLease::from_events(
            &self.lease_events(id, holder.token, EarlierLease::EVENTS_SEARCHED)?,
            holder.token,
        ))
    }

    fn set_paused(&mut self, pause: &SetPaused, now: Timestamp) -> Result<CallOutcome, BackendError> {
        if pause.must_exist && !self.queue_exists(&pause.queue)? {
            return Ok(refuse(CommandRefusal::plain(Rejection::QueueNotFound { queue: pause.queue.clone() })));
        }
        let status = QueueStatus {
            queue: pause.queue.clone(),
            paused: pause.paused,
            actor: Some(pause.actor.clone()),
            reason: pause.reason.clone(),
            change_time: Some(now),
        };
        self.changes.queues.push(status.clone());
        let paused = self.paused.get_or_insert_with(|| self.coordinator.paused.clone());
        if pause.paused {
            paused.insert(pause.queue.clone());
        } else {
            paused.remove(&pause.queue);
            self.note_claimable(Claimable::Resumed(pause.queue.clone()));
        }
        Ok(Ok(Answer::Queue(status)))
    }

    /// The sagas named by a purge that still have the revision they had when they were chosen.
    fn unchanged(&mut self, purge: &Purge, before: Timestamp) -> Result<Vec<RowId>, BackendError> {
        let mut found = Vec::with_capacity(purge.only.len());
        for (task_id, revision) in &purge.only {
            let Some((id, saga)) = self.find(task_id)? else { continue };
            let is_ended = saga.state.is_terminal() && purge.states.contains(&saga.state);
            if is_ended && saga.revision == *revision && saga.update_time < before {
                found.push(id);
            }
        }
        Ok(found)
    }

    fn purge(&mut self, purge: &Purge, now: Timestamp) -> Result<Answer, BackendError> {
        let before = now.minus(purge.older_than);
        let mut ids = if purge.only.is_empty() {
            self.ended(&purge.states, before, purge.max_sagas + 1)?
        } else {
            self.unchanged(purge, before)?
        };
        let more = ids.len() > purge.max_sagas;
        ids.truncate(purge.max_sagas);
        let mut purged = PurgeResult { more, ..PurgeResult::default() };
        let (all, mut rows) = (ids.len(), 0);
        for id in ids {
            if purge.validate_only {
                purged.events += self.count_removal(id)?.events;
            } else if rows >= PURGE_ROWS {
                break;
            } else {
                let RemovalCounts { events, compensations, newest } = self.remove(id)?;
                rows += 1 + events + compensations;
                purged.events += events;
                purged.through = purged.through.max(newest);
            }
            purged.sagas += 1;
        }
        purged.more |= purged.sagas < all;
        if purged.through > Revision::ZERO {
            self.changes.compacted = self.changes.compacted.max(Some(purged.through));
        }
        Ok(Answer::Purged(purged))
    }
}

/// Changes the operation or the draft for a fault under test (see `mutants`).
fn tamper(operation: &Operation, draft: &mut Draft) -> Option<Operation> {
    if mutants::on(Mutant::TerminalSagasChange) && draft.saga.state.is_terminal() {
        draft.saga.state = State::Planned;
    }
    if mutants::on(Mutant::CompensatedTooEarly)
        && matches!(operation, Operation::ByHolder(_, HolderOperation::Compensate { .. }))
    {
        draft.saga.compensations.clear();
    }
    let lease = draft.saga.lease.as_mut()?;
    if mutants::on(Mutant::ClaimIgnoresExpiry) && is_claim(operation) {
        lease.standing = Standing::EndedByOther;
    }
    let Operation::ByHolder(_, asked) = operation else { return None };
    let ignores_token = (mutants::on(Mutant::CompleteIgnoresToken)
        && matches!(asked, HolderOperation::Complete { .. }))
        || (mutants::on(Mutant::HeartbeatIgnoresToken) && matches!(asked, HolderOperation::Heartbeat { .. }))
        || (mutants::on(Mutant::RecordIgnoresToken) && matches!(asked, HolderOperation::RecordCompensation { .. }));
    ignores_token.then(|| {
        let last = Holder { owner: lease.owner.clone(), token: lease.token };
        Operation::ByHolder(last, asked.clone())
    })
}

fn is_claim(operation: &Operation) -> bool {
    matches!(operation, Operation::Unleased(UnleasedOperation::Claim { .. }))
}

/// The answer to an accepted operation.
pub(super) fn answer(operation: &Operation, saga: Arc<Saga>) -> Answer {
    match (operation, &saga.lease) {
        (Operation::ByHolder(_, HolderOperation::Heartbeat { .. }), Some(lease)) => {
            Answer::Lease(LeaseAnswer { lease: lease.clone(), cancel_reason: cancel_reason(&saga) })
        }
        (Operation::ByHolder(..) | Operation::Unleased(_), _) => Answer::Saga(saga),
    }
}
