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
    waiters::{Waiter, Waiters, Wake},
};

/// What a saga weighs in an answer beside its blobs and texts: ids, times, numbers, tags.
const SAGA_OVERHEAD_BYTES: usize = 2048;
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
    /// Claims the next sagas; none if there are none. What is due by `now` is applied first, since it may be what makes
    /// one claimable.
    pub fn claim_next(
        &mut self,
        wish: &ClaimNext,
        key: Option<RequestKey>,
        now: Timestamp,
    ) -> Result<Vec<Saga>, RowsError> {
        while !self.sweep(now, usize::MAX)? {}
        let mut round = Round::default();
        // What is passed over must not hide what stands behind it.
        loop {
            let passed_over = round.passed_over.len();
            if self.claim_candidates(wish, now, &mut round)? || round.passed_over.len() == passed_over {
                break;
            }
        }
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
            if !round.claimed.is_empty() && round.bytes + weight(&before) > ANSWER_BYTES {
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

    /// Those reserved for the caller first, then by priority, then by creation: at most `limit` of each queue that are
    /// not reserved.
    fn candidates(&mut self, wish: &ClaimNext, limit: usize) -> Result<Vec<RowId>, RowsError> {
        let in_order = |candidates: &mut Vec<Candidate>| {
            candidates.sort_by_key(|c| (std::cmp::Reverse(c.priority), c.id));
        };
        let (mut reserved, mut ready) = (Vec::new(), Vec::new());
        for queue in wish.queues.iter().filter(|queue| !self.paused.contains(*queue)) {
            if wish.purpose == LeasePurpose::Execute {
                reserved.extend(self.rows.reserved(&wish.owner, queue)?);
            }
            ready.extend(self.rows.ready(wish.purpose, queue, &wish.kinds, limit)?);
        }
        in_order(&mut reserved);
        in_order(&mut ready);
        Ok(reserved.into_iter().chain(ready).map(|candidate| candidate.id).collect())
    }

    /// Serves held calls with what became claimable, in order of their arrival. Their answers are to be given after the
    /// commit.
    pub fn serve(&mut self, waiters: &mut Waiters, now: Timestamp) -> Result<Vec<(Waiter, Outcome)>, RowsError> {
        let mut served = Vec::new();
        // Serving one call may make further sagas claimable: what it found overdue.
        while let Some(wake) = self.woken.pop() {
            self.woken.retain(|other| *other != wake);
            if waiters.is_empty() || self.is_paused(&wake) {
                continue;
            }
            for call in waiters.interested(&wake) {
                let Some(waiter) = waiters.get(call) else { continue };
                let any_kind = waiter.wish.kinds.is_empty();
                // Like any request: another call with the same request_id may have been answered meanwhile.
                let request = Request {
                    command: Command::ClaimNext(waiter.wish.clone()),
                    key: waiter.key,
                    by: waiter.by.clone(),
                };
                let outcome = self.execute(&request, now)?;
                if !self.is_to_wait(&request, &outcome, now)? {
                    served.extend(waiters.take(call).map(|waiter| (waiter, outcome)));
                } else if any_kind && wake.is_for_anyone() {
                    // Nothing is left for anyone who is as little choosy.
                    break;
                }
            }
        }
        Ok(served)
    }

    /// Whether a request found nothing to claim and may be held until there is something. A repetition is not: it is
    /// answered with what is left of its first answer, were it nothing.
    pub fn is_to_wait(&mut self, request: &Request, outcome: &Outcome, now: Timestamp) -> Result<bool, RowsError> {
        let Command::ClaimNext(wish) = &request.command else { return Ok(false) };
        let found_nothing = matches!(outcome, Ok(Answer::Sagas(sagas)) if sagas.is_empty());
        Ok(found_nothing && wish.wait > Span::ZERO && !self.is_answered(request.key, now)?)
    }

    fn is_paused(&self, wake: &Wake) -> bool {
        match wake {
            Wake::Ready(_, queue) | Wake::Reserved(_, queue) | Wake::Resumed(queue) => self.paused.contains(queue),
        }
    }
}

/// Upper bound of a saga's size in an answer.
fn weight(saga: &Saga) -> usize {
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
