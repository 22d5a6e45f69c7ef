//! `ClaimNext`: which sagas a claim gets, and in which order.

use std::{collections::HashSet, sync::Arc};

use crate::{
    domain::{
        bounds::{ANSWER_BYTES, CLAIM_SAGAS},
        command::{ClaimNext, Operation, RequestKey, UnleasedOperation},
        ids::FencingToken,
        lease::{LeasePurpose, Standing},
        saga::Saga,
        text::Text,
        time::Timestamp,
        transition::transition,
    },
    mutants::{self, Mutant},
};

use super::{Backend, BackendError, Caller, Coordinator, RowId, Turn, encoded_size};

/// The state of one `ClaimNext`.
#[derive(Default)]
struct ClaimRound {
    claimed: Vec<Arc<Saga>>,
    /// Their rows and tokens.
    kept: Vec<(RowId, Option<FencingToken>)>,
    /// Their size in the answer.
    bytes: usize,
    /// Candidates that can't be read, or that the rules refuse.
    passed_over: HashSet<RowId>,
}

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    /// Claims the next sagas; none if none is ready. First applies a slice of what is due by `now`, which may make one
    /// ready; [`Self::held_until`] tells whether more is left.
    pub(super) fn claim_next(
        &mut self,
        claim: &ClaimNext,
        key: Option<RequestKey>,
        now: Timestamp,
    ) -> Result<Vec<Arc<Saga>>, BackendError> {
        self.sweep_for(claim, now)?;
        let mut round = ClaimRound::default();
        // Candidates that are passed over must not hide those behind them.
        loop {
            let passed_over = round.passed_over.len();
            match self.claim_candidates(claim, now, &mut round) {
                Ok(false) if round.passed_over.len() > passed_over => {}
                // A damaged row behind the claimed sagas must not lose them.
                Err(BackendError::Corrupt(_)) if !round.claimed.is_empty() => break,
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        self.limits.answer_room = self.limits.answer_room.saturating_sub(round.bytes);
        self.keep_answer(key, round.kept, now);
        Ok(round.claimed)
    }

    /// Claims the first candidates; returns true if the answer is full.
    fn claim_candidates(
        &mut self,
        claim: &ClaimNext,
        now: Timestamp,
        round: &mut ClaimRound,
    ) -> Result<bool, BackendError> {
        let most = claim.max_sagas.min(CLAIM_SAGAS);
        for id in self.candidates(claim, most + round.passed_over.len())? {
            if round.passed_over.contains(&id) {
                continue;
            }
            let Some(before) = self.load_readable(id)? else {
                round.passed_over.insert(id);
                continue;
            };
            if !round.claimed.is_empty()
                && round.bytes + encoded_size(&before) > self.limits.answer_room.min(ANSWER_BYTES)
            {
                return Ok(true);
            }
            let mut draft = self.draft(&before, now);
            if mutants::on(Mutant::ClaimNextIgnoresLease)
                && let Some(lease) = &mut draft.saga.lease
            {
                lease.standing = Standing::EndedByOther;
            }
            let operation = UnleasedOperation::Claim {
                owner: claim.owner.clone(),
                ttl: claim.ttl,
                purpose: claim.purpose,
                reason: Text::default(),
            };
            // A reserved saga may still be delayed; a saga that the rules refuse is passed over.
            let accepted = transition(&mut draft, &Operation::Unleased(operation), None).is_ok();
            let bytes = encoded_size(&before);
            let saga = self.save(id, before, draft);
            if accepted {
                round.bytes += bytes;
                round.kept.push((id, saga.lease.as_ref().map(|lease| lease.token)));
                round.claimed.push(saga);
            } else {
                round.passed_over.insert(id);
            }
            if round.claimed.len() == most {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Candidates: sagas reserved for the caller first, then by priority, then by creation; at most `limit` of each
    /// queue and sort.
    fn candidates(&mut self, claim: &ClaimNext, limit: usize) -> Result<Vec<RowId>, BackendError> {
        let (mut reserved, mut ready) = (Vec::new(), Vec::new());
        for queue in &claim.queues {
            if self.is_paused(queue) {
                continue;
            }
            match claim.purpose {
                LeasePurpose::Execute => reserved.extend(self.coordinator.ready.reserved(&claim.owner, queue, limit)),
                LeasePurpose::Compensate if !claim.kinds.is_empty() => {
                    let Coordinator { ready: index, looked_at, .. } = &mut *self.coordinator;
                    ready.extend(index.of_kinds(queue, &claim.kinds, limit, looked_at));
                    continue;
                }
                LeasePurpose::Compensate => {}
            }
            ready.extend(self.ready(claim.purpose, queue, limit)?);
        }
        self.coordinator.looked_at += (reserved.len() + ready.len()) as u64;
        reserved.sort_unstable();
        ready.sort_unstable();
        Ok(reserved.into_iter().chain(ready).map(|(_, id)| id).collect())
    }
}
