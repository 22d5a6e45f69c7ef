//! [`Desk`]: where requests are taken in and answers handed out, the same for every rpc.

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
    store::{PendingAnswer, Store, StoreError},
};

use super::{
    StoreSlot,
    caller::{Permit, Visitor},
    deadline::{call_timeout, wait_within},
    notes,
    parse::{self, Change, Violations},
    refusal_log::{LeftOut, RefusalLog, RefusedCaller},
    render,
    status::{Problem, cut},
};

/// The store, once there is one, and what is done around each request; cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    slot: StoreSlot,
    /// Calls have to come with a principal.
    callers_known: bool,
    refusals: Arc<RefusalLog>,
}

/// A change that the writer was handed.
pub(super) struct Begun {
    /// What it is about, for the log.
    pub(super) subject: Box<str>,
    pub(super) answer: PendingAnswer,
}

/// What a heartbeat is answered with.
pub(super) struct Beat {
    /// The lease as it is now.
    pub(super) lease: proto::Lease,
    /// Why the worker is to stop; absent: it is to go on.
    pub(super) cancel_reason: Option<Text>,
}

impl Desk {
    pub(super) fn new(slot: StoreSlot, callers_known: bool, refusals: Arc<RefusalLog>) -> Self {
        Desk { slot, callers_known, refusals }
    }

    pub(super) fn slot(&self) -> &StoreSlot {
        &self.slot
    }

    /// The store, for an rpc that only looks, and is permitted: its reads take turns with those of other callers.
    pub(super) fn store(&self, _permitted: &Permit, visitor: &Visitor) -> Result<Store, Problem> {
        Ok(self.slot.get()?.read_for(visitor.read_caller()))
    }

    /// Who calls, and what is asked.
    pub(super) fn open<M>(&self, rpc: &'static str, request: tonic::Request<M>) -> Result<(Visitor, M), Problem> {
        let (_, extensions, message) = request.into_parts();
        Ok((self.visitor(rpc, &extensions)?, message))
    }

    /// Who calls.
    pub(super) fn visitor(&self, rpc: &'static str, extensions: &Extensions) -> Result<Visitor, Problem> {
        Visitor::of(extensions, rpc, self.callers_known)
            .inspect_err(|problem| self.log_refusal(rpc, "", problem, || RefusedCaller::Local))
    }

    /// Parses a request, has it carried out, and answers when it is committed. Once submitted, the change no longer
    /// depends on its caller: if the caller goes away and this future with it, the writer goes on.
    pub(super) async fn change<M: Change>(&self, request: tonic::Request<M>) -> Result<Answer, Problem> {
        let (visitor, message) = self.open(M::RPC, request)?;
        self.change_for(&visitor, message).await
    }

    /// The same for a caller that is known already.
    pub(super) async fn change_for<M: Change>(&self, visitor: &Visitor, message: M) -> Result<Answer, Problem> {
        self.submit(M::RPC, visitor, parse::request_of(message, visitor.name())).await
    }

    /// Has a parsed request carried out, if its caller may ask for it.
    pub(super) async fn submit(
        &self,
        rpc: &'static str,
        visitor: &Visitor,
        parsed: Result<Request, Violations>,
    ) -> Result<Answer, Problem> {
        let request = self.permit(rpc, visitor, parsed)?;
        let subject = subject(&request.command);
        let decider = decider(&request.command).cloned();
        let told = notes::about(&subject);
        let timing = notes::traced(&request.command);
        let outcome = match self.slot.get() {
            Ok(store) => store.submit_for(request, visitor.origin(), timing).await.map_err(|error| problem(rpc, error)),
            Err(problem) => Err(problem),
        };
        // An item of a stream, which has no end of its own to be told of.
        if !told {
            debug!(rpc, task_id = subject, accepted = outcome.is_ok(), "item");
        }
        if let (Ok(_), Some(actor)) = (&outcome, decider) {
            info!(rpc, task_id = subject, actor = actor.as_str(), "decided");
        }
        outcome.map_err(|problem| self.refuse(visitor, rpc, &subject, problem))
    }

    /// Hands a parsed request to the writer, behind all that was handed to it before, if its caller may ask for it. Not for
    /// persons' decisions, which are logged.
    pub(super) fn begin(
        &self,
        rpc: &'static str,
        visitor: &Visitor,
        parsed: Result<Request, Violations>,
    ) -> Result<Begun, Problem> {
        let request = self.permit(rpc, visitor, parsed)?;
        let subject = subject(&request.command).into_boxed_str();
        notes::about(&subject);
        let timing = notes::traced(&request.command);
        let begun = self
            .slot
            .get()
            .and_then(|store| store.begin(request, visitor.origin(), timing).map_err(|error| problem(rpc, error)));
        match begun {
            Ok(answer) => Ok(Begun { subject, answer }),
            Err(problem) => Err(self.refuse(visitor, rpc, &subject, problem)),
        }
    }

    /// What came of a request that was begun.
    pub(super) fn conclude(
        &self,
        rpc: &'static str,
        visitor: &Visitor,
        subject: &str,
        outcome: Result<Answer, StoreError>,
    ) -> Result<Answer, Problem> {
        outcome.map_err(|error| self.refuse(visitor, rpc, subject, problem(rpc, error)))
    }

    fn permit(
        &self,
        rpc: &'static str,
        visitor: &Visitor,
        parsed: Result<Request, Violations>,
    ) -> Result<Request, Problem> {
        let permitted = parsed.map_err(Problem::from).and_then(|mut request| {
            request.by = visitor.permit_command(rpc, &request.command)?.by;
            Ok(request)
        });
        permitted.inspect_err(|problem| self.refused(visitor, rpc, "", problem))
    }

    /// A problem as its caller is told of it, logged.
    fn refuse(&self, visitor: &Visitor, rpc: &'static str, subject: &str, problem: Problem) -> Problem {
        let problem = visitor.complete(problem, rpc);
        self.refused(visitor, rpc, subject, &problem);
        problem
    }

    /// Notes a refusal.
    pub(super) fn refused(&self, visitor: &Visitor, rpc: &'static str, subject: &str, problem: &Problem) {
        self.log_refusal(rpc, subject, problem, || visitor.refused());
    }

    fn log_refusal(&self, rpc: &'static str, subject: &str, problem: &Problem, caller: impl FnOnce() -> RefusedCaller) {
        let Problem { code, reason, message, .. } = problem;
        match code {
            Code::DataLoss | Code::Unknown => {
                tracing::error!(rpc, task_id = subject, reason, why = &**message, "failed");
            }
            _ => {
                // At debug each call has a line, whatever becomes of it.
                let all = || tracing::enabled!(tracing::Level::DEBUG).then(LeftOut::default);
                let caller = caller();
                let name = caller.to_string();
                if let Some(LeftOut { own, others }) = self.refusals.next(caller, reason).or_else(all) {
                    // Most lines have neither: a field that is nearly always 0 would only be in the way.
                    let (left_out, others_left_out) = ((own > 0).then_some(own), (others > 0).then_some(others));
                    let why = &**message;
                    info!(rpc, task_id = subject, caller = name, reason, why, left_out, others_left_out, "refused");
                }
            }
        }
    }

    /// A change whose answer is one saga.
    pub(super) async fn change_saga<M: Change>(
        &self,
        request: tonic::Request<M>,
    ) -> Result<Option<proto::Saga>, Problem> {
        let answer = self.change(request).await?;
        self.saga_of(M::RPC, answer)
    }

    /// The one saga of an answer, as the caller is shown it.
    pub(super) fn saga_of(&self, rpc: &'static str, answer: Answer) -> Result<Option<proto::Saga>, Problem> {
        let saga = match answer {
            Answer::Saga(saga) => saga,
            Answer::Sagas(mut sagas) => match (sagas.pop(), sagas.is_empty()) {
                (Some(saga), true) => saga,
                (Some(_) | None, _) => return Err(unexpected(rpc)),
            },
            Answer::Lease(_) | Answer::Queue(_) | Answer::Purged(_) => return Err(unexpected(rpc)),
        };
        Ok(Some(render::saga::only_saga(&saga, &self.slot.get()?.read_time())))
    }

    /// A change whose answer is any number of sagas.
    pub(super) async fn change_sagas<M: Change>(
        &self,
        request: tonic::Request<M>,
    ) -> Result<Vec<proto::Saga>, Problem> {
        let answer = self.change(request).await?;
        self.render(&sagas_of(M::RPC, answer)?)
    }

    /// `ClaimNext`, which is held no longer than its caller's deadline allows.
    pub(super) async fn claim_next(
        &self,
        message: ClaimNextRequest,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<proto::ClaimNextResponse, Problem> {
        let visitor = self.visitor(ClaimNextRequest::RPC, extensions)?;
        let arrived = self.now();
        let parsed = claim_within(message, visitor.name(), call_timeout(metadata.as_ref()));
        let answer = self.submit(ClaimNextRequest::RPC, &visitor, parsed).await?;
        self.claimed(arrived, answer)
    }

    /// The answer to a `ClaimNext` that arrived then.
    pub(super) fn claimed(
        &self,
        arrived: Option<Timestamp>,
        answer: Answer,
    ) -> Result<proto::ClaimNextResponse, Problem> {
        let sagas = sagas_of(ClaimNextRequest::RPC, answer)?;
        let now = self.slot.get()?.read_time().now;
        let given = sagas.iter().filter_map(|saga| Some(saga.lease.as_ref()?.acquire_time)).min();
        // Until the leases were given and not until now: they run already while the change is committed. Of leases given
        // before this call arrived, which a repeat is answered with, it is nothing.
        let waited = given.unwrap_or(now).since(arrived.unwrap_or(now));
        Ok(proto::ClaimNextResponse { sagas: self.render(&sagas)?, waited: Some(render::span(waited)) })
    }

    /// This moment on the coordinator's clock; none while the store is not open.
    pub(super) fn now(&self) -> Option<Timestamp> {
        self.slot.get().ok().map(|store| store.read_time().now)
    }

    /// A change whose answer is a lease: a heartbeat.
    pub(super) async fn heartbeat<M: Change>(&self, visitor: &Visitor, message: M) -> Result<Beat, Problem> {
        let answer = self.change_for(visitor, message).await?;
        self.beat_of(M::RPC, answer)
    }

    /// The lease of an answer, as its holder is shown it.
    pub(super) fn beat_of(&self, rpc: &'static str, answer: Answer) -> Result<Beat, Problem> {
        match answer {
            Answer::Lease(LeaseAnswer { lease, cancel_reason }) => {
                let read_time = self.slot.get()?.read_time();
                Ok(Beat { lease: render::saga::lease(&lease, &read_time), cancel_reason })
            }
            Answer::Saga(_) | Answer::Sagas(_) | Answer::Queue(_) | Answer::Purged(_) => Err(unexpected(rpc)),
        }
    }

    fn render(&self, sagas: &[Arc<Saga>]) -> Result<Vec<proto::Saga>, Problem> {
        let read_time = self.slot.get()?.read_time();
        Ok(render::saga::sagas(sagas, &read_time))
    }

    /// Answers an rpc that only looks.
    pub(super) async fn look<T>(
        &self,
        rpc: &'static str,
        subject: &str,
        visitor: &Visitor,
        look: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Response<T>, Status> {
        // As the caller sent it, so of any length.
        let subject = cut(subject.to_owned(), ID_BYTES);
        notes::about(&subject);
        // A read can wait for its turn: whoever was revoked meanwhile is not told what was found.
        let looked = look.await;
        let is_over = self.slot.get().ok().and_then(|store| visitor.is_over(rpc, store.utc()));
        match is_over.map_or(looked, Err) {
            Ok(answer) => Ok(Response::new(answer)),
            Err(problem) => {
                let problem = visitor.complete(problem, rpc);
                self.refused(visitor, rpc, &subject, &problem);
                Err(problem.into())
            }
        }
    }
}

/// Parses a `ClaimNext`, which is held no longer than its caller waits for the answer.
pub(super) fn claim_within(
    message: ClaimNextRequest,
    principal: Option<&PrincipalName>,
    timeout: Option<Span>,
) -> Result<Request, Violations> {
    let mut parsed = parse::request_of(message, principal);
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

/// What the store answered, as a problem of this rpc.
fn problem(rpc: &'static str, error: StoreError) -> Problem {
    match error {
        // The path of a field has no index where there is no batch.
        StoreError::Refused(refusal) if rpc != BatchCreateSagasRequest::RPC => {
            StoreError::Refused(Box::new(CommandRefusal { index: None, ..*refusal })).into()
        }
        error => error.into(),
    }
}

/// The store answered with something that the command has no use for. The change was made, but can't be shown.
pub(super) fn unexpected(rpc: &'static str) -> Problem {
    tracing::error!(rpc, "the store's answer has another form than the request's");
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

/// Who decides something by a command, if it is a decision.
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
