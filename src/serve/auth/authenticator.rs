//! [`Authenticator`]: finds the principal of each call in front of the services. Unknown callers are refused.

use std::sync::Arc;

use http::{Request, header::AUTHORIZATION};
use parking_lot::RwLock;
use tracing::info;

use super::{
    bearer::{self, AuthorizationHeader},
    principal_table::{AuthenticationFailure, PrincipalTable},
    principals_file::PrincipalEntry,
};
use crate::{
    clock::Clock,
    domain::{principal::PrincipalName, time::Timestamp},
    grpc::{
        CallConnection, CallerIdentity, CertificateInvalidated, Principals, RefusalLog, permissions,
        problem::Problem,
        refusal_log::{RefusedCaller, SuppressedCount},
    },
    listen::ConnectionState,
    serve::calls::RequestBody,
};

/// Health checks need no credentials: probes and load balancers have none.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Reflection is open to every principal.
const REFLECTION: [&str; 2] = ["/grpc.reflection.v1.", "/grpc.reflection.v1alpha."];

/// Finds the principal of a call by its token or certificate.
pub(in crate::serve) struct Authenticator {
    table: RwLock<Arc<PrincipalTable>>,
    clock: Arc<dyn Clock>,
    refusals: Arc<RefusalLog>,
}

impl Authenticator {
    pub(super) fn new(table: PrincipalTable, clock: Arc<dyn Clock>) -> Self {
        let refusals = RefusalLog::new(clock.clone());
        Authenticator { table: RwLock::new(Arc::new(table)), clock, refusals }
    }

    pub(super) fn table(&self) -> Arc<PrincipalTable> {
        self.table.read().clone()
    }

    /// Puts a new list of principals in force and returns how many there are. Principals that are no longer listed are
    /// revoked before this returns and under the write lock, so no call of an old principal counts once the new list is in
    /// force.
    pub(super) fn replace(&self, entries: Vec<PrincipalEntry>) -> usize {
        let mut table = self.table.write();
        let next = PrincipalTable::replacing(&table, entries);
        table.revoke_missing_from(&next);
        *table = Arc::new(next);
        table.len()
    }

    /// Ends the streams of principals whose `not_after` has passed.
    pub(super) fn revoke_expired(&self) {
        self.table().revoke_expired(self.clock.utc());
    }

    /// The caller of a request; none where no credentials are needed (health checks).
    fn authenticate<B>(
        &self,
        request: &Request<B>,
        connection: &ConnectionState,
    ) -> Result<Option<CallerIdentity>, Problem> {
        let path = request.uri().path();
        if path.starts_with(HEALTH) {
            return Ok(None);
        }
        let rpc = path.rsplit('/').next().unwrap_or_default();
        let known = permissions::is_known_path(path);
        let caller = self.identify(request, connection).map_err(|why| {
            self.log_refusal(connection, if known { rpc } else { "unknown" }, why);
            permissions::unauthenticated(if known { rpc } else { "" })
        })?;
        // Health checks don't get here: anyone may make them, so they don't make a connection authenticated.
        connection.set_authenticated(Some((caller.principal.name.as_str(), &caller.credentials.revoked)));
        if known || is_reflection(path) {
            Ok(Some(caller))
        } else {
            Err(permissions::unknown_rpc(&caller.principal, ""))
        }
    }

    /// Uses the token if there is one, else the connection's certificate.
    fn identify<B>(
        &self,
        request: &Request<B>,
        connection: &ConnectionState,
    ) -> Result<CallerIdentity, AuthenticationFailure> {
        let now = self.clock.utc();
        let shown = connection.certificate();
        let mut caller = match bearer::read_authorization(request.headers()) {
            AuthorizationHeader::Token(token) => self.table().by_token(&bearer::hash_token(token), now)?,
            AuthorizationHeader::Malformed => return Err(AuthenticationFailure::Malformed),
            AuthorizationHeader::Absent => {
                let shown = shown.ok_or(AuthenticationFailure::NoCredentials)?;
                let mut caller = self.table().by_certificate(&shown.certificate().names, now)?;
                caller.credentials.revoked = shown.caller_token(&caller.credentials.revoked);
                caller
            }
        };
        // Whatever was started over a connection ends with its certificate, even if a token authenticated the call.
        if let Some(shown) = shown {
            let end = Timestamp::from_micros(shown.certificate().not_after.saturating_add(1).saturating_mul(1_000_000));
            let credentials = &mut caller.credentials;
            credentials.not_after = Some(credentials.not_after.map_or(end, |before| before.min(end)));
        }
        Ok(caller)
    }

    fn log_refusal(&self, connection: &ConnectionState, rpc: &str, why: AuthenticationFailure) {
        let caller = RefusedCaller::at(connection.peer().network());
        if let Some(SuppressedCount { own, others }) = self.refusals.record(caller, why.text()) {
            let peer = connection.peer().to_string();
            let others_left_out = (others > 0).then_some(others);
            info!(peer, rpc, why = why.text(), left_out = own, others_left_out, "refused: unauthenticated");
        }
    }
}

fn is_reflection(path: &str) -> bool {
    REFLECTION.iter().any(|service| path.starts_with(service))
}

impl Principals for Authenticator {
    fn names(&self) -> Vec<PrincipalName> {
        self.table().names(self.clock.utc())
    }

    fn end_calls(&self, name: &str) -> bool {
        let mut table = self.table.write();
        let (next, known) = table.revoke_calls_of(name, self.clock.utc());
        *table = Arc::new(next);
        known
    }
}

/// Authenticates each call, if principals are configured, and checks that the connection's certificate is still valid.
pub(in crate::serve) struct CallerCheck {
    pub(in crate::serve) authenticator: Option<Arc<Authenticator>>,
    /// Tells whether a certificate has expired.
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

impl CallerCheck {
    /// Authenticates a call and adds the caller to its extensions for the handler.
    ///
    /// # Errors
    /// The call has no valid credentials, or there is no such rpc.
    pub(in crate::serve) fn authenticate(
        &self,
        request: &mut Request<RequestBody>,
        connection: &ConnectionState,
    ) -> Result<(), Problem> {
        if let Some(shown) = connection.certificate() {
            // A token doesn't replace the certificate: without a valid one the connection would not have been accepted.
            if shown.invalidated().is_cancelled() || shown.is_expired_at(self.clock.utc().micros() / 1_000_000) {
                return Err(permissions::certificate_ended(permissions::rpc_name(request.uri().path())));
            }
            request.extensions_mut().insert(CertificateInvalidated(shown.invalidated().clone()));
        }
        request
            .extensions_mut()
            .insert(CallConnection { number: connection.number(), network: connection.peer().network() });
        let Some(authenticator) = &self.authenticator else {
            // Without principals every call counts as authenticated.
            connection.set_authenticated(None);
            return Ok(());
        };
        let caller = authenticator.authenticate(request, connection)?;
        // Nothing behind this needs the token, and nothing can log it.
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(caller) = caller {
            if is_reflection(request.uri().path()) {
                // Our own services end their streams themselves. Reflection is `tonic`'s service and answers as long as
                // requests come, so its request body is ended.
                request.body_mut().end_on(caller.credentials.revoked.clone());
            }
            request.extensions_mut().insert(caller);
        }
        Ok(())
    }
}
