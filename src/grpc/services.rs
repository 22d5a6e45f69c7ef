//! [`Services`]: finds the service of a call, and completes its response.

use std::{
    convert::Infallible,
    future::{self, Future},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use super::{call_notes::CallNotes, framed_stream, handler_body::HandlerBody, transport_errors};

/// The future that generated services return.
type GeneratedFuture = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// A service that takes requests with bodies of type `B`.
pub(super) trait GrpcService<B>: Send + Sync {
    /// Handles a call.
    fn call(&self, request: Request<B>) -> ResponseFuture;
}

/// A service made by the generated code.
struct GeneratedService<S>(S);

impl<B, S> GrpcService<B> for GeneratedService<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = GeneratedFuture>
        + Clone
        + Send
        + Sync,
{
    fn call(&self, request: Request<B>) -> ResponseFuture {
        // Generated services are always ready, and cheap to clone.
        ResponseFuture::from_generated(self.0.clone().call(request))
    }
}

/// The services of one server, by name.
pub struct Services<B>(Vec<(&'static str, Box<dyn GrpcService<B>>)>);

impl<B> Default for Services<B> {
    fn default() -> Self {
        Services(Vec::new())
    }
}

impl<B> Services<B> {
    /// Adds a service of the generated code. Services are searched in the order in which they were added.
    #[must_use]
    pub fn with<S>(self, service: S) -> Self
    where
        S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = GeneratedFuture>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.with_any(S::NAME, GeneratedService(service))
    }

    /// Adds any service.
    #[must_use]
    pub(super) fn with_any(mut self, name: &'static str, service: impl GrpcService<B> + 'static) -> Self {
        self.0.push((name, Box::new(service)));
        self
    }

    /// Hands a call to its service. Unknown services are answered with `UNIMPLEMENTED`, like unknown methods.
    pub fn call(&self, request: Request<B>) -> ResponseFuture {
        let path = request.uri().path();
        let name = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(name, _)| name);
        match self.0.iter().find(|(known, _)| name == Some(known)) {
            Some((_, service)) => service.call(request),
            None => ResponseFuture::refused(Status::unimplemented("")),
        }
    }
}

/// A call's future. Its response has one `ErrorInfo` if it is an error, and framed messages as its body if it has any.
pub struct ResponseFuture(FutureKind);

enum FutureKind {
    Generated(GeneratedFuture),
    Own(BoxFuture<'static, Response<HandlerBody>>),
}

impl ResponseFuture {
    /// A call that the generated code handles.
    pub(super) fn from_generated(answer: GeneratedFuture) -> Self {
        ResponseFuture(FutureKind::Generated(answer))
    }

    /// A call that is handled without it.
    pub(super) fn from_future(answer: impl Future<Output = Response<HandlerBody>> + Send + 'static) -> Self {
        ResponseFuture(FutureKind::Own(Box::pin(answer)))
    }

    /// The response to a call that reaches no handler.
    pub fn refused(status: impl Into<Status>) -> Self {
        ResponseFuture::from_future(future::ready(status.into().into_http()))
    }

    /// The same call, whose handler finds these notes.
    #[must_use]
    pub fn with_notes(self, notes: Arc<CallNotes>) -> Self {
        ResponseFuture::from_future(CallNotes::scope(notes, self))
    }
}

impl Future for ResponseFuture {
    type Output = Response<HandlerBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<HandlerBody>> {
        let response = match &mut self.0 {
            FutureKind::Generated(answer) => match ready!(answer.as_mut().poll(cx)) {
                Ok(response) => framed_stream::use_framed_body(response).map(HandlerBody::Generated),
                Err(never) => match never {},
            },
            FutureKind::Own(answer) => ready!(answer.as_mut().poll(cx)),
        };
        Poll::Ready(transport_errors::complete_response(response))
    }
}
