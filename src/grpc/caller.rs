//! Who calls, as the layer in front of the services found out, and what it may do then.
//!
//! Nobody reaches the store past this: the [`Desk`](super::desk::Desk) hands it out for a [`Permit`] only, and a permit
//! comes from the table of [`super::permits`].

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::Extensions;

use crate::domain::{
    command::Command,
    ids::{Malformed, QueueName},
    principal::{Behalf, Principal, PrincipalName, Scope},
    rejection::{Refusal, Rejection},
};

use super::{permits, refusal, status::Problem};

/// An authenticated caller: an extension of its requests.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub principal: Arc<Principal>,
    /// Cancelled once the credentials stand for this principal no more, or for one with other rights.
    pub revoked: CancellationToken,
}

/// Who calls: somebody, or anybody where callers are not known.
#[derive(Clone, Debug)]
pub(super) struct Visitor(Option<Caller>);

/// What allows one call.
#[derive(Clone, Debug)]
pub(super) struct Permit {
    pub(super) by: Option<Arc<Behalf>>,
}

impl Visitor {
    /// Out of a request's extensions; `required`: without a caller there it is refused.
    pub(super) fn of(extensions: &Extensions, rpc: &str, required: bool) -> Result<Self, Problem> {
        match extensions.get::<Caller>() {
            // The layer lets nobody through without: should it be missing, so is the service.
            None if required => Err(permits::unauthenticated(rpc)),
            caller => Ok(Visitor(caller.cloned())),
        }
    }

    /// The principal, if callers are known.
    pub(super) fn principal(&self) -> Option<&Principal> {
        self.0.as_ref().map(|caller| &*caller.principal)
    }

    /// Its name.
    pub(super) fn name(&self) -> Option<&PrincipalName> {
        self.principal().map(|principal| &principal.name)
    }

    /// Ready when the caller may not go on; never where callers are not known.
    pub(super) fn revoked(&self) -> CancellationToken {
        self.0.as_ref().map(|caller| caller.revoked.clone()).unwrap_or_default()
    }

    /// Whether it may call this; `as_holder`: of a lease.
    pub(super) fn permit(&self, rpc: &str, as_holder: bool) -> Result<Permit, Problem> {
        let Some(principal) = self.principal() else { return Ok(Permit { by: None }) };
        let scope = permits::scope(principal, rpc, as_holder)?;
        let actor = principal.name.to_actor().map_err(|Malformed(why)| permits::denied(principal, rpc, why))?;
        Ok(Permit { by: Some(Arc::new(Behalf { actor, scope })) })
    }

    /// Whether it may have this carried out.
    pub(super) fn permit_command(&self, rpc: &str, command: &Command) -> Result<Permit, Problem> {
        let permit = self.permit(rpc, permits::is_held(command))?;
        if let Some(principal) = self.principal() {
            permits::check_owner(principal, rpc, command)?;
        }
        Ok(permit)
    }

    /// Adds to a denial of the store's what it does not know.
    pub(super) fn complete(&self, problem: Problem, rpc: &str) -> Problem {
        match self.principal() {
            Some(principal) if problem.reason == "PERMISSION_DENIED" => {
                problem.with("principal", &principal.name).with("rpc", rpc)
            }
            Some(_) | None => problem,
        }
    }
}

impl Permit {
    /// Refuses what is outside of the scope.
    pub(super) fn check_queue(&self, queue: &QueueName) -> Result<(), Problem> {
        match &self.by {
            Some(by) if !by.scope.allows(queue) => {
                Err(refusal::problem(&Refusal::plain(Rejection::NotPermitted { queue: queue.clone() })))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The queues that a look is to be confined to: those named, or all that the caller may see.
    pub(super) fn confine(&self, named: Vec<QueueName>) -> Result<Vec<QueueName>, Problem> {
        for queue in &named {
            self.check_queue(queue)?;
        }
        match self.by.as_ref().map(|by| &by.scope) {
            Some(Scope::Only(queues)) if named.is_empty() => Ok(queues.to_vec()),
            Some(Scope::Only(_) | Scope::All) | None => Ok(named),
        }
    }
}
