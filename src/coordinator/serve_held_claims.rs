//! Answers held `ClaimNext` calls with what became claimable, and decides how long a call is held.

use crate::domain::{
    command::{Answer, ClaimNext, Command, Request},
    time::{Span, Timestamp},
};

use super::{Backend, BackendError, CallOutcome, Caller, Claimable, HeldUntil, StoreError, Turn, TurnStep};

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    /// Answers held calls with what became claimable, in order of arrival, as far as one turn goes.
    pub(super) fn serve(&mut self) -> Result<(), BackendError> {
        let before = self.answered.len();
        let served = self.serve_claimable();
        self.observe_served(before);
        served
    }

    /// Reports the answers since there were `before` of them to the observer.
    fn observe_served(&mut self, before: usize) {
        let answered = std::mem::take(&mut self.answered);
        self.observe_step(TurnStep::Served(&answered[before..]));
        self.answered = answered;
    }

    fn serve_claimable(&mut self) -> Result<(), BackendError> {
        // Answering one call may make further sagas claimable: those that it found overdue.
        while let Some(claimable) = self.claimable.pop() {
            self.claimable.retain(|other| *other != claimable);
            if self.coordinator.held_claims.is_empty() || self.is_in_paused_queue(&claimable) {
                continue;
            }
            for part in self.parts(&claimable) {
                if !self.serve_from(&part)? {
                    // The next turn starts with it.
                    self.claimable.push(claimable);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Splits a resumed queue into what it has for whom; returns anything else as it is.
    fn parts(&self, claimable: &Claimable) -> Vec<Claimable> {
        match claimable {
            Claimable::Resumed(queue) => {
                let reserved = self
                    .coordinator
                    .ready
                    .assignees(queue)
                    .map(|owner| Claimable::Reserved(owner.clone(), queue.clone()));
                let compensating = self
                    .coordinator
                    .ready
                    .kind_sets(queue)
                    .map(|kinds| Claimable::ToCompensate(queue.clone(), kinds.clone()));
                reserved.chain([Claimable::ToExecute(queue.clone())]).chain(compensating).collect()
            }
            Claimable::ToExecute(_) | Claimable::ToCompensate(..) | Claimable::Reserved(..) => vec![claimable.clone()],
        }
    }

    /// Answers the calls that can take what became claimable, until one of them finds nothing: then the others would
    /// find nothing either. Returns false if the turn has handed out as much as it may.
    fn serve_from(&mut self, claimable: &Claimable) -> Result<bool, BackendError> {
        let (mut after, now) = (0, self.now());
        while let Some(call) = self.coordinator.held_claims.next_eligible(claimable, after) {
            if self.left_to_serve == 0 {
                return Ok(false);
            }
            after = call;
            let Some(held) = self.coordinator.held_claims.get(call) else { continue };
            // Checked in the turn that would answer it: a caller that is revoked by now gets nothing, and the next one
            // gets it.
            if held.caller.is_revoked() {
                self.answer_held(call, Err(StoreError::Revoked));
                continue;
            }
            let until = held.until;
            // As for any request, another call with the same request_id may have been answered meanwhile.
            let request =
                Request { command: Command::ClaimNext(held.claim.clone()), key: held.key, by: held.by.clone() };
            self.coordinator.looked_at += 1;
            let outcome = self.execute(&request, now)?;
            let Command::ClaimNext(claim) = request.command else { continue };
            if !found_nothing(&outcome) || self.is_answered(request.key, now)? {
                if let Ok(Answer::Sagas(sagas)) = &outcome {
                    self.left_to_serve = self.left_to_serve.saturating_sub(sagas.len());
                }
                self.answer_held(call, outcome);
            } else if self.is_over(&claim, until) {
                self.answer_held(call, outcome);
            } else {
                break;
            }
        }
        Ok(true)
    }

    /// Answers a held call and removes it.
    fn answer_held(&mut self, call: u64, outcome: CallOutcome) {
        if let Some(held) = self.coordinator.held_claims.take(call) {
            self.answer(held.caller, outcome);
        }
    }

    /// Applies first what held calls wait for, of what is due.
    pub(super) fn sweep_for_held(&mut self, now: Timestamp) -> Result<(), BackendError> {
        for call in self.coordinator.held_claims.calls_until_swept() {
            let Some(held) = self.coordinator.held_claims.get(call) else { continue };
            let (claim, until) = (held.claim.clone(), held.until);
            if !self.is_over(&claim, until) {
                self.sweep_for(&claim, now)?;
            }
        }
        Ok(())
    }

    /// Answers calls that were held until what was due had been applied, and that got nothing from it.
    pub(super) fn answer_swept(&mut self) {
        let before = self.answered.len();
        for call in self.coordinator.held_claims.calls_until_swept() {
            let Some(held) = self.coordinator.held_claims.get(call) else { continue };
            let (claim, until) = (held.claim.clone(), held.until);
            if self.is_over(&claim, until) {
                self.answer_held(call, Ok(Answer::Sagas(Vec::new())));
            }
        }
        self.observe_served(before);
    }

    fn is_over(&self, claim: &ClaimNext, until: HeldUntil) -> bool {
        match until {
            HeldUntil::Deadline(_) => false,
            HeldUntil::Swept(time) => !self.is_due_for(claim, time),
        }
    }

    /// How long a request that found nothing to claim is held; `None`: it is answered at once. A call without `wait`
    /// is held only while something is due that may be for it, so that it is never told that there is nothing when
    /// there is. A repeated call is not held: it is answered with what is left of its first answer, even if that is
    /// nothing.
    pub(super) fn held_until(
        &mut self,
        request: &Request,
        outcome: &CallOutcome,
        arrival: Timestamp,
        now: Timestamp,
    ) -> Result<Option<HeldUntil>, BackendError> {
        let Command::ClaimNext(claim) = &request.command else { return Ok(None) };
        let until = if claim.wait > Span::ZERO {
            HeldUntil::Deadline(arrival.plus(claim.wait))
        } else if self.is_due_for(claim, now) {
            HeldUntil::Swept(now)
        } else {
            return Ok(None);
        };
        Ok((found_nothing(outcome) && !self.is_answered(request.key, now)?).then_some(until))
    }

    fn is_in_paused_queue(&self, claimable: &Claimable) -> bool {
        match claimable {
            Claimable::ToExecute(queue)
            | Claimable::ToCompensate(queue, _)
            | Claimable::Reserved(_, queue)
            | Claimable::Resumed(queue) => self.is_paused(queue),
        }
    }
}

fn found_nothing(outcome: &CallOutcome) -> bool {
    matches!(outcome, Ok(Answer::Sagas(sagas)) if sagas.is_empty())
}
