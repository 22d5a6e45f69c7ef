//! `ClaimNext`: which sagas, in which order, and who waits for the next.

use std::collections::HashSet;

use crate::mutants::{self, Mutant};

use crate::domain::{
    bounds::{ANSWER_BYTES, CLAIM_SAGAS},
    command::{Answer, ClaimNext, Command, FreeVerb, Request, RequestKey, Verb},
    ids::FencingToken,
    lease::{LeasePurpose, Standing},
    saga::Saga,
    text::Text,
    time::{Span, Timestamp},
    transition::transition,
};

use super::{
    StoreError,
    execute::{Engine, Outcome},
    rows::{Candidate, RowId, Rows, RowsError},
    waiters::{HeldUntil, Waiter, Waiters, Wake},
};

/// What a saga weighs in an answer beside its blobs and texts: ids, times, numbers, tags.
pub(super) const SAGA_OVERHEAD_BYTES: usize = 2048;
/// What a compensation weighs beside its texts.
const COMPENSATION_OVERHEAD_BYTES: usize = 512;

/// One `ClaimNext` on its way.
#[derive(Default)]
struct Round {
    claimed: Vec<Saga>,
    /// Their places and tokens.
    kept: Vec<(RowId, Option<FencingToken>)>,
    /// What they weigh.
    bytes: usize,
    /// Candidates that can't be read, or that the rules refuse.
    passed_over: HashSet<RowId>,
}

impl<R: Rows> Engine<R> {
    /// Claims the next sagas; none if none is ready. Of what is due by `now`, which may be what makes one ready, a slice is
    /// applied first; whether more is left, [`Self::held_until`] tells.
    pub fn claim_next(
        &mut self,
        wish: &ClaimNext,
        key: Option<RequestKey>,
        now: Timestamp,
    ) -> Result<Vec<Saga>, RowsError> {
        self.sweep_for(wish, now)?;
        let mut round = Round::default();
        // What is passed over must not hide what stands behind it.
        loop {
            let passed_over = round.passed_over.len();
            if self.claim_candidates(wish, now, &mut round)? || round.passed_over.len() == passed_over {
                break;
            }
        }
        self.answer_room = self.answer_room.saturating_sub(round.bytes);
        self.keep(key, round.kept, now)?;
        Ok(round.claimed)
    }

    /// Claims among the first candidates; returns whether the answer is full.
    fn claim_candidates(&mut self, wish: &ClaimNext, now: Timestamp, round: &mut Round) -> Result<bool, RowsError> {
        let most = wish.max_sagas.min(CLAIM_SAGAS);
        for id in self.candidates(wish, most + round.passed_over.len())? {
            if round.passed_over.contains(&id) {
                continue;
            }
            let Some(before) = self.load_readable(id)? else {
                round.passed_over.insert(id);
                continue;
            };
            if !round.claimed.is_empty() && round.bytes + weight(&before) > self.answer_room.min(ANSWER_BYTES) {
                return Ok(true);
            }
            let mut draft = self.draft(before.clone(), now);
            if mutants::on(Mutant::ClaimNextIgnoresLease)
                && let Some(lease) = &mut draft.saga.lease
            {
                lease.standing = Standing::EndedByOther;
            }
            let claim = FreeVerb::Claim {
                owner: wish.owner.clone(),
                ttl: wish.ttl,
                purpose: wish.purpose,
                reason: Text::default(),
            };
            // A reserved saga may still be delayed; whatever the rules refuse is not for this caller now.
            let accepted = transition(&mut draft, &Verb::Free(claim), None).is_ok();
            self.save(id, &before, &mut draft)?;
            if accepted {
                round.bytes += weight(&before);
                round.kept.push((id, draft.saga.lease.as_ref().map(|lease| lease.token)));
                round.claimed.push(draft.saga);
            } else {
                round.passed_over.insert(id);
            }
            if round.claimed.len() == most {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those reserved for the caller first, then by priority, then by creation: at most `limit` of each queue and sort.
    fn candidates(&mut self, wish: &ClaimNext, limit: usize) -> Result<Vec<RowId>, RowsError> {
        let in_order = |candidates: &mut Vec<Candidate>| {
            candidates.sort_by_key(|c| (std::cmp::Reverse(c.priority), c.id));
        };
        let (mut reserved, mut ready) = (Vec::new(), Vec::new());
        for queue in wish.queues.iter().filter(|queue| !self.paused.contains(*queue)) {
            match wish.purpose {
                LeasePurpose::Execute => reserved.extend(self.ready.reserved(&wish.owner, queue, limit)),
                LeasePurpose::Compensate if !wish.kinds.is_empty() => {
                    ready.extend(self.ready.of_kinds(queue, &wish.kinds, limit, &mut self.looked_at));
                    continue;
                }
                LeasePurpose::Compensate => {}
            }
            ready.extend(self.rows.ready(wish.purpose, queue, limit)?);
        }
        self.looked_at += (reserved.len() + ready.len()) as u64;
        in_order(&mut reserved);
        in_order(&mut ready);
        Ok(reserved.into_iter().chain(ready).map(|candidate| candidate.id).collect())
    }

    /// Serves held calls with what became claimable, in order of their arrival, as far as one transaction goes. Their answers
    /// are to be given after the commit.
    pub fn serve(&mut self, waiters: &mut Waiters, now: Timestamp) -> Result<Vec<(Waiter, Outcome)>, RowsError> {
        let mut served = Vec::new();
        // Serving one call may make further sagas claimable: what it found overdue.
        while let Some(wake) = self.woken.pop() {
            self.woken.retain(|other| *other != wake);
            if waiters.is_empty() || self.is_paused(&wake) {
                continue;
            }
            for part in self.parts(&wake) {
                if !self.serve_with(&part, waiters, now, &mut served)? {
                    // The next transaction begins with it.
                    self.woken.push(wake);
                    return Ok(served);
                }
            }
        }
        Ok(served)
    }

    /// What a resumed queue has for whom; anything else as it is.
    fn parts(&self, wake: &Wake) -> Vec<Wake> {
        match wake {
            Wake::Resumed(queue) => {
                let reserved = self.ready.assignees(queue).map(|owner| Wake::Reserved(owner.clone(), queue.clone()));
                let compensating =
                    self.ready.kind_sets(queue).map(|kinds| Wake::ToCompensate(queue.clone(), kinds.clone()));
                reserved.chain([Wake::ToExecute(queue.clone())]).chain(compensating).collect()
            }
            Wake::ToExecute(_) | Wake::ToCompensate(..) | Wake::Reserved(..) => vec![wake.clone()],
        }
    }

    /// Serves the calls that can be given what became claimable, until one of them finds nothing: then it is gone, and there is
    /// nothing for the others either. False: the transaction has served as many as it may.
    fn serve_with(
        &mut self,
        wake: &Wake,
        waiters: &mut Waiters,
        now: Timestamp,
        served: &mut Vec<(Waiter, Outcome)>,
    ) -> Result<bool, RowsError> {
        let mut after = 0;
        while let Some(call) = waiters.next_interested(wake, after) {
            if self.left_to_serve == 0 {
                return Ok(false);
            }
            after = call;
            let Some(waiter) = waiters.get(call) else { continue };
            // In the very turn that would hand out: what is revoked by now gets nothing, and the next one gets it.
            if self.clock.as_ref().is_some_and(|clock| waiter.is_revoked(&**clock)) {
                served.extend(waiters.take(call).map(|waiter| (waiter, Err(StoreError::Revoked))));
                continue;
            }
            let until = waiter.until;
            // Like any request: another call with the same request_id may have been answered meanwhile.
            let request =
                Request { command: Command::ClaimNext(waiter.wish.clone()), key: waiter.key, by: waiter.by.clone() };
            self.looked_at += 1;
            let outcome = self.execute(&request, now)?;
            let found_nothing = matches!(&outcome, Ok(Answer::Sagas(sagas)) if sagas.is_empty());
            let Command::ClaimNext(wish) = request.command else { continue };
            if !found_nothing || self.is_answered(request.key, now)? {
                if let Ok(Answer::Sagas(sagas)) = &outcome {
                    self.left_to_serve = self.left_to_serve.saturating_sub(sagas.len());
                }
                served.extend(waiters.take(call).map(|waiter| (waiter, outcome)));
            } else if self.is_over(&wish, until) {
                served.extend(waiters.take(call).map(|waiter| (waiter, outcome)));
            } else {
                break;
            }
        }
        Ok(true)
    }

    /// Whether held calls are still to be served with what became claimable.
    pub fn has_to_serve(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Applies, of what is due, first what held calls wait for.
    pub fn sweep_for_held(&mut self, waiters: &Waiters, now: Timestamp) -> Result<(), RowsError> {
        for (wish, time) in waiters.until_swept() {
            if self.is_due_for(wish, time) {
                self.sweep_for(wish, now)?;
            }
        }
        Ok(())
    }

    /// Takes out the calls that were held until what was due had been applied, and got nothing from it.
    pub fn take_swept(&mut self, waiters: &mut Waiters) -> Vec<(Waiter, Outcome)> {
        let over = waiters
            .calls_until_swept()
            .into_iter()
            .filter(|call| waiters.get(*call).is_some_and(|waiter| self.is_over(&waiter.wish, waiter.until)));
        let over: Vec<_> = over.collect();
        over.into_iter().filter_map(|call| Some((waiters.take(call)?, Ok(Answer::Sagas(Vec::new()))))).collect()
    }

    fn is_over(&self, wish: &ClaimNext, until: HeldUntil) -> bool {
        match until {
            HeldUntil::Deadline(_) => false,
            HeldUntil::Swept(time) => !self.is_due_for(wish, time),
        }
    }

    /// How long a request is held that found nothing to claim; `None`: it is answered at once. One that is not to wait is
    /// held only while something is due that may be for it: it is not told that there is nothing before that is known. A
    /// repetition is not held: it is answered with what is left of its first answer, were it nothing.
    pub fn held_until(
        &mut self,
        request: &Request,
        outcome: &Outcome,
        arrival: Timestamp,
        now: Timestamp,
    ) -> Result<Option<HeldUntil>, RowsError> {
        let Command::ClaimNext(wish) = &request.command else { return Ok(None) };
        let found_nothing = matches!(outcome, Ok(Answer::Sagas(sagas)) if sagas.is_empty());
        let until = if wish.wait > Span::ZERO {
            HeldUntil::Deadline(arrival.plus(wish.wait))
        } else if self.is_due_for(wish, now) {
            HeldUntil::Swept(now)
        } else {
            return Ok(None);
        };
        Ok((found_nothing && !self.is_answered(request.key, now)?).then_some(until))
    }

    fn is_paused(&self, wake: &Wake) -> bool {
        match wake {
            Wake::ToExecute(queue) | Wake::ToCompensate(queue, _) | Wake::Reserved(_, queue) | Wake::Resumed(queue) => {
                self.paused.contains(queue)
            }
        }
    }
}

/// Upper bound of an outcome's size in an answer, and about what it takes in memory.
pub(super) fn answer_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Ok(Answer::Saga(saga)) => weight(saga),
        Ok(Answer::Sagas(sagas)) => sagas.iter().map(weight).sum(),
        Ok(Answer::Lease(_) | Answer::Queue(_) | Answer::Purged(_)) | Err(_) => 0,
    }
}

/// Upper bound of a saga's size in an answer.
pub(super) fn weight(saga: &Saga) -> usize {
    let spec = &saga.spec;
    let texts = [&spec.branch, &spec.worktree].map(|text| text.as_str().len()).iter().sum::<usize>();
    let labels = spec.labels.pairs().iter().map(|(key, value)| key.len() + value.len() + 8).sum::<usize>();
    let blobs = [&spec.payload, &saga.progress, &saga.result].map(|blob| blob.bytes().len()).iter().sum::<usize>();
    let compensations = saga.compensations.iter().map(|compensation| {
        let spec = &compensation.spec;
        let texts = [&spec.target, &spec.reason, &compensation.last_error].map(|text| text.as_str().len());
        COMPENSATION_OVERHEAD_BYTES + spec.kind.as_str().len() + texts.iter().sum::<usize>()
    });
    let reasons = saga.cancel.as_ref().map_or(0, |cancel| cancel.reason.as_str().len());
    SAGA_OVERHEAD_BYTES + texts + labels + blobs + reasons + compensations.sum::<usize>()
}

/// What a held call is answered with when it is let go.
pub fn let_go(waiter: Waiter, with: Result<Answer, StoreError>) {
    waiter.answer.send(with);
}
