//! The layer that opens an account for each call.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    TryFutureExt,
    future::{self, Either, Ready},
};
use http::{
    HeaderMap, HeaderName, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, TE},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    Ledger,
    answer::Leaving,
    health_watches::{HealthWatch, HealthWatches},
    ledger::no_place,
    methods::{Form, Methods},
    request::Arriving,
};
use crate::{domain::time::Span, grpc::status::Problem, listen::Line};

/// The part of the streams that are not the contract's which may watch the daemon's health: an eighth, 512 with the defaults.
/// Everybody may open them, so they have a share of their own.
const HEALTH_SHARE: usize = 8;
/// When to try again after there was no place.
const RETRY: Span = Span::from_secs(1);

/// Lays the ledger over a server.
#[derive(Clone)]
pub(in crate::serve) struct CallsLayer {
    ledger: Arc<Ledger>,
    methods: Arc<Methods>,
    other_streams: Arc<Semaphore>,
    health_watches: Arc<HealthWatches>,
}

/// A stream's place among those that are not the contract's.
pub(super) enum StreamPlace {
    /// Among health watches.
    Health { _place: HealthWatch },
    /// Among the others.
    Other { _permit: OwnedSemaphorePermit },
}

impl CallsLayer {
    /// For all that is served.
    ///
    /// # Errors
    /// A descriptor that can't be read: a mistake in the build.
    pub(in crate::serve) fn new(
        ledger: Arc<Ledger>,
        max_other_streams: usize,
    ) -> Result<Self, prost_reflect::DescriptorError> {
        let other_streams = Arc::new(Semaphore::new(max_other_streams.min(Semaphore::MAX_PERMITS)));
        let health_watches = HealthWatches::new((max_other_streams / HEALTH_SHARE).max(1));
        let methods = Arc::new(Methods::of_all_services()?);
        Ok(CallsLayer { ledger, methods, other_streams, health_watches })
    }

    /// The place of a stream that is not the contract's; or why there is none.
    fn stream_place(&self, form: Form, line: Option<&Arc<Line>>) -> Result<Option<StreamPlace>, &'static str> {
        if form.is_health_watch {
            return Ok(Some(StreamPlace::Health { _place: self.health_watches.take(line)? }));
        }
        if !form.is_other_stream {
            return Ok(None);
        }
        let why = "too many streams are open: close some, or try again (max_watches)";
        let permit = self.other_streams.clone().try_acquire_owned().map_err(|_| why)?;
        Ok(Some(StreamPlace::Other { _permit: permit }))
    }
}

impl<S> Layer<S> for CallsLayer {
    type Service = Accounted<S>;

    fn layer(&self, inner: S) -> Accounted<S> {
        Accounted { inner, office: self.clone() }
    }
}

/// A service whose calls have accounts.
#[derive(Clone)]
pub(in crate::serve) struct Accounted<S> {
    inner: S,
    office: CallsLayer,
}

impl<S> Service<Request<Body>> for Accounted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future =
        Either<Ready<Result<Response<Body>, S::Error>>, future::BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let CallsLayer { ledger, methods, .. } = &self.office;
        let line = request.extensions().get::<Arc<Line>>();
        let Some(call) = ledger.begin(line) else {
            return refuse(no_place());
        };
        let form = methods.form(request.uri().path());
        let place = match self.office.stream_place(form, line) {
            Ok(place) => place,
            Err(why) => return refuse(Problem::overloaded(why, RETRY)),
        };
        let mut request = request;
        shed(request.headers_mut());
        let arriving = call.clone();
        let request = request.map(|body| Body::new(Arriving::new(body, arriving, form.many_requests)));
        let answered = self.inner.call(request).map_ok(move |response| {
            response.map(|body| Body::new(Leaving::new(body, call, form.is_read_at_leisure, place)))
        });
        Either::Right(Box::pin(answered))
    }
}

/// Headers that most calls have. With more, those that nobody reads are dropped: small ones cost the most memory, three
/// times what they are on the wire, and a call can last.
const FEW_HEADERS: usize = 16;

fn shed(headers: &mut HeaderMap) {
    if headers.len() > FEW_HEADERS {
        let read =
            |name: &HeaderName| name.as_str().starts_with("grpc-") || [CONTENT_TYPE, TE, AUTHORIZATION].contains(name);
        let kept = headers.iter().filter(|(name, _)| read(name)).map(|(name, value)| (name.clone(), value.clone()));
        *headers = kept.collect();
    }
}

fn refuse<F, E>(problem: Problem) -> Either<Ready<Result<Response<Body>, E>>, F> {
    Either::Left(future::ready(Ok(Status::from(problem).into_http())))
}
