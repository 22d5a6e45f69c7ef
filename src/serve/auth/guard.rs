//! Who is let in: a layer in front of the services that finds out who calls, and lets nobody through unknown.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    StreamExt,
    future::{self, Either, Ready},
};
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyStream, StreamBody};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
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
    fn admit<B>(&self, request: &Request<B>) -> Result<Option<Caller>, Problem> {
        let path = request.uri().path();
        if path.starts_with(HEALTH) {
            return Ok(None);
        }
        let line = request.extensions().get::<Arc<Line>>();
        let rpc = path.rsplit('/').next().unwrap_or_default();
        let known = permits::knows(path);
        let caller = self.identify(request, line.map(|line| &**line)).map_err(|why| {
            self.tell(line.map(|line| &**line), if known { rpc } else { "unknown" }, why);
            permits::unauthenticated(if known { rpc } else { "" })
        })?;
        // Health checks are not counted: everybody is let in with them.
        if let Some(line) = line {
            line.authenticated(Some((caller.principal.name.as_str(), &caller.credentials.revoked)));
        }
        if known || is_reflection(path) { Ok(Some(caller)) } else { Err(permits::unknown(&caller.principal, "")) }
    }

    /// A token decides, if there is one; else the connection's certificate.
    fn identify<B>(&self, request: &Request<B>, line: Option<&Line>) -> Result<Caller, Unknown> {
        let now = self.clock.utc();
        let shown = line.and_then(Line::certificate);
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

    fn tell(&self, line: Option<&Line>, rpc: &str, why: Unknown) {
        let caller = RefusedCaller::at(line.and_then(|line| line.peer().network()));
        if let Some(LeftOut { own, others }) = self.refusals.next(caller, why.text()) {
            let peer = line.map(|line| line.peer().to_string()).unwrap_or_default();
            let others_left_out = (others > 0).then_some(others);
            info!(peer, rpc, why = why.text(), left_out = own, others_left_out, "refused: unauthenticated");
        }
    }
}

fn is_reflection(path: &str) -> bool {
    REFLECTION.iter().any(|service| path.starts_with(service))
}

/// The questions of a stream, until their caller is revoked. Our own services end their streams themselves; reflection is the
/// library's, and answers for as long as it is asked.
fn until(revoked: CancellationToken, questions: Body) -> Body {
    let frames = BodyStream::new(questions).take_until(revoked.cancelled_owned());
    Body::new(StreamBody::new(frames))
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

/// Lays the guard over a server, if there is one.
#[derive(Clone)]
pub(in crate::serve) struct GuardLayer {
    /// What finds out who calls, if anyone needs to be known.
    pub(in crate::serve) guard: Option<Arc<Guard>>,
    /// What tells whether a certificate has run out.
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, layer: self.clone() }
    }
}

/// A service whose callers are known, or that everyone may call.
#[derive(Clone)]
pub(in crate::serve) struct Guarded<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let line = request.extensions().get::<Arc<Line>>().cloned();
        if let Some(shown) = line.as_ref().and_then(|line| line.certificate()) {
            // Whoever has a token needs the certificate as well: without one there would be no connection.
            if shown.ended().is_cancelled() || shown.is_over(self.layer.clock.utc().micros() / 1_000_000) {
                return refuse(permits::certificate_ended(permits::rpc(request.uri().path())));
            }
            request.extensions_mut().insert(CertificateEnd(shown.ended().clone()));
        }
        if let Some(line) = &line {
            if self.layer.guard.is_none() {
                // Nobody needs to be known, so any call counts.
                line.authenticated(None);
            }
            request.extensions_mut().insert(CallConnection { number: line.number(), network: line.peer().network() });
        }
        if let Some(guard) = &self.layer.guard {
            match guard.admit(&request) {
                Ok(caller) => {
                    // Behind this nobody has a use for it, and nobody can log it.
                    request.headers_mut().remove(AUTHORIZATION);
                    if let Some(caller) = caller {
                        if is_reflection(request.uri().path()) {
                            let revoked = caller.credentials.revoked.clone();
                            request = request.map(|questions| until(revoked, questions));
                        }
                        request.extensions_mut().insert(caller);
                    }
                }
                Err(problem) => return refuse(problem),
            }
        }
        Either::Left(self.inner.call(request))
    }
}

fn refuse<F, E>(problem: Problem) -> Either<F, Ready<Result<Response<Body>, E>>> {
    Either::Right(future::ready(Ok(Status::from(problem).into_http())))
}
