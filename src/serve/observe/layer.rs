//! The layer that looks at each call.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::{BoxFuture, Either};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::{body::Observed, call::Call, meters::Meters};
use crate::{clock::Clock, grpc::Notes, serve::trace::Tracer};

/// Looks at all calls of a server.
#[derive(Clone)]
pub(in crate::serve) struct ObserveLayer {
    /// Where they are counted, if they are.
    pub(in crate::serve) meters: Option<Arc<Meters>>,
    /// What takes spans, if there is such a one.
    pub(in crate::serve) tracer: Option<Tracer>,
    /// What tells how long they take.
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, layer: self.clone() }
    }
}

/// A service whose calls are looked at.
#[derive(Clone)]
pub(in crate::serve) struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + Unpin + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Observing<S::Future, Response<Body>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::begin(&self.layer, &request);
        let notes = call.as_ref().and_then(Call::notes);
        let inner = match notes {
            None => Either::Left(self.inner.call(request)),
            Some(notes) => {
                Either::Right(Box::pin(Notes::taken_in(notes, self.inner.call(request))) as BoxFuture<'_, _>)
            }
        };
        Observing { inner, call }
    }
}

/// A call on its way to its answer's headers.
pub(in crate::serve) struct Observing<F, T, E> {
    inner: Either<F, BoxFuture<'static, Result<T, E>>>,
    call: Option<Call>,
}

impl<F, E> Future for Observing<F, Response<Body>, E>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let answered = ready!(Pin::new(&mut this.inner).poll(cx));
        let Some(mut call) = this.call.take() else { return Poll::Ready(answered) };
        Poll::Ready(answered.map(|response| {
            // A refusal has its end in the headers, and often no body that anyone would ask for trailers.
            call.look_at(response.headers());
            response.map(|inner| Body::new(Observed { inner, call }))
        }))
    }
}
