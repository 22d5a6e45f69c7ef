//! Requests of people and recoverers, and operators' requests that change something.

use crate::{
    domain::{
        bounds::{PURGE_DEFAULT, PURGE_SAGAS, REVOKE_DEFAULT, REVOKE_LEASES},
        command::{
            Change as SagaChange, Command, Holder, HolderOperation, Operation, Purge, RecoveryDecision, SetPaused,
            UnleasedOperation,
        },
        ids::{Malformed, OwnerId, QueueName, TaskId},
        saga::State,
        text::{Actor, Text},
        time::Span,
    },
    proto,
};

use super::{
    ChangeRequest, Violations,
    queries::states,
    violations::{DURATION_MAX, required, unknown},
};

/// Implements [`ChangeRequest`] for requests that don't come from a lease's holder.
macro_rules! unleased_request {
    ($request:ident, $rpc:literal, |$message:ident, $violations:ident| $operation:expr) => {
        impl ChangeRequest for proto::$request {
            const RPC: &'static str = $rpc;

            fn take_request_id(&mut self) -> String {
                std::mem::take(&mut self.request_id)
            }

            fn actor(&mut self) -> Option<&mut String> {
                self.actor_field()
            }

            fn parse(self, $violations: &mut Violations) -> Option<Command> {
                let $message = self;
                let task_id = $violations.check("task_id", TaskId::parse(&$message.task_id));
                let operation = $operation;
                Some(Command::Change(SagaChange { task_id: task_id?, operation }))
            }
        }
    };
}

unleased_request!(WaiveCompensationRequest, "WaiveCompensation", |message, v| {
    let position = v.position(message.position);
    let actor = v.check("actor", Actor::parse(&message.actor));
    let reason = v.required_text("reason", &message.reason);
    Operation::Unleased(UnleasedOperation::WaiveCompensation { position: position?, actor: actor?, reason: reason? })
});

unleased_request!(QuarantineRequest, "Quarantine", |message, v| quarantine(&message, v)?);

unleased_request!(RecoverRequest, "Recover", |message, v| {
    let decision = v.check("decision", decision(message.decision));
    let actor = v.check("actor", Actor::parse(&message.actor));
    let reason = v.required_text("reason", &message.reason);
    let token = v.token_or_none(message.fencing_token);
    Operation::Unleased(UnleasedOperation::Recover {
        decision: decision?,
        actor: actor?,
        reason: reason?,
        token: token?,
        validate_only: message.validate_only,
    })
});

unleased_request!(RequestCancelRequest, "RequestCancel", |message, v| {
    let actor = v.check("actor", Actor::parse(&message.actor));
    let reason = v.required_text("reason", &message.reason);
    Operation::Unleased(UnleasedOperation::RequestCancel {
        actor: actor?,
        reason: reason?,
        revoke_lease: message.revoke_lease,
    })
});

unleased_request!(AnnotateRequest, "Annotate", |message, v| {
    if message.note.is_empty() && message.details.is_empty() && message.terminal_reason.is_empty() {
        v.add("note", "is required, or details, or terminal_reason: there is nothing to annotate");
    }
    let actor = v.check("actor", Actor::parse(&message.actor));
    let note = v.check("note", Text::parse(&message.note));
    let details = v.labels("details", message.details);
    let terminal_reason = v.optional("terminal_reason", &message.terminal_reason, Text::parse);
    Operation::Unleased(UnleasedOperation::Annotate {
        actor: actor?,
        note: note?,
        details: details?,
        terminal_reason: terminal_reason?,
    })
});

/// The field of a request that names who asks.
trait ActorField {
    /// None if the request comes from a lease's holder.
    fn actor_field(&mut self) -> Option<&mut String>;
}

macro_rules! actor_field_of {
    ($($request:ident)*) => {
        $(
            impl ActorField for proto::$request {
                fn actor_field(&mut self) -> Option<&mut String> {
                    Some(&mut self.actor)
                }
            }
        )*
    };
}

actor_field_of!(WaiveCompensationRequest RecoverRequest RequestCancelRequest AnnotateRequest);

impl ActorField for proto::QuarantineRequest {
    fn actor_field(&mut self) -> Option<&mut String> {
        let by_holder = !self.owner_id.is_empty() || self.fencing_token != 0;
        (!by_holder).then_some(&mut self.actor)
    }
}

/// From the lease's holder or from a person, not both.
fn quarantine(message: &proto::QuarantineRequest, v: &mut Violations) -> Option<Operation> {
    let reason = v.required_text("reason", &message.reason);
    let by_holder = !message.owner_id.is_empty() || message.fencing_token != 0;
    match (by_holder, message.actor.is_empty()) {
        (false, true) => {
            v.add("actor", "is required, or owner_id and fencing_token");
            None
        }
        (true, false) => {
            v.add("actor", "must be absent when owner_id and fencing_token are given");
            None
        }
        (true, true) => {
            if message.revoke_lease {
                v.add("revoke_lease", "is for a person: it needs actor instead of owner_id and fencing_token");
            }
            let owner = v.check("owner_id", OwnerId::parse(&message.owner_id));
            let token = v.token(message.fencing_token);
            let holder = Holder { owner: owner?, token: token? };
            Some(Operation::ByHolder(holder, HolderOperation::Quarantine { reason: reason? }))
        }
        (false, false) => {
            let actor = v.check("actor", Actor::parse(&message.actor))?;
            let revoke_lease = message.revoke_lease;
            Some(Operation::Unleased(UnleasedOperation::Quarantine { actor, reason: reason?, revoke_lease }))
        }
    }
}

fn decision(value: i32) -> Result<RecoveryDecision, Malformed> {
    match proto::RecoveryDecision::try_from(value).map_err(|_| unknown(value))? {
        proto::RecoveryDecision::Unspecified => Err(required()),
        proto::RecoveryDecision::Requeue => Ok(RecoveryDecision::Requeue),
        proto::RecoveryDecision::Compensate => Ok(RecoveryDecision::Compensate),
        proto::RecoveryDecision::Quarantine => Ok(RecoveryDecision::Quarantine),
    }
}

/// Implements [`ChangeRequest`] for `PauseQueue` and `ResumeQueue`.
macro_rules! set_paused {
    ($request:ident, $rpc:literal, $paused:literal) => {
        impl ChangeRequest for proto::$request {
            const RPC: &'static str = $rpc;

            fn take_request_id(&mut self) -> String {
                String::new()
            }

            fn actor(&mut self) -> Option<&mut String> {
                Some(&mut self.actor)
            }

            fn parse(self, v: &mut Violations) -> Option<Command> {
                let queue = v.check("queue", QueueName::parse(&self.queue));
                let actor = v.check("actor", Actor::parse(&self.actor));
                let reason = v.check("reason", Text::parse(&self.reason));
                Some(Command::SetPaused(SetPaused {
                    queue: queue?,
                    paused: $paused,
                    must_exist: self.must_exist,
                    actor: actor?,
                    reason: reason?,
                }))
            }
        }
    };
}

set_paused!(PauseQueueRequest, "PauseQueue", true);
set_paused!(ResumeQueueRequest, "ResumeQueue", false);

/// The whole purge; the service divides it into steps.
pub fn purge(request: &proto::PurgeSagasRequest) -> Result<Purge, Violations> {
    let mut v = Violations::default();
    let purge = parse_purge(request, &mut v);
    v.unless_any(purge)
}

/// A parsed `RevokePrincipal`.
#[derive(Debug)]
pub struct Revocation {
    /// The principal whose leases end.
    pub principal: OwnerId,
    /// The person who asks for it.
    pub actor: Actor,
    pub reason: Text,
    /// Most leases to end.
    pub max_leases: usize,
    /// Only count them.
    pub validate_only: bool,
}

/// Parses `RevokePrincipal`. The service ends the leases one by one.
pub fn revoke_principal(request: &proto::RevokePrincipalRequest) -> Result<Revocation, Violations> {
    let mut v = Violations::default();
    let revocation = parse_revocation(request, &mut v);
    v.unless_any(revocation)
}

fn parse_revocation(request: &proto::RevokePrincipalRequest, v: &mut Violations) -> Option<Revocation> {
    let principal = v.check("principal", OwnerId::parse(&request.principal));
    let actor = v.check("actor", Actor::parse(&request.actor));
    let reason = v.required_text("reason", &request.reason);
    let max_leases = v.count("max_leases", request.max_leases, REVOKE_LEASES, REVOKE_DEFAULT);
    Some(Revocation {
        principal: principal?,
        actor: actor?,
        reason: reason?,
        max_leases: max_leases?,
        validate_only: request.validate_only,
    })
}

fn parse_purge(request: &proto::PurgeSagasRequest, v: &mut Violations) -> Option<Purge> {
    let states = states(&request.states, true, v);
    if request.older_than.is_none() {
        v.add("older_than", "is required; zero means all");
    }
    let older_than = v.span("older_than", request.older_than.as_ref(), Span::ZERO, DURATION_MAX);
    let max_sagas = v.count("max_sagas", request.max_sagas, PURGE_SAGAS, PURGE_DEFAULT);
    let actor = v.check("actor", Actor::parse(&request.actor));
    let reason = v.check("reason", Text::parse(&request.reason));
    let mut states = states?;
    if states.is_empty() {
        states = State::ALL.into_iter().filter(|state| state.is_terminal()).collect();
    }
    Some(Purge {
        states,
        older_than: older_than?,
        only: Vec::new(),
        max_sagas: max_sagas?,
        actor: actor?,
        reason: reason?,
        validate_only: request.validate_only,
    })
}
