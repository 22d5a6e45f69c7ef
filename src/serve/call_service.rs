//! [`CallService`]: everything between a connection and a handler, in one `hyper` service instead of a stack of layers.
//!
//! In this order: metrics, log and trace of the call begin (`observe`); it gets a permit of the call limiter, and a stream
//! one of its own (`calls`); shutdown waits for it from here on; the caller is authenticated (`auth`); the handler runs. A
//! refusal by any of these is an answer like others and is observed like them. The call's deadline (`grpc-timeout`) covers
//! all of it.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    HeaderMap, HeaderName, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, TE},
};
use hyper::{body::Incoming, service::Service};
use tokio::time::{Sleep, sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use super::{
    auth::CallerCheck,
    calls::{
        CallPermit, LibraryStreamLimiter, LibraryStreamPermit, MethodProperties, MethodTable, RequestBody,
        ResponseBody, SESSION, no_slot,
    },
    observe::ObservedCall,
    session_trackers::SessionTrackers,
};
use crate::{
    grpc::{HandlerBody, ResponseFuture, Services, call_timeout, problem::Problem},
    listen::ConnectionState,
};

/// What the calls of all connections share.
pub(super) struct CallContext {
    /// Observer, call limiter and shutdown tracker, which items of a `Session` pass, too.
    pub(super) trackers: SessionTrackers,
    pub(super) methods: MethodTable,
    pub(super) library_streams: LibraryStreamLimiter,
    pub(super) caller_check: CallerCheck,
    pub(super) services: Services<RequestBody>,
}

/// The `hyper` service of one connection.
pub(super) struct CallService {
    pub(super) context: Arc<CallContext>,
    pub(super) connection: Arc<ConnectionState>,
}

impl Service<Request<Incoming>> for CallService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = RunningCall;

    fn call(&self, request: Request<Incoming>) -> RunningCall {
        let CallContext { trackers, methods, .. } = &*self.context;
        let path = request.uri().path();
        let observed = ObservedCall::of(&trackers.observer, path, request.headers(), Some(self.connection.peer()));
        let method = methods.properties(path);
        let timeout = call_timeout(request.headers());
        let mut running = RunningCall {
            response: None,
            timeout: timeout.map(|timeout| Box::pin(sleep(timeout.to_std()))),
            observed,
            call: None,
            reads_slowly: method.may_be_read_slowly,
            stream_permit: None,
            drain_token: None,
        };
        let response = match self.begin(request, &mut running, method) {
            Ok(response) => match running.observed.as_ref().and_then(ObservedCall::notes) {
                None => response,
                Some(notes) => response.with_notes(notes),
            },
            Err(problem) => ResponseFuture::refused(problem),
        };
        RunningCall { response: Some(response), ..running }
    }
}

impl CallService {
    /// Takes a call up to its handler.
    fn begin(
        &self,
        request: Request<Incoming>,
        running: &mut RunningCall,
        method: MethodProperties,
    ) -> Result<ResponseFuture, Problem> {
        let CallContext { trackers, library_streams, caller_check, services, .. } = &*self.context;
        let call = trackers.limiter.begin(Some(&self.connection)).ok_or_else(no_slot)?;
        running.call = Some(call.clone());
        running.stream_permit = library_streams.permit(method, &self.connection)?;
        let mut request = request.map(|body| RequestBody::new(body, call, method.client_streaming));
        drop_unread_headers(request.headers_mut());
        if request.uri().path() == SESSION {
            let tracker = trackers.tracker(request.headers(), &self.connection);
            request.extensions_mut().insert(tracker);
        }
        running.drain_token = Some(trackers.calls.token());
        caller_check.authenticate(&mut request, &self.connection)?;
        Ok(services.call(request))
    }
}

/// A call until the headers of its response.
pub(super) struct RunningCall {
    /// None once the response is ready.
    response: Option<ResponseFuture>,
    timeout: Option<Pin<Box<Sleep>>>,
    observed: Option<ObservedCall>,
    call: Option<Arc<CallPermit>>,
    reads_slowly: bool,
    stream_permit: Option<LibraryStreamPermit>,
    /// Held until the response is ready: shutdown waits for it. For a stream that is its start; items of a session are
    /// counted one by one.
    drain_token: Option<TaskTrackerToken>,
}

impl RunningCall {
    fn answered(&mut self, response: Response<HandlerBody>) -> Response<ResponseBody> {
        self.response = None;
        self.drain_token = None;
        if let Some(observed) = &mut self.observed {
            // A refusal has its status in the headers, and often no body of which anybody reads the trailers.
            observed.observe_status(response.headers());
        }
        let (observed, call, _permit) = (self.observed.take(), self.call.take(), self.stream_permit.take());
        response.map(|inner| ResponseBody { inner, call, reads_slowly: self.reads_slowly, observed, _permit })
    }

    /// The call's deadline has passed.
    fn timed_out(&mut self) -> Response<ResponseBody> {
        // Dropped without a status, it is recorded as cancelled.
        self.observed = None;
        self.call = None;
        self.stream_permit = None;
        self.answered(Status::cancelled("Timeout expired").into_http())
    }
}

impl Future for RunningCall {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(response) = &mut this.response else { return Poll::Pending };
        if let Poll::Ready(response) = Pin::new(response).poll(cx) {
            return Poll::Ready(Ok(this.answered(response)));
        }
        let is_over = this.timeout.as_mut().is_some_and(|timeout| timeout.as_mut().poll(cx).is_ready());
        if is_over { Poll::Ready(Ok(this.timed_out())) } else { Poll::Pending }
    }
}

/// The number of headers of most calls. If there are more, those that nobody reads are dropped: small headers take three
/// times their size on the wire in memory, and a call can last.
const FEW_HEADERS: usize = 16;

fn drop_unread_headers(headers: &mut HeaderMap) {
    if headers.len() > FEW_HEADERS {
        let read =
            |name: &HeaderName| name.as_str().starts_with("grpc-") || [CONTENT_TYPE, TE, AUTHORIZATION].contains(name);
        let kept = headers.iter().filter(|(name, _)| read(name)).map(|(name, value)| (name.clone(), value.clone()));
        *headers = kept.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are moved several times per call, and stay in the call's task as long as it runs.
    #[test]
    fn calls_and_their_bodies_are_small() {
        assert_eq!([size_of::<RunningCall>(), size_of::<RequestBody>(), size_of::<ResponseBody>()], [136, 112, 136]);
    }
}
