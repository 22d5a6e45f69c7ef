//! [`HandlerContext`]: what all handlers need, and the steps that are the same for every rpc.

use std::sync::Arc;

use tonic::{Code, Extensions, Response, Status, metadata::MetadataMap};
use tracing::{debug, info};

use crate::{
    domain::{
        bounds::ID_BYTES,
        command::{Answer, Command, LeaseAnswer, Operation, Request, UnleasedOperation},
        principal::PrincipalName,
        rejection::CommandRefusal,
        saga::Saga,
        text::{Actor, Text},
        time::{Span, Timestamp},
    },
    proto::{self, BatchCreateSagasRequest, ClaimNextRequest},
    store::{CallOrigin, PendingAnswer, Store, StoreError},
};

use super::{
    StoreSlot, call_notes,
    caller::{AuthenticatedCaller, Authorization},
    deadline::{call_timeout, wait_within},
    parse::{self, ChangeRequest, Violations},
    problem::{Problem, truncate},
    refusal_log::{RefusalLog, RefusedCaller, SuppressedCount},
    render,
};

/// The store, once it is open, and the log of refusals; cheap to clone.
#[derive(Clone)]
pub(super) struct HandlerContext {
    slot: StoreSlot,
    /// Whether calls without a principal are refused.
    callers_known: bool,
    refusals: Arc<RefusalLog>,
}

/// A change that was handed to the writer.
pub(super) struct SubmittedChange {
    /// Its subject, for the log.
    pub(super) subject: Box<str>,
    pub(super) answer: PendingAnswer,
}

/// The answer to a heartbeat.
pub(super) struct RenewedLease {
    /// The lease as it is now.
    pub(super) lease: proto::Lease,
    /// Why the worker should stop. None: it should go on.
    pub(super) cancel_reason: Option<Text>,
}

impl HandlerContext {
    pub(super) fn new(slot: StoreSlot, callers_known: bool, refusals: Arc<RefusalLog>) -> Self {
        HandlerContext { slot, callers_known, refusals }
    }

    pub(super) fn slot(&self) -> &StoreSlot {
        &self.slot
    }

    /// The store, for an authorized rpc that only reads. Its reads take turns with those of other callers.
    pub(super) fn store(&self, _authorized: &Authorization, caller: &AuthenticatedCaller) -> Result<Store, Problem> {
        Ok(self.slot.get()?.read_for(caller.read_caller()))
    }

    /// The caller and the message of a request.
    pub(super) fn authenticate<M>(
        &self,
        rpc: &'static str,
        request: tonic::Request<M>,
    ) -> Result<(AuthenticatedCaller, M), Problem> {
        let (_, extensions, message) = request.into_parts();
        Ok((self.caller_of(rpc, &extensions)?, message))
    }

    /// The caller of a request with these extensions.
    pub(super) fn caller_of(&self, rpc: &'static str, extensions: &Extensions) -> Result<AuthenticatedCaller, Problem> {
        AuthenticatedCaller::of(extensions, rpc, self.callers_known)
            .inspect_err(|problem| self.log_refusal(rpc, "", problem, || RefusedCaller::Local))
    }

    /// Parses a request, submits it, and answers once it is committed. After that the change no longer depends on its
    /// caller: if this future is dropped, the writer goes on.
    pub(super) async fn change<M: ChangeRequest>(&self, request: tonic::Request<M>) -> Result<Answer, Problem> {
        let (caller, message) = self.authenticate(M::RPC, request)?;
        self.change_for(&caller, message).await
    }

    /// Like [`HandlerContext::change`], for a caller that is known already.
    pub(super) async fn change_for<M: ChangeRequest>(
        &self,
        caller: &AuthenticatedCaller,
        message: M,
    ) -> Result<Answer, Problem> {
        self.submit(M::RPC, caller, parse::request_from(message, caller.principal_name())).await
    }

    /// Submits a parsed request if its caller is authorized, and waits for its answer.
    pub(super) async fn submit(
        &self,
        rpc: &'static str,
        caller: &AuthenticatedCaller,
        parsed: Result<Request, Violations>,
    ) -> Result<Answer, Problem> {
        let request = self.authorize(rpc, caller, parsed)?;
        let subject = subject(&request.command);
        let decider = decider(&request.command).cloned();
        let has_notes = call_notes::note_subject(&subject);
        let origin = CallOrigin { timing: call_notes::note_command(&request.command), ..caller.origin() };
        let outcome = match self.slot.get() {
            Ok(store) => store.submit_for(request, origin).await.map_err(|error| problem(rpc, error)),
            Err(problem) => Err(problem),
        };
        // Not in a call of its own but an item of a stream, which would otherwise leave no line in the log.
        if !has_notes {
            debug!(rpc, task_id = subject, accepted = outcome.is_ok(), "item");
        }
        if let (Ok(_), Some(actor)) = (&outcome, decider) {
            info!(rpc, task_id = subject, actor = actor.as_str(), "decided");
        }
        outcome.map_err(|problem| self.refusal(caller, rpc, &subject, problem))
    }

    /// Submits a parsed request if its caller is authorized, without waiting. Requests are judged in the order of these
    /// calls. Not for decisions by people: those are logged by [`HandlerContext::submit`].
    pub(super) fn begin(
        &self,
        rpc: &'static str,
        caller: &AuthenticatedCaller,
        parsed: Result<Request, Violations>,
    ) -> Result<SubmittedChange, Problem> {
        let request = self.authorize(rpc, caller, parsed)?;
        let subject = subject(&request.command).into_boxed_str();
        call_notes::note_subject(&subject);
        let origin = CallOrigin { timing: call_notes::note_command(&request.command), ..caller.origin() };
        let begun = self.slot.get().and_then(|store| store.begin(request, origin).map_err(|error| problem(rpc, error)));
        match begun {
            Ok(answer) => Ok(SubmittedChange { subject, answer }),
            Err(problem) => Err(self.refusal(caller, rpc, &subject, problem)),
        }
    }

    /// The outcome of a request that [`HandlerContext::begin`] submitted.
    pub(super) fn conclude(
        &self,
        rpc: &'static str,
        caller: &AuthenticatedCaller,
        subject: &str,
        outcome: Result<Answer, StoreError>,
    ) -> Result<Answer, Problem> {
        outcome.map_err(|error| self.refusal(caller, rpc, subject, problem(rpc, error)))
    }

    fn authorize(
        &self,
        rpc: &'static str,
        caller: &AuthenticatedCaller,
        parsed: Result<Request, Violations>,
    ) -> Result<Request, Problem> {
        let authorized = parsed.map_err(Problem::from).and_then(|mut request| {
            request.by = caller.authorize_command(rpc, &request.command)?.by;
            Ok(request)
        });
        authorized.inspect_err(|problem| self.log_refused(caller, rpc, "", problem))
    }

    /// Completes a problem for its caller, and logs it.
    fn refusal(&self, caller: &AuthenticatedCaller, rpc: &'static str, subject: &str, problem: Problem) -> Problem {
        let problem = caller.complete_denial(problem, rpc);
        self.log_refused(caller, rpc, subject, &problem);
        problem
    }

    /// Logs a refusal, unless its caller has been refused too often lately.
    pub(super) fn log_refused(
        &self,
        caller: &AuthenticatedCaller,
        rpc: &'static str,
        subject: &str,
        problem: &Problem,
    ) {
        self.log_refusal(rpc, subject, problem, || caller.refused_caller());
    }

    fn log_refusal(&self, rpc: &'static str, subject: &str, problem: &Problem, caller: impl FnOnce() -> RefusedCaller) {
        let Problem { code, reason, message, .. } = problem;
        match code {
            Code::DataLoss | Code::Unknown => {
                tracing::error!(rpc, task_id = subject, reason, why = &**message, "failed");
            }
            _ => {
                // At debug level every refusal has a line.
                let all = || tracing::enabled!(tracing::Level::DEBUG).then(SuppressedCount::default);
                let caller = caller();
                let name = caller.to_string();
                if let Some(SuppressedCount { own, others }) = self.refusals.record(caller, reason).or_else(all) {
                    // Both are almost always 0, and left out then.
                    let (left_out, others_left_out) = ((own > 0).then_some(own), (others > 0).then_some(others));
                    let why = &**message;
                    info!(rpc, task_id = subject, caller = name, reason, why, left_out, others_left_out, "refused");
                }
            }
        }
    }

    /// A change whose answer is one saga.
    pub(super) async fn change_saga<M: ChangeRequest>(
        &self,
        request: tonic::Request<M>,
    ) -> Result<Option<proto::Saga>, Problem> {
        let answer = self.change(request).await?;
        self.saga_of(M::RPC, answer)
    }

    /// The one saga of an answer, rendered.
    pub(super) fn saga_of(&self, rpc: &'static str, answer: Answer) -> Result<Option<proto::Saga>, Problem> {
        let saga = match answer {
            Answer::Saga(saga) => saga,
            Answer::Sagas(mut sagas) => match (sagas.pop(), sagas.is_empty()) {
                (Some(saga), true) => saga,
                (Some(_) | None, _) => return Err(unexpected(rpc)),
            },
            Answer::Lease(_) | Answer::Queue(_) | Answer::Purged(_) => return Err(unexpected(rpc)),
        };
        Ok(Some(render::saga::single_saga(&saga, &self.slot.get()?.read_time())))
    }

    /// A change whose answer is any number of sagas.
    pub(super) async fn change_sagas<M: ChangeRequest>(
        &self,
        request: tonic::Request<M>,
    ) -> Result<Vec<proto::Saga>, Problem> {
        let answer = self.change(request).await?;
        self.render(&sagas_of(M::RPC, answer)?)
    }

    /// `ClaimNext`, held no longer than its caller's deadline allows.
    pub(super) async fn claim_next(
        &self,
        message: ClaimNextRequest,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<proto::ClaimNextResponse, Problem> {
        let caller = self.caller_of(ClaimNextRequest::RPC, extensions)?;
        let arrived = self.now();
        let parsed = claim_within(message, caller.principal_name(), call_timeout(metadata.as_ref()));
        let answer = self.submit(ClaimNextRequest::RPC, &caller, parsed).await?;
        self.claim_next_response(arrived, answer)
    }

    /// The response to a `ClaimNext` that arrived at `arrived`.
    pub(super) fn claim_next_response(
        &self,
        arrived: Option<Timestamp>,
        answer: Answer,
    ) -> Result<proto::ClaimNextResponse, Problem> {
        let sagas = sagas_of(ClaimNextRequest::RPC, answer)?;
        let now = self.slot.get()?.read_time().now;
        let given = sagas.iter().filter_map(|saga| Some(saga.lease.as_ref()?.acquire_time)).min();
        // Until the leases were taken, not until now: they already run while the change is committed. A repeated request is
        // answered with leases from before it arrived; then it is zero.
        let waited = given.unwrap_or(now).since(arrived.unwrap_or(now));
        Ok(proto::ClaimNextResponse { sagas: self.render(&sagas)?, waited: Some(render::span(waited)) })
    }

    /// Now, on the coordinator's clock; none while the store is not open.
    pub(super) fn now(&self) -> Option<Timestamp> {
        self.slot.get().ok().map(|store| store.read_time().now)
    }

    /// A change whose answer is a lease: a heartbeat.
    pub(super) async fn heartbeat<M: ChangeRequest>(
        &self,
        caller: &AuthenticatedCaller,
        message: M,
    ) -> Result<RenewedLease, Problem> {
        let answer = self.change_for(caller, message).await?;
        self.renewed_lease(M::RPC, answer)
    }

    /// The lease of an answer, rendered.
    pub(super) fn renewed_lease(&self, rpc: &'static str, answer: Answer) -> Result<RenewedLease, Problem> {
        match answer {
            Answer::Lease(LeaseAnswer { lease, cancel_reason }) => {
                let read_time = self.slot.get()?.read_time();
                Ok(RenewedLease { lease: render::saga::lease(&lease, &read_time), cancel_reason })
            }
            Answer::Saga(_) | Answer::Sagas(_) | Answer::Queue(_) | Answer::Purged(_) => Err(unexpected(rpc)),
        }
    }

    fn render(&self, sagas: &[Arc<Saga>]) -> Result<Vec<proto::Saga>, Problem> {
        let read_time = self.slot.get()?.read_time();
        Ok(render::saga::sagas(sagas, &read_time))
    }

    /// Answers an rpc that only reads.
    pub(super) async fn answer_read<T>(
        &self,
        rpc: &'static str,
        subject: &str,
        caller: &AuthenticatedCaller,
        read: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Response<T>, Status> {
        // The caller sent it, so it may be of any length.
        let subject = truncate(subject.to_owned(), ID_BYTES);
        call_notes::note_subject(&subject);
        // A read may wait for its turn. A caller that was revoked meanwhile must not see the result.
        let outcome = read.await;
        let invalid = self.slot.get().ok().and_then(|store| caller.credential_problem(rpc, store.utc()));
        match invalid.map_or(outcome, Err) {
            Ok(answer) => Ok(Response::new(answer)),
            Err(problem) => {
                let problem = caller.complete_denial(problem, rpc);
                self.log_refused(caller, rpc, &subject, &problem);
                Err(problem.into())
            }
        }
    }
}

/// Parses a `ClaimNext`, held no longer than its caller waits for the answer.
pub(super) fn claim_within(
    message: ClaimNextRequest,
    principal: Option<&PrincipalName>,
    timeout: Option<Span>,
) -> Result<Request, Violations> {
    let mut parsed = parse::request_from(message, principal);
    if let Ok(Request { command: Command::ClaimNext(claim), .. }) = &mut parsed {
        claim.wait = wait_within(claim.wait, timeout);
    }
    parsed
}

fn sagas_of(rpc: &'static str, answer: Answer) -> Result<Vec<Arc<Saga>>, Problem> {
    match answer {
        Answer::Sagas(sagas) => Ok(sagas),
        Answer::Saga(saga) => Ok(vec![saga]),
        Answer::Lease(_) | Answer::Queue(_) | Answer::Purged(_) => Err(unexpected(rpc)),
    }
}

/// A store error as a problem of this rpc.
fn problem(rpc: &'static str, error: StoreError) -> Problem {
    match error {
        // Outside of a batch, the path of a field has no index.
        StoreError::Refused(refusal) if rpc != BatchCreateSagasRequest::RPC => {
            StoreError::Refused(Box::new(CommandRefusal { index: None, ..*refusal })).into()
        }
        error => error.into(),
    }
}

/// The store's answer does not fit the command: a bug. The change was made but can't be shown.
pub(super) fn unexpected(rpc: &'static str) -> Problem {
    tracing::error!(rpc, "the store's answer does not fit the request");
    Problem::from(StoreError::OutcomeUnknown)
}

/// What a command is about, for the log.
fn subject(command: &Command) -> String {
    match command {
        Command::Create(creations) => match creations.as_slice() {
            [one] => one.task_id.to_string(),
            many => format!("{} sagas", many.len()),
        },
        Command::ClaimNext(claim) => claim.owner.to_string(),
        Command::Change(change) => change.task_id.to_string(),
        Command::SetPaused(pause) => pause.queue.to_string(),
        Command::Purge(_) => String::new(),
    }
}

/// The person who makes a decision by a command; none if it is no decision.
fn decider(command: &Command) -> Option<&Actor> {
    match command {
        Command::SetPaused(pause) => Some(&pause.actor),
        Command::Purge(purge) => (!purge.validate_only).then_some(&purge.actor),
        Command::Create(_) | Command::ClaimNext(_) => None,
        Command::Change(change) => match &change.operation {
            Operation::ByHolder(_, _) => None,
            Operation::Unleased(operation) => match operation {
                UnleasedOperation::WaiveCompensation { actor, .. }
                | UnleasedOperation::RevokeLease { actor, .. }
                | UnleasedOperation::Quarantine { actor, .. }
                | UnleasedOperation::RequestCancel { actor, .. } => Some(actor),
                UnleasedOperation::Recover { actor, validate_only, .. } => (!validate_only).then_some(actor),
                UnleasedOperation::Dispatch { .. }
                | UnleasedOperation::Claim { .. }
                | UnleasedOperation::Annotate { .. } => None,
            },
        },
    }
}
