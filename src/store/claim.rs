//! `ClaimNext`: which sagas, in which order, and who waits for the next.

use crate::domain::{
    bounds::{ANSWER_BYTES, CLAIM_SAGAS},
    command::{Answer, ClaimNext, Command, FreeVerb, Request, RequestKey, Verb},
    lease::LeasePurpose,
    saga::Saga,
    text::Text,
    time::Timestamp,
    transition::transition,
};

use super::{
    StoreError,
    execute::{Engine, Outcome},
    rows::{Candidate, RowId, Rows, RowsError},
    waiters::{Waiter, Waiters, Wake},
};

/// What a saga weighs in an answer beside its blobs and texts: ids, times, numbers, tags.
const SAGA_OVERHEAD_BYTES: usize = 1024;
/// What a compensation weighs beside its texts.
const COMPENSATION_OVERHEAD_BYTES: usize = 512;

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
        let mut claimed = Vec::new();
        let mut kept = Vec::new();
        let mut bytes = 0;
        for id in self.candidates(wish)? {
            let Some(before) = self.load_readable(id)? else { continue };
            bytes += weight(&before);
            if !claimed.is_empty() && bytes > ANSWER_BYTES {
                break;
            }
            let mut draft = self.draft(before.clone(), now);
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
                kept.push((id, draft.saga.lease.as_ref().map(|lease| lease.token)));
                claimed.push(draft.saga);
            }
            if claimed.len() == wish.max_sagas.min(CLAIM_SAGAS) {
                break;
            }
        }
        self.keep(key, kept, now)?;
        Ok(claimed)
    }

    /// Those reserved for the caller first, then by priority, then by creation.
    fn candidates(&mut self, wish: &ClaimNext) -> Result<Vec<RowId>, RowsError> {
        let in_order = |candidates: &mut Vec<Candidate>| {
            candidates.sort_by_key(|c| (std::cmp::Reverse(c.priority), c.id));
        };
        let (mut reserved, mut ready) = (Vec::new(), Vec::new());
        for queue in wish.queues.iter().filter(|queue| !self.paused.contains(*queue)) {
            if wish.purpose == LeasePurpose::Execute {
                reserved.extend(self.rows.reserved(&wish.owner, queue)?);
            }
            ready.extend(self.rows.ready(wish.purpose, queue, &wish.kinds, wish.max_sagas)?);
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
                let (wish, key) = (waiter.wish.clone(), waiter.key);
                // Its caller may have repeated it while it was held, and one of the two been served since.
                let request = Request { command: Command::ClaimNext(wish), key };
                if let Some(outcome) = self.replay(&request, now)? {
                    served.extend(waiters.take(call).map(|waiter| (waiter, outcome)));
                    continue;
                }
                let Command::ClaimNext(wish) = request.command else { continue };
                let sagas = self.claim_next(&wish, key, now)?;
                if !sagas.is_empty() {
                    served.extend(waiters.take(call).map(|waiter| (waiter, Ok(Answer::Sagas(sagas)))));
                } else if wish.kinds.is_empty() {
                    // Nothing is left for anyone who is as little choosy.
                    break;
                }
            }
        }
        Ok(served)
    }

    fn is_paused(&self, wake: &Wake) -> bool {
        match wake {
            Wake::Ready(_, queue) | Wake::Reserved(_, queue) => self.paused.contains(queue),
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
    // A caller that went away needs no answer.
    let _ = waiter.answer.send(with);
}
