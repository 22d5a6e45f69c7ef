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

use super::{answer_body::AnswerBody, edge, frames, notes::Notes};

/// The future that generated services return.
type LibraryAnswer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// A service that takes requests with bodies of type `B`.
pub(super) trait AnyService<B>: Send + Sync {
    /// Handles a call.
    fn call(&self, request: Request<B>) -> Answering;
}

/// A service made by the generated code.
struct Generated<S>(S);

impl<B, S> AnyService<B> for Generated<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = LibraryAnswer> + Clone + Send + Sync,
{
    fn call(&self, request: Request<B>) -> Answering {
        // Generated services are always ready, and cheap to clone.
        Answering::of_library(self.0.clone().call(request))
    }
}

/// The services of one server, by name.
pub struct Services<B>(Vec<(&'static str, Box<dyn AnyService<B>>)>);

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
        S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = LibraryAnswer>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.with_any(S::NAME, Generated(service))
    }

    /// Adds any service.
    #[must_use]
    pub(super) fn with_any(mut self, name: &'static str, service: impl AnyService<B> + 'static) -> Self {
        self.0.push((name, Box::new(service)));
        self
    }

    /// Hands a call to its service. Unknown services are answered with `UNIMPLEMENTED`, like unknown methods.
    pub fn call(&self, request: Request<B>) -> Answering {
        let path = request.uri().path();
        let name = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(name, _)| name);
        match self.0.iter().find(|(known, _)| name == Some(known)) {
            Some((_, service)) => service.call(request),
            None => Answering::refused(Status::unimplemented("")),
        }
    }
}

/// A call's future. Its response has one `ErrorInfo` if it is an error, and framed messages as its body if it has any.
pub struct Answering(Kind);

enum Kind {
    Library(LibraryAnswer),
    Own(BoxFuture<'static, Response<AnswerBody>>),
}

impl Answering {
    /// A call that the generated code handles.
    pub(super) fn of_library(answer: LibraryAnswer) -> Self {
        Answering(Kind::Library(answer))
    }

    /// A call that is handled without it.
    pub(super) fn of_unary(answer: impl Future<Output = Response<AnswerBody>> + Send + 'static) -> Self {
        Answering(Kind::Own(Box::pin(answer)))
    }

    /// The response to a call that reaches no handler.
    pub fn refused(status: impl Into<Status>) -> Self {
        Answering::of_unary(future::ready(status.into().into_http()))
    }

    /// The same call, whose handler finds these notes.
    #[must_use]
    pub fn noted_in(self, notes: Arc<Notes>) -> Self {
        Answering::of_unary(Notes::taken_in(notes, self))
    }
}

impl Future for Answering {
    type Output = Response<AnswerBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<AnswerBody>> {
        let response = match &mut self.0 {
            Kind::Library(answer) => match ready!(answer.as_mut().poll(cx)) {
                Ok(response) => frames::with_frames(response).map(AnswerBody::Library),
                Err(never) => match never {},
            },
            Kind::Own(answer) => ready!(answer.as_mut().poll(cx)),
        };
        Poll::Ready(edge::complete_response(response))
    }
}
