//! Who is let in: a layer in front of the services that finds out who calls, and lets nobody through unknown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use futures::future::{self, Either, Ready};
use http::{Request, Response, header::AUTHORIZATION};
use parking_lot::RwLock;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::info;

use super::{
    bearer::{self, Presented},
    table::{Table, Unknown},
};
use crate::{
    clock::Clock,
    domain::time::{Span, Timestamp},
    grpc::{Caller, permits, status::Problem},
    listen::Line,
};

/// Open to everyone: probes and balancers have no credentials.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// For everyone who is known.
const REFLECTION: [&str; 2] = ["/grpc.reflection.v1.", "/grpc.reflection.v1alpha."];

/// Refusals that are logged in one stretch of time; the others are counted.
const LOGGED: u64 = 10;
/// That stretch.
const STRETCH: Span = Span::from_secs(10);

/// What finds out who calls.
pub(in crate::serve) struct Guard {
    table: RwLock<Arc<Table>>,
    clock: Arc<dyn Clock>,
    refusals: Refusals,
}

impl Guard {
    pub(super) fn new(table: Table, clock: Arc<dyn Clock>) -> Self {
        Guard { table: RwLock::new(Arc::new(table)), clock, refusals: Refusals::default() }
    }

    pub(super) fn table(&self) -> Arc<Table> {
        self.table.read().clone()
    }

    /// Puts another table in force; streams of those who are not in it any more end.
    pub(super) fn replace(&self, table: Table) {
        let table = Arc::new(table);
        let old = std::mem::replace(&mut *self.table.write(), table.clone());
        old.end_all_but(&table);
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
        if known || REFLECTION.iter().any(|service| path.starts_with(service)) {
            Ok(Some(caller))
        } else {
            Err(permits::unknown(&caller.principal, ""))
        }
    }

    /// A token decides, if there is one; else the connection's certificate.
    fn identify<B>(&self, request: &Request<B>, line: Option<&Line>) -> Result<Caller, Unknown> {
        let now = self.clock.utc();
        match bearer::presented(request.headers()) {
            Presented::Token(token) => self.table().by_token(&bearer::hash(token), now),
            Presented::Malformed => Err(Unknown::Malformed),
            Presented::None => {
                let certificate = line.and_then(Line::certificate).ok_or(Unknown::Nothing)?;
                if now > Timestamp::from_micros(certificate.not_after.saturating_mul(1_000_000)) {
                    return Err(Unknown::CertificateExpired);
                }
                self.table().by_certificate(&certificate.names, now)
            }
        }
    }

    fn tell(&self, line: Option<&Line>, rpc: &str, why: Unknown) {
        if let Some(left_out) = self.refusals.next(self.clock.now()) {
            let peer = line.map(|line| line.peer().to_string()).unwrap_or_default();
            info!(peer, rpc, why = why.text(), left_out, "refused: unauthenticated");
        }
    }
}

/// How many refusals were logged lately.
#[derive(Default)]
struct Refusals {
    since: AtomicI64,
    count: AtomicU64,
}

impl Refusals {
    /// Whether the next is to be logged; then with how many before it were not.
    fn next(&self, now: Timestamp) -> Option<u64> {
        let since = self.since.load(Relaxed);
        let over = now.micros().saturating_sub(since) >= STRETCH.micros();
        if over && self.since.compare_exchange(since, now.micros(), Relaxed, Relaxed).is_ok() {
            return Some(self.count.swap(1, Relaxed).saturating_sub(LOGGED));
        }
        (self.count.fetch_add(1, Relaxed) < LOGGED).then_some(0)
    }
}

/// Lays the guard over a server, if there is one.
#[derive(Clone)]
pub(in crate::serve) struct GuardLayer(pub(in crate::serve) Option<Arc<Guard>>);

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.0.clone() }
    }
}

/// A service whose callers are known, or that everyone may call.
#[derive(Clone)]
pub(in crate::serve) struct Guarded<S> {
    inner: S,
    guard: Option<Arc<Guard>>,
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
        if let Some(guard) = &self.guard {
            match guard.admit(&request) {
                Ok(caller) => {
                    // Behind this nobody has a use for it, and nobody can log it.
                    request.headers_mut().remove(AUTHORIZATION);
                    if let Some(caller) = caller {
                        request.extensions_mut().insert(caller);
                    }
                }
                Err(problem) => return Either::Right(future::ready(Ok(Status::from(problem).into_http()))),
            }
        }
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_a_few_lines() {
        let refusals = Refusals::default();
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let logged = (0..1000).filter(|_| refusals.next(at(100)).is_some()).count();
        assert_eq!(logged as u64, LOGGED);
        assert_eq!(refusals.next(at(111)), Some(990), "what was left out is told with the next");
        assert_eq!(refusals.next(at(111)), Some(0));
    }
}
