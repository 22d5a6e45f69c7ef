//! Repeated requests: stores answers by `request_id`, and gives them again.

use std::sync::Arc;

use crate::{
    domain::{
        bounds::{ANSWER_BYTES, ANSWER_KEPT},
        command::{Answer, Change, Command, Holder, Operation, Request, RequestKey, UnleasedOperation},
        draft::Draft,
        ids::FencingToken,
        rejection::{CommandRefusal, Rejection},
        saga::Saga,
        time::Timestamp,
        transition::check_lease,
    },
    mutants::{self, Mutant},
};

use super::{
    Backend, BackendError, CallOutcome, Caller, RowId, StoredAnswer, Turn,
    call::refuse,
    encoded_size::{SAGA_OVERHEAD_BYTES, encoded_size},
    execute::answer,
    scope::saga_refusal,
};

/// Bytes of a saga in a repeated answer beside its blobs and texts. It is less than the upper bound that claims use,
/// or a thousand small sagas would leave no room for the contents they were created with. The answer is measured again
/// when it is rendered.
const REPEATED_SAGA_BYTES: usize = 512;

impl<B: Backend, C: Caller> Turn<'_, B, C> {
    /// The stored answer to a request that was answered less than an hour ago.
    fn stored_answer(
        &mut self,
        key: Option<RequestKey>,
        now: Timestamp,
    ) -> Result<Option<(RequestKey, StoredAnswer)>, BackendError> {
        let Some(key) = key else { return Ok(None) };
        let stored = self.stored(&key.id)?;
        Ok(stored.filter(|stored| now.since(stored.time) < ANSWER_KEPT).map(|stored| (key, stored)))
    }

    /// True if the request was answered before.
    pub(super) fn is_answered(&mut self, key: Option<RequestKey>, now: Timestamp) -> Result<bool, BackendError> {
        Ok(self.stored_answer(key, now)?.is_some())
    }

    /// The answer to a request that was answered before.
    pub(super) fn replay(&mut self, request: &Request, now: Timestamp) -> Result<Option<CallOutcome>, BackendError> {
        let Some((key, stored)) = self.stored_answer(request.key, now)? else { return Ok(None) };
        if mutants::on(Mutant::AnswersNotKept) {
            return Ok(None);
        }
        if stored.digest != key.digest {
            return Ok(Some(refuse(CommandRefusal::plain(Rejection::RequestIdReused))));
        }
        let of_several = match &request.command {
            Command::ClaimNext(_) => true,
            Command::Create(creations) => creations.len() > 1,
            Command::Change(_) | Command::SetPaused(_) | Command::Purge(_) => false,
        };
        if of_several {
            return self.replay_several(request, stored.sagas, now).map(Some);
        }
        let mut sagas = Vec::with_capacity(stored.sagas.len());
        for (id, token) in stored.sagas {
            let Some(before) = self.load(id)? else {
                return Ok(Some(refuse(CommandRefusal::plain(Rejection::SagaNotFound))));
            };
            if let Some(refused) = refused_queue(request, &before) {
                return Ok(Some(refuse(refused)));
            }
            let draft = self.draft(&before, now);
            let why = token.and_then(|token| lease_error(&draft, request, token));
            let saga = self.save(id, before, draft);
            if let Some(why) = why {
                let (task_id, state) = (Some(saga.spec.task_id.clone()), Some(saga.state));
                return Ok(Some(refuse(CommandRefusal { task_id, state, index: None, why })));
            }
            sagas.push(saga);
        }
        Ok(Some(Ok(match (&request.command, sagas.as_slice()) {
            (Command::Change(change), [saga]) => answer(&change.operation, saga.clone()),
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

    /// The sagas of an answer with several: without those purged since and, for a claim, without those whose lease is
    /// over. They may have grown to any size since the first answer, so they are read without contents first, and then
    /// with as much as an answer holds: all contents, or the payloads, or none.
    fn replay_several(
        &mut self,
        request: &Request,
        stored: Vec<(RowId, Option<FencingToken>)>,
        now: Timestamp,
    ) -> Result<CallOutcome, BackendError> {
        let room = self.limits.answer_room.min(ANSWER_BYTES);
        let (mut found, mut bytes) = (Vec::with_capacity(stored.len()), 0);
        for (id, token) in stored {
            if self.coordinator.due_index.is_due(id, now) {
                self.sweep_one(id, now)?;
            }
            let with_compensations = bytes <= room;
            let Some((mut saga, contents)) = self.load_without_contents(id, with_compensations)? else { continue };
            match refused_queue(request, &saga) {
                None => {}
                // Treated like a purged saga.
                Some(CommandRefusal { why: Rejection::SagaNotFound, .. }) => continue,
                Some(refused) => return Ok(refuse(refused)),
            }
            if let Some(token) = token {
                let draft = self.draft(&saga, now);
                if lease_error(&draft, request, token).is_some() {
                    continue;
                }
                saga = draft.saga;
            }
            saga.contents_omitted = !with_compensations;
            bytes += encoded_size(&saga) - SAGA_OVERHEAD_BYTES + REPEATED_SAGA_BYTES;
            found.push((id, saga, contents));
        }
        let all: usize = found.iter().map(|(_, _, contents)| contents.all()).sum();
        let payloads: usize = found.iter().map(|(_, _, contents)| contents.payload).sum();
        let (whole, with_payload) = (bytes + all <= room, bytes + payloads <= room);
        let mut sagas = Vec::with_capacity(found.len());
        for (id, mut saga, contents) in found {
            let saga = if whole && contents.all() > 0 {
                let Some(loaded) = self.load(id)? else { continue };
                loaded
            } else {
                let has_payload = with_payload && contents.payload > 0;
                if has_payload {
                    Arc::make_mut(&mut saga.spec).payload = self.payload(id)?.unwrap_or_default();
                }
                saga.contents_omitted |= if has_payload { contents.outcome } else { contents.all() } > 0;
                Arc::new(saga)
            };
            bytes += saga.spec.payload.bytes().len() + saga.progress.bytes().len() + saga.result.bytes().len();
            sagas.push(saga);
        }
        self.limits.answer_room = self.limits.answer_room.saturating_sub(bytes);
        Ok(Ok(Answer::Sagas(sagas)))
    }

    /// Stores the answer to a request with a `request_id`.
    pub(super) fn keep_answer(
        &mut self,
        key: Option<RequestKey>,
        sagas: Vec<(RowId, Option<FencingToken>)>,
        time: Timestamp,
    ) {
        if let Some(RequestKey { id, digest }) = key
            && !sagas.is_empty()
        {
            self.kept.insert(id, StoredAnswer { digest, time, sagas });
        }
    }
}

/// Refuses a saga of a queue that the caller may not use (any more). A caller that may not even see it gets the same
/// answer as for a purged saga.
fn refused_queue(request: &Request, saga: &Saga) -> Option<CommandRefusal> {
    let why = saga_refusal(&request.by, &saga.spec.queue)?;
    let task_id = (why != Rejection::SagaNotFound).then(|| saga.spec.task_id.clone());
    Some(CommandRefusal { task_id, state: None, index: None, why })
}

/// Why the lease of a repeated claim no longer holds, if it doesn't.
fn lease_error(draft: &Draft, request: &Request, token: FencingToken) -> Option<Rejection> {
    let owner = match &request.command {
        Command::ClaimNext(claim) => claim.owner.clone(),
        Command::Change(Change { operation: Operation::Unleased(UnleasedOperation::Claim { owner, .. }), .. }) => {
            owner.clone()
        }
        Command::Change(_) | Command::Create(_) | Command::SetPaused(_) | Command::Purge(_) => return None,
    };
    check_lease(draft, &Holder { owner, token }).err()
}
