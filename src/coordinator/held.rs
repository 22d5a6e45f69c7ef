//! Answers held `ClaimNext` calls with what became claimable, and decides how long a call is held.

use crate::domain::{
    command::{Answer, ClaimNext, Command, Request},
    time::{Span, Timestamp},
};

use super::{Backend, Caller, Fault, HeldUntil, Outcome, StoreError, Turn, TurnStep, Wake};

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    /// Answers held calls with what became claimable, in order of arrival, as far as one turn goes.
    pub(super) fn serve(&mut self) -> Result<(), Fault> {
        let before = self.answered.len();
        let served = self.serve_woken();
        self.see_served(before);
        served
    }

    /// Reports the answers since there were `before` of them to the observer.
    fn see_served(&mut self, before: usize) {
        let answered = std::mem::take(&mut self.answered);
        self.see(TurnStep::Served(&answered[before..]));
        self.answered = answered;
    }

    fn serve_woken(&mut self) -> Result<(), Fault> {
        // Answering one call may make further sagas claimable: those that it found overdue.
        while let Some(wake) = self.woken.pop() {
            self.woken.retain(|other| *other != wake);
            if self.coordinator.waiters.is_empty() || self.is_of_paused(&wake) {
                continue;
            }
            for part in self.parts(&wake) {
                if !self.serve_with(&part)? {
                    // The next turn starts with it.
                    self.woken.push(wake);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Splits a resumed queue into what it has for whom; returns anything else as it is.
    fn parts(&self, wake: &Wake) -> Vec<Wake> {
        match wake {
            Wake::Resumed(queue) => {
                let reserved =
                    self.coordinator.ready.assignees(queue).map(|owner| Wake::Reserved(owner.clone(), queue.clone()));
                let compensating = self
                    .coordinator
                    .ready
                    .kind_sets(queue)
                    .map(|kinds| Wake::ToCompensate(queue.clone(), kinds.clone()));
                reserved.chain([Wake::ToExecute(queue.clone())]).chain(compensating).collect()
            }
            Wake::ToExecute(_) | Wake::ToCompensate(..) | Wake::Reserved(..) => vec![wake.clone()],
        }
    }

    /// Answers the calls that can take what became claimable, until one of them finds nothing: then the others would
    /// find nothing either. Returns false if the turn has handed out as much as it may.
    fn serve_with(&mut self, wake: &Wake) -> Result<bool, Fault> {
        let (mut after, now) = (0, self.now());
        while let Some(call) = self.coordinator.waiters.next_interested(wake, after) {
            if self.left_to_serve == 0 {
                return Ok(false);
            }
            after = call;
            let Some(waiter) = self.coordinator.waiters.get(call) else { continue };
            // Checked in the turn that would answer it: a caller that is revoked by now gets nothing, and the next one
            // gets it.
            if waiter.caller.is_revoked() {
                self.answer_held(call, Err(StoreError::Revoked));
                continue;
            }
            let until = waiter.until;
            // As for any request, another call with the same request_id may have been answered meanwhile.
            let request =
                Request { command: Command::ClaimNext(waiter.wish.clone()), key: waiter.key, by: waiter.by.clone() };
            self.coordinator.looked_at += 1;
            let outcome = self.execute(&request, now)?;
            let Command::ClaimNext(wish) = request.command else { continue };
            if !found_nothing(&outcome) || self.is_answered(request.key, now)? {
                if let Ok(Answer::Sagas(sagas)) = &outcome {
                    self.left_to_serve = self.left_to_serve.saturating_sub(sagas.len());
                }
                self.answer_held(call, outcome);
            } else if self.is_over(&wish, until) {
                self.answer_held(call, outcome);
            } else {
                break;
            }
        }
        Ok(true)
    }

    /// Answers a held call and removes it.
    fn answer_held(&mut self, call: u64, outcome: Outcome) {
        if let Some(waiter) = self.coordinator.waiters.take(call) {
            self.answer(waiter.caller, outcome);
        }
    }

    /// Applies first what held calls wait for, of what is due.
    pub(super) fn sweep_for_held(&mut self, now: Timestamp) -> Result<(), Fault> {
        for call in self.coordinator.waiters.calls_until_swept() {
            let Some(waiter) = self.coordinator.waiters.get(call) else { continue };
            let (wish, until) = (waiter.wish.clone(), waiter.until);
            if !self.is_over(&wish, until) {
                self.sweep_for(&wish, now)?;
            }
        }
        Ok(())
    }

    /// Answers calls that were held until what was due had been applied, and that got nothing from it.
    pub(super) fn answer_swept(&mut self) {
        let before = self.answered.len();
        for call in self.coordinator.waiters.calls_until_swept() {
            let Some(waiter) = self.coordinator.waiters.get(call) else { continue };
            let (wish, until) = (waiter.wish.clone(), waiter.until);
            if self.is_over(&wish, until) {
                self.answer_held(call, Ok(Answer::Sagas(Vec::new())));
            }
        }
        self.see_served(before);
    }

    fn is_over(&self, wish: &ClaimNext, until: HeldUntil) -> bool {
        match until {
            HeldUntil::Deadline(_) => false,
            HeldUntil::Swept(time) => !self.is_due_for(wish, time),
        }
    }

    /// How long a request that found nothing to claim is held; `None`: it is answered at once. A call without `wait`
    /// is held only while something is due that may be for it, so that it is never told that there is nothing when
    /// there is. A repeated call is not held: it is answered with what is left of its first answer, even if that is
    /// nothing.
    pub(super) fn held_until(
        &mut self,
        request: &Request,
        outcome: &Outcome,
        arrival: Timestamp,
        now: Timestamp,
    ) -> Result<Option<HeldUntil>, Fault> {
        let Command::ClaimNext(wish) = &request.command else { return Ok(None) };
        let until = if wish.wait > Span::ZERO {
            HeldUntil::Deadline(arrival.plus(wish.wait))
        } else if self.is_due_for(wish, now) {
            HeldUntil::Swept(now)
        } else {
            return Ok(None);
        };
        Ok((found_nothing(outcome) && !self.is_answered(request.key, now)?).then_some(until))
    }

    fn is_of_paused(&self, wake: &Wake) -> bool {
        match wake {
            Wake::ToExecute(queue) | Wake::ToCompensate(queue, _) | Wake::Reserved(_, queue) | Wake::Resumed(queue) => {
                self.is_paused(queue)
            }
        }
    }
}

fn found_nothing(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(Answer::Sagas(sagas)) if sagas.is_empty())
}
