//! The caller of a request, as authentication in front of the services found it, and what it may do.
//!
//! No handler reaches the store without this: [`HandlerContext`](super::handler_context::HandlerContext) returns it only
//! for an [`Authorization`], which comes from the table in [`super::permissions`].

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

use super::{error_table, permissions, problem::Problem, refusal_log::RefusedCaller};

/// The principal of a call and its credentials: a request extension, set by authentication.
#[derive(Clone, Debug)]
pub struct CallerIdentity {
    pub principal: Arc<Principal>,
    /// `revoked` is cancelled when the credentials no longer authenticate this principal with these rights.
    pub credentials: Credentials,
}

/// The connection of a call: a request extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallConnection {
    /// Unique among open connections.
    pub number: u64,
    /// The peer's address, for IPv6 its first 64 bits. None: a Unix socket.
    pub network: Option<IpAddr>,
}

/// The configured principals, kept by authentication.
pub trait Principals: Send + Sync {
    /// The principals that may call now.
    fn names(&self) -> Vec<PrincipalName>;

    /// Ends the streams and the waiting calls of a principal. Returns whether it is configured; then it can make new calls.
    fn end_calls(&self, name: &str) -> bool;
}

/// Cancelled when the connection's client certificate has expired or was revoked: a request extension where certificates
/// are required.
#[derive(Clone, Debug)]
pub struct CertificateInvalidated(pub CancellationToken);

/// The caller of a request: a principal, or anybody where calls need no credentials; with its connection.
#[derive(Clone, Debug)]
pub(super) struct AuthenticatedCaller {
    identity: Option<CallerIdentity>,
    connection: Option<CallConnection>,
    certificate_invalidated: Option<CertificateInvalidated>,
}

/// Permission for one call.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    pub(super) by: Option<Arc<Requester>>,
}

impl AuthenticatedCaller {
    /// From a request's extensions. `required`: a request without a caller is refused.
    pub(super) fn of(extensions: &Extensions, rpc: &str, required: bool) -> Result<Self, Problem> {
        match extensions.get::<CallerIdentity>() {
            // If the layer that authenticates were missing, all calls would be refused.
            None if required => Err(permissions::unauthenticated(rpc)),
            identity => Ok(AuthenticatedCaller {
                identity: identity.cloned(),
                connection: extensions.get().copied(),
                certificate_invalidated: extensions.get().cloned(),
            }),
        }
    }

    /// The principal; none where calls need no credentials.
    pub(super) fn principal(&self) -> Option<&Principal> {
        self.identity.as_ref().map(|identity| &*identity.principal)
    }

    pub(super) fn principal_name(&self) -> Option<&PrincipalName> {
        self.principal().map(|principal| &principal.name)
    }

    /// The name under which its refusals are logged and counted.
    pub(super) fn refused_caller(&self) -> RefusedCaller {
        match self.principal_name() {
            Some(name) => RefusedCaller::Principal(name.clone()),
            None => RefusedCaller::at(self.connection.and_then(|connection| connection.network)),
        }
    }

    /// Whether it may see details of the machine. Where calls need no credentials, everybody may.
    pub(super) fn is_admin(&self) -> bool {
        self.principal().is_none_or(|principal| principal.roles.contains(&Role::Admin))
    }

    /// The credentials of the call; none where it needs none.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        let shown = self.identity.as_ref().map(|identity| identity.credentials.clone());
        match &self.certificate_invalidated {
            Some(CertificateInvalidated(end)) => {
                Some(Credentials { certificate: end.clone(), ..shown.unwrap_or_default() })
            }
            None => shown,
        }
    }

    /// An error if the credentials are no longer valid at `utc`, the time of the wall clock.
    pub(super) fn credential_problem(&self, rpc: &str, utc: Timestamp) -> Option<Problem> {
        if self.certificate_invalidated().is_cancelled() {
            return Some(permissions::certificate_ended(rpc));
        }
        let is_expired = self.credentials().is_some_and(|credentials| credentials.are_invalid_at(utc));
        is_expired.then(|| permissions::unauthenticated(rpc))
    }

    /// Where its changes come from; the writer checks this again in the change's turn.
    pub(super) fn origin(&self) -> CallOrigin {
        let connection = self.connection.map(|connection| connection.number);
        CallOrigin { credentials: self.credentials(), connection, timing: None }
    }

    /// The caller of its reads, by which reads take turns.
    pub(super) fn read_caller(&self) -> ReadCaller {
        ReadCaller { share: self.key(), credentials: self.credentials() }
    }

    /// The unit in which its streams and reads are limited.
    pub(super) fn key(&self) -> Option<CallerKey> {
        let connection = self.connection.map(|connection| connection.number);
        CallerKey::of_caller(self.principal_name().map(PrincipalName::as_str), connection)
    }

    /// Cancelled when the connection's certificate becomes invalid; never where there is none.
    pub(super) fn certificate_invalidated(&self) -> CancellationToken {
        self.certificate_invalidated.as_ref().map(|CertificateInvalidated(end)| end.clone()).unwrap_or_default()
    }

    /// Cancelled when the caller is revoked; never where calls need no credentials.
    pub(super) fn revoked(&self) -> CancellationToken {
        self.identity.as_ref().map(|identity| identity.credentials.revoked.clone()).unwrap_or_default()
    }

    /// Authorizes an rpc; `as_holder`: as the holder of a lease.
    pub(super) fn authorize(&self, rpc: &str, as_holder: bool) -> Result<Authorization, Problem> {
        let Some(principal) = self.principal() else { return Ok(Authorization { by: None }) };
        // A request may take half a minute to arrive, and its caller may have been revoked since it was authenticated.
        if self.revoked().is_cancelled() {
            return Err(permissions::unauthenticated(rpc));
        }
        let scope = permissions::permitted_queues(principal, rpc, as_holder)?;
        let actor = principal.name.to_actor().map_err(|Malformed(why)| permissions::denied(principal, rpc, why))?;
        let sees_all =
            permissions::permitted_queues(principal, "GetSaga", false).is_ok_and(|scope| scope == Scope::All);
        Ok(Authorization { by: Some(Arc::new(Requester { actor, scope, sees_all })) })
    }

    /// Authorizes a command, including the owner under which it would hold a lease.
    pub(super) fn authorize_command(&self, rpc: &str, command: &Command) -> Result<Authorization, Problem> {
        let authorization = self.authorize(rpc, permissions::is_by_holder(command))?;
        if let Some(principal) = self.principal() {
            permissions::check_owner(principal, rpc, command)?;
        }
        Ok(authorization)
    }

    /// Adds the principal and the rpc to a denial by the store, which knows neither.
    pub(super) fn complete_denial(&self, problem: Problem, rpc: &str) -> Problem {
        match self.principal() {
            Some(principal) if problem.reason == "PERMISSION_DENIED" => {
                problem.with("principal", &principal.name).with("rpc", rpc)
            }
            Some(_) | None if problem.reason == "UNAUTHENTICATED" => problem.with("rpc", rpc),
            Some(_) | None => problem,
        }
    }
}

impl Authorization {
    /// Whether the caller may see sagas of this queue.
    pub(super) fn sees(&self, queue: &QueueName) -> bool {
        self.by.as_ref().is_none_or(|by| by.scope.allows(queue))
    }

    /// Refuses a queue that the request names outside of the scope, whether it exists or not.
    fn check_queue(&self, queue: &QueueName) -> Result<(), Problem> {
        match &self.by {
            Some(by) if !by.scope.allows(queue) => {
                Err(error_table::refusal_problem(&CommandRefusal::plain(Rejection::NotPermitted {
                    queue: queue.clone(),
                })))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The queues to read: those named, or all that the caller may see.
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
