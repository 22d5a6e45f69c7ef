//! Who calls, as it was found out in front of the services, and what it may do then.
//!
//! Nobody reaches the store past this: the [`Desk`](super::desk::Desk) hands it out for a [`Permit`] only, and a permit
//! comes from the table of [`super::permits`].

use std::{net::IpAddr, sync::Arc};

use tokio_util::sync::CancellationToken;
use tonic::Extensions;

use crate::{
    domain::{
        command::Command,
        ids::{Malformed, QueueName},
        principal::{Principal, PrincipalName, Requester, Role, Scope},
        rejection::{CommandRefusal, Rejection},
        time::Timestamp,
    },
    store::{CallOrigin, CallerKey, Credentials, ReadCaller},
};

use super::{permits, refusal, refusal_log::RefusedCaller, status::Problem};

/// An authenticated caller: an extension of its requests.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub principal: Arc<Principal>,
    /// Its revocation token is cancelled once the credentials stand for this principal no more, or for one with other rights.
    pub credentials: Credentials,
}

/// The connection that a call came over: an extension of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallConnection {
    /// A number that no two open ones share.
    pub number: u64,
    /// Where it comes from, of IPv6 the first 64 bits; none: this machine, by a socket in the file system.
    pub network: Option<IpAddr>,
}

/// The principals that are known, as what finds out who calls keeps them.
pub trait Principals: Send + Sync {
    /// The names of those who may call now.
    fn names(&self) -> Vec<PrincipalName>;

    /// Ends the streams of a principal and its calls that wait. It can make new ones, if it is known: returns whether it is.
    fn end_calls(&self, name: &str) -> bool;
}

/// The end of what a connection's client certificate stands for: an extension of requests where clients need one.
#[derive(Clone, Debug)]
pub struct CertificateEnd(pub CancellationToken);

/// Who calls: somebody, or anybody where callers are not known; and over what.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    caller: Option<Caller>,
    connection: Option<CallConnection>,
    certificate_end: Option<CertificateEnd>,
}

/// What allows one call.
#[derive(Clone, Debug)]
pub(super) struct Permit {
    pub(super) by: Option<Arc<Requester>>,
}

impl Visitor {
    /// Out of a request's extensions; `required`: without a caller there it is refused.
    pub(super) fn of(extensions: &Extensions, rpc: &str, required: bool) -> Result<Self, Problem> {
        match extensions.get::<Caller>() {
            // Nobody is let through without: should what finds out who calls be missing, so is the service.
            None if required => Err(permits::unauthenticated(rpc)),
            caller => Ok(Visitor {
                caller: caller.cloned(),
                connection: extensions.get().copied(),
                certificate_end: extensions.get().cloned(),
            }),
        }
    }

    /// The principal, if callers are known.
    pub(super) fn principal(&self) -> Option<&Principal> {
        self.caller.as_ref().map(|caller| &*caller.principal)
    }

    /// Its name.
    pub(super) fn name(&self) -> Option<&PrincipalName> {
        self.principal().map(|principal| &principal.name)
    }

    /// As whom it is told of in the log when it is refused.
    pub(super) fn refused(&self) -> RefusedCaller {
        match self.name() {
            Some(name) => RefusedCaller::Principal(name.clone()),
            None => RefusedCaller::at(self.connection.and_then(|connection| connection.network)),
        }
    }

    /// Whether it may know what concerns the machine; everyone may, where callers are not known.
    pub(super) fn is_admin(&self) -> bool {
        self.principal().is_none_or(|principal| principal.roles.contains(&Role::Admin))
    }

    /// What the call came with; none where nobody has to show anything.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        let shown = self.caller.as_ref().map(|caller| caller.credentials.clone());
        match &self.certificate_end {
            Some(CertificateEnd(end)) => Some(Credentials { certificate: end.clone(), ..shown.unwrap_or_default() }),
            None => shown,
        }
    }

    /// Why the call is not to be answered, if what it came with is over at this time of the wall clock.
    pub(super) fn is_over(&self, rpc: &str, utc: Timestamp) -> Option<Problem> {
        if self.certificate_end().is_cancelled() {
            return Some(permits::certificate_ended(rpc));
        }
        let is_over = self.credentials().is_some_and(|credentials| credentials.are_invalid_at(utc));
        is_over.then(|| permits::unauthenticated(rpc))
    }

    /// Where its changes come from.
    pub(super) fn origin(&self) -> CallOrigin {
        CallOrigin { credentials: self.credentials(), connection: self.connection.map(|connection| connection.number) }
    }

    /// On whose behalf its reads are made.
    pub(super) fn read_caller(&self) -> ReadCaller {
        ReadCaller { share: self.share(), credentials: self.credentials() }
    }

    /// Among whose streams and reads its own count.
    pub(super) fn share(&self) -> Option<CallerKey> {
        let connection = self.connection.map(|connection| connection.number);
        CallerKey::of_caller(self.name().map(PrincipalName::as_str), connection)
    }

    /// Ready when the connection's certificate has run out or was revoked; never where there is none.
    pub(super) fn certificate_end(&self) -> CancellationToken {
        self.certificate_end.as_ref().map(|CertificateEnd(end)| end.clone()).unwrap_or_default()
    }

    /// Ready when the caller may not go on; never where callers are not known.
    pub(super) fn revoked(&self) -> CancellationToken {
        self.caller.as_ref().map(|caller| caller.credentials.revoked.clone()).unwrap_or_default()
    }

    /// Whether it may call this; `as_holder`: of a lease.
    pub(super) fn permit(&self, rpc: &str, as_holder: bool) -> Result<Permit, Problem> {
        let Some(principal) = self.principal() else { return Ok(Permit { by: None }) };
        // A request may take half a minute to arrive: its caller may have been revoked since.
        if self.revoked().is_cancelled() {
            return Err(permits::unauthenticated(rpc));
        }
        let scope = permits::scope(principal, rpc, as_holder)?;
        let actor = principal.name.to_actor().map_err(|Malformed(why)| permits::denied(principal, rpc, why))?;
        let sees_all = permits::scope(principal, "GetSaga", false).is_ok_and(|sight| sight == Scope::All);
        Ok(Permit { by: Some(Arc::new(Requester { actor, scope, sees_all })) })
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
            Some(_) | None if problem.reason == "UNAUTHENTICATED" => problem.with("rpc", rpc),
            Some(_) | None => problem,
        }
    }
}

impl Permit {
    /// Whether a saga of this queue is there for the caller, by an rpc that only looks.
    pub(super) fn sees(&self, queue: &QueueName) -> bool {
        self.by.as_ref().is_none_or(|by| by.scope.allows(queue))
    }

    /// Refuses a queue that the request names, if it is outside of the scope. Whether there is such a queue plays no part.
    fn check_queue(&self, queue: &QueueName) -> Result<(), Problem> {
        match &self.by {
            Some(by) if !by.scope.allows(queue) => {
                Err(refusal::problem(&CommandRefusal::plain(Rejection::NotPermitted { queue: queue.clone() })))
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
