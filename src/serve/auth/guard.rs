//! Who is let in: in front of the services it is found out who calls, and nobody gets through unknown.

use std::sync::Arc;

use http::{Request, header::AUTHORIZATION};
use parking_lot::RwLock;
use tracing::info;

use super::{
    bearer::{self, Presented},
    file::Entry,
    table::{Table, Unknown},
};
use crate::{
    clock::Clock,
    domain::{principal::PrincipalName, time::Timestamp},
    grpc::{
        CallConnection, Caller, CertificateEnd, Principals, RefusalLog, permits,
        refusal_log::{LeftOut, RefusedCaller},
        status::Problem,
    },
    listen::Line,
    serve::calls::RequestBody,
};

/// Open to everyone: probes and balancers have no credentials.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// For everyone who is known.
const REFLECTION: [&str; 2] = ["/grpc.reflection.v1.", "/grpc.reflection.v1alpha."];

/// What finds out who calls.
pub(in crate::serve) struct Guard {
    table: RwLock<Arc<Table>>,
    clock: Arc<dyn Clock>,
    refusals: Arc<RefusalLog>,
}

impl Guard {
    pub(super) fn new(table: Table, clock: Arc<dyn Clock>) -> Self {
        let refusals = RefusalLog::new(clock.clone());
        Guard { table: RwLock::new(Arc::new(table)), clock, refusals }
    }

    pub(super) fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Puts the principals of a file in force, and returns how many they are. Those who are not in it any more are revoked
    /// before it returns, and while nobody can be looked up: there is no moment in which the new principals are in force and
    /// a call of the old ones still counts.
    pub(super) fn replace(&self, entries: Vec<Entry>) -> usize {
        let mut table = self.table.write();
        let next = Table::succeeding(&table, entries);
        table.end_all_but(&next);
        *table = Arc::new(next);
        table.len()
    }

    /// Ends the streams of those who have run out.
    pub(super) fn expire(&self) {
        self.table().expire(self.clock.utc());
    }

    /// Who makes a call; nobody, where nobody needs to be known.
    fn admit<B>(&self, request: &Request<B>, line: &Line) -> Result<Option<Caller>, Problem> {
        let path = request.uri().path();
        if path.starts_with(HEALTH) {
            return Ok(None);
        }
        let rpc = path.rsplit('/').next().unwrap_or_default();
        let known = permits::knows(path);
        let caller = self.identify(request, line).map_err(|why| {
            self.tell(line, if known { rpc } else { "unknown" }, why);
            permits::unauthenticated(if known { rpc } else { "" })
        })?;
        // Health checks are not counted: everybody is let in with them.
        line.authenticated(Some((caller.principal.name.as_str(), &caller.credentials.revoked)));
        if known || is_reflection(path) { Ok(Some(caller)) } else { Err(permits::unknown(&caller.principal, "")) }
    }

    /// A token decides, if there is one; else the connection's certificate.
    fn identify<B>(&self, request: &Request<B>, line: &Line) -> Result<Caller, Unknown> {
        let now = self.clock.utc();
        let shown = line.certificate();
        let mut caller = match bearer::presented(request.headers()) {
            Presented::Token(token) => self.table().by_token(&bearer::hash(token), now)?,
            Presented::Malformed => return Err(Unknown::Malformed),
            Presented::None => {
                let shown = shown.ok_or(Unknown::Nothing)?;
                let mut caller = self.table().by_certificate(&shown.certificate().names, now)?;
                caller.credentials.revoked = shown.caller(&caller.credentials.revoked);
                caller
            }
        };
        // What is begun over a connection ends with its certificate, whoever has begun it.
        if let Some(shown) = shown {
            let end = Timestamp::from_micros(shown.certificate().not_after.saturating_add(1).saturating_mul(1_000_000));
            let credentials = &mut caller.credentials;
            credentials.not_after = Some(credentials.not_after.map_or(end, |before| before.min(end)));
        }
        Ok(caller)
    }

    fn tell(&self, line: &Line, rpc: &str, why: Unknown) {
        let caller = RefusedCaller::at(line.peer().network());
        if let Some(LeftOut { own, others }) = self.refusals.next(caller, why.text()) {
            let peer = line.peer().to_string();
            let others_left_out = (others > 0).then_some(others);
            info!(peer, rpc, why = why.text(), left_out = own, others_left_out, "refused: unauthenticated");
        }
    }
}

fn is_reflection(path: &str) -> bool {
    REFLECTION.iter().any(|service| path.starts_with(service))
}

impl Principals for Guard {
    fn names(&self) -> Vec<PrincipalName> {
        self.table().names(self.clock.utc())
    }

    fn end_calls(&self, name: &str) -> bool {
        let mut table = self.table.write();
        let (next, known) = table.without_calls_of(name, self.clock.utc());
        *table = Arc::new(next);
        known
    }
}

/// Finds out who makes a call, if anyone needs to be known.
pub(in crate::serve) struct CallerCheck {
    pub(in crate::serve) guard: Option<Arc<Guard>>,
    /// What tells whether a certificate has run out.
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

impl CallerCheck {
    /// Leaves with the request what its handler has to know of its caller.
    ///
    /// # Errors
    /// The call is not let in.
    pub(in crate::serve) fn admit(&self, request: &mut Request<RequestBody>, line: &Line) -> Result<(), Problem> {
        if let Some(shown) = line.certificate() {
            // Whoever has a token needs the certificate as well: without one there would be no connection.
            if shown.ended().is_cancelled() || shown.is_over(self.clock.utc().micros() / 1_000_000) {
                return Err(permits::certificate_ended(permits::rpc(request.uri().path())));
            }
            request.extensions_mut().insert(CertificateEnd(shown.ended().clone()));
        }
        request.extensions_mut().insert(CallConnection { number: line.number(), network: line.peer().network() });
        let Some(guard) = &self.guard else {
            // Nobody needs to be known, so any call counts.
            line.authenticated(None);
            return Ok(());
        };
        let caller = guard.admit(request, line)?;
        // Behind this nobody has a use for it, and nobody can log it.
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(caller) = caller {
            if is_reflection(request.uri().path()) {
                // Our own services end their streams themselves; reflection is the library's, and answers for as long as it is
                // asked.
                request.body_mut().end_with(caller.credentials.revoked.clone());
            }
            request.extensions_mut().insert(caller);
        }
        Ok(())
    }
}
