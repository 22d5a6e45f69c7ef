//! [`Services`]: finds the service that a call is for, and completes its answer.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use super::{edge, frames, notes::Notes};

/// What the generated code answers with.
type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// A service of the generated code.
trait AnyService<B>: Send + Sync {
    fn call(&self, request: Request<B>) -> Answer;
}

impl<B, S> AnyService<B> for S
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = Answer> + Clone + Send + Sync,
{
    fn call(&self, request: Request<B>) -> Answer {
        // The generated services are always ready, and cheap to clone.
        Service::call(&mut self.clone(), request)
    }
}

/// The services of one server, by name. They take requests with bodies of type `B`.
pub struct Services<B>(Vec<(&'static str, Box<dyn AnyService<B>>)>);

impl<B> Default for Services<B> {
    fn default() -> Self {
        Services(Vec::new())
    }
}

impl<B> Services<B> {
    /// Adds a service. The first ones are found fastest.
    #[must_use]
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<B>, Response = Response<Body>, Error = Infallible, Future = Answer>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.0.push((S::NAME, Box::new(service)));
        self
    }

    /// Hands a call to its service. Unknown services are answered with `UNIMPLEMENTED`, as unknown methods are.
    pub fn call(&self, request: Request<B>) -> Answering {
        let path = request.uri().path();
        let name = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(name, _)| name);
        match self.0.iter().find(|(known, _)| name == Some(known)) {
            Some((_, service)) => Answering(service.call(request)),
            None => Answering::refused(Status::unimplemented("")),
        }
    }
}

/// A call on its way to its answer: every error in it has one `ErrorInfo`, and frames are its body.
pub struct Answering(Answer);

impl Answering {
    /// The answer to a call that no handler gets to see.
    pub fn refused(status: impl Into<Status>) -> Self {
        Answering(Box::pin(ready(Ok(status.into().into_http()))))
    }

    /// The same call, whose handler finds these notes.
    #[must_use]
    pub fn noted_in(self, notes: Arc<Notes>) -> Self {
        Answering(Box::pin(Notes::taken_in(notes, self.0)))
    }
}

impl Future for Answering {
    type Output = Response<Body>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        self.0.as_mut().poll(cx).map(|answer| match answer {
            Ok(response) => edge::complete_response(frames::with_frames(response)),
            Err(never) => match never {},
        })
    }
}
