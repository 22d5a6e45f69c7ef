//! Requests that are repeated: what is kept of their answers, and how these are given again.

use crate::domain::{
    bounds::ANSWER_KEPT,
    command::{Answer, Change, Command, FreeVerb, Holder, Request, RequestKey, Verb},
    draft::Draft,
    ids::FencingToken,
    rejection::{Refusal, Rejection},
    time::Timestamp,
    transition::check_lease,
};

use super::{
    execute::{Engine, Outcome, answer, denied, refuse},
    rows::{RowId, Rows, RowsError, StoredAnswer},
};

impl<R: Rows> Engine<R> {
    /// What is kept of the answer to a request that was answered less than an hour ago.
    fn stored_answer(
        &mut self,
        key: Option<RequestKey>,
        now: Timestamp,
    ) -> Result<Option<(RequestKey, StoredAnswer)>, RowsError> {
        let Some(key) = key else { return Ok(None) };
        let stored = self.rows.answer(&key.id)?;
        Ok(stored.filter(|stored| now.since(stored.time) < ANSWER_KEPT).map(|stored| (key, stored)))
    }

    /// Whether a request was answered before.
    pub(super) fn is_answered(&mut self, key: Option<RequestKey>, now: Timestamp) -> Result<bool, RowsError> {
        Ok(self.stored_answer(key, now)?.is_some())
    }

    /// The answer to a request that was answered before.
    pub(super) fn replay(&mut self, request: &Request, now: Timestamp) -> Result<Option<Outcome>, RowsError> {
        let Some((key, stored)) = self.stored_answer(request.key, now)? else { return Ok(None) };
        if stored.digest != key.digest {
            return Ok(Some(refuse(Refusal::plain(Rejection::RequestIdReused))));
        }
        // An answer of several sagas goes on without those that were purged since.
        let of_several = match &request.command {
            Command::ClaimNext(_) => true,
            Command::Create(creations) => creations.len() > 1,
            Command::Change(_) | Command::SetPaused(_) | Command::Purge(_) => false,
        };
        let mut sagas = Vec::with_capacity(stored.sagas.len());
        for (id, token) in stored.sagas {
            let Some(before) = self.rows.load(id)? else {
                if of_several {
                    continue;
                }
                return Ok(Some(refuse(Refusal::plain(Rejection::SagaNotFound))));
            };
            // The caller's queues may be fewer than they were.
            if let Some(why) = denied(&request.by, &before.spec.queue) {
                let task_id = Some(before.spec.task_id.clone());
                return Ok(Some(refuse(Refusal { task_id, state: None, index: None, why })));
            }
            let mut draft = self.draft(before.clone(), now);
            self.save(id, &before, &mut draft)?;
            if let Some(why) = token.and_then(|token| lease_error(&draft, request, token)) {
                if matches!(request.command, Command::ClaimNext(_)) {
                    continue;
                }
                let (task_id, state) = (Some(draft.saga.spec.task_id.clone()), Some(draft.saga.state));
                return Ok(Some(refuse(Refusal { task_id, state, index: None, why })));
            }
            sagas.push(draft.saga);
        }
        Ok(Some(Ok(match (&request.command, sagas.as_slice()) {
            (Command::Change(change), [saga]) => answer(&change.verb, saga.clone()),
            (
                Command::Change(_)
                | Command::Create(_)
                | Command::ClaimNext(_)
                | Command::SetPaused(_)
                | Command::Purge(_),
                _,
            ) => Answer::Sagas(sagas),
        })))
    }

    /// Stores the answer to a request that can be repeated.
    pub(super) fn keep(
        &mut self,
        key: Option<RequestKey>,
        sagas: Vec<(RowId, Option<FencingToken>)>,
        time: Timestamp,
    ) -> Result<(), RowsError> {
        match key {
            Some(RequestKey { id, digest }) if !sagas.is_empty() => {
                self.rows.keep_answer(&id, &StoredAnswer { digest, time, sagas })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What a repeated claim's lease is answered with, if it no longer stands.
fn lease_error(draft: &Draft, request: &Request, token: FencingToken) -> Option<Rejection> {
    let owner = match &request.command {
        Command::ClaimNext(wish) => wish.owner.clone(),
        Command::Change(Change { verb: Verb::Free(FreeVerb::Claim { owner, .. }), .. }) => owner.clone(),
        Command::Change(_) | Command::Create(_) | Command::SetPaused(_) | Command::Purge(_) => return None,
    };
    check_lease(draft, &Holder { owner, token }).err()
}
