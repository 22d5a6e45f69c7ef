//! `Session`: a worker's calls over one stream. Each is handled exactly like the unary call.
//!
//! Items are parsed and submitted as they are read, so they are judged in the order in which they were sent. While an item
//! is in flight only what its answer needs is kept. Reading stops while `max_calls` items are in flight or the client does
//! not read its answers, so a stream's memory is bounded.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};

use crate::{
    domain::{
        command::Answer,
        time::{Span, Timestamp},
    },
    proto::{
        self, SessionResponse,
        codec::{MESSAGE_BUFFER, STREAM_BUFFER, STREAM_PIECE},
        session_request::Call,
        session_response::Result as Outcome,
    },
    store::{PendingAnswer, StoreError},
};

use super::{
    call_notes::CallNotes,
    call_tracker::{SessionCallTracker, TrackedCall},
    caller::AuthenticatedCaller,
    deadline,
    framed_stream::put_framed,
    handler_context::{HandlerContext, SubmittedChange, claim_within},
    keep_alive,
    parse::{self, ChangeRequest, session::SessionItem},
    problem::Problem,
    streams::{self, ResponseStream, StreamEnd, StreamLimiter},
    transport_errors,
};

const RPC: &str = "Session";
/// After this many items in a row the stream checks whether it has to end.
const END_CHECK_INTERVAL: u32 = 64;

/// Answers each item, with at most `max_calls` in flight. Items that were read before `stop` are still answered.
pub(super) fn answers(
    context: &HandlerContext,
    request: Request<Streaming<proto::SessionRequest>>,
    limiter: &StreamLimiter,
    max_calls: usize,
    stop: &CancellationToken,
) -> Result<ResponseStream<Bytes>, Problem> {
    let timeout = deadline::call_timeout(request.metadata().as_ref());
    let tracker = request.extensions().get::<SessionCallTracker>().cloned();
    let (caller, items) = context.authenticate(RPC, request)?;
    let open = || {
        caller.authorize(RPC, true)?;
        let now = context.slot().get()?.moment().now;
        Ok((limiter.take(&caller)?, timeout.map(|timeout| now.plus(timeout))))
    };
    let (permit, deadline) = open().inspect_err(|problem| context.log_refused(&caller, RPC, "", problem))?;
    tracing::debug!(rpc = RPC, "opened");
    let end = StreamEnd::new(stop, &caller, RPC);
    let session = SessionStream {
        context: context.clone(),
        caller,
        tracker,
        deadline,
        max_calls,
        items: Some(items),
        read_error: None,
        end: end.clone().wait().boxed(),
        items_since_end_check: 0,
        pending: FuturesUnordered::new(),
        answers: BytesMut::new(),
    };
    Ok(streams::limited_stream(session, permit, end))
}

/// The stream of a session's answers.
struct SessionStream {
    context: HandlerContext,
    caller: AuthenticatedCaller,
    tracker: Option<SessionCallTracker>,
    /// The stream's deadline, as its client sent it.
    deadline: Option<Timestamp>,
    max_calls: usize,
    /// None: nothing more is read.
    items: Option<Streaming<proto::SessionRequest>>,
    /// The error that ended reading; sent after all items before it are answered.
    read_error: Option<Status>,
    /// Ready when the stream has to end early.
    end: BoxFuture<'static, ()>,
    /// Items read since `end` was last polled.
    items_since_end_check: u32,
    pending: FuturesUnordered<PendingItem>,
    /// Framed answers that have not been returned yet.
    answers: BytesMut,
}

impl Stream for SessionStream {
    /// Framed answers: as many as there are, up to a bound.
    type Item = Result<Bytes, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut advanced = Poll::Ready(Some(()));
        while advanced == Poll::Ready(Some(())) && this.answers.len() < STREAM_PIECE {
            advanced = this.advance(cx);
        }
        if !this.answers.is_empty() {
            return Poll::Ready(Some(Ok(this.answers.split().freeze())));
        }
        ready!(advanced);
        Poll::Ready(this.read_error.take().map(Err))
    }
}

impl SessionStream {
    /// Handles one answer or one item. None: all items are answered and no more come.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        // Answers first: they make room for more items.
        if let Poll::Ready(Some(done)) = self.pending.poll_next_unpin(cx) {
            self.answer(done);
        } else if self.items.is_none() {
            return if self.pending.is_empty() { Poll::Ready(None) } else { Poll::Pending };
        } else if self.pending.len() >= self.max_calls {
            ready!(self.poll_end(cx));
        } else {
            match self.poll_item(cx) {
                Poll::Ready(Some(item)) => self.begin(item),
                Poll::Ready(None) => self.items = None,
                Poll::Pending => ready!(self.poll_end(cx)),
            }
        }
        Poll::Ready(Some(()))
    }

    /// The next item; none if there are no more.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<proto::SessionRequest>> {
        let Some(items) = &mut self.items else { return Poll::Ready(None) };
        if self.items_since_end_check >= END_CHECK_INTERVAL {
            self.items_since_end_check = 0;
            if self.end.poll_unpin(cx).is_ready() {
                self.stop_reading();
                return Poll::Ready(None);
            }
        }
        self.items_since_end_check += 1;
        items.poll_next_unpin(cx).map(|item| match item? {
            Ok(item) => Some(item),
            Err(status) => {
                self.read_error = Some(transport_errors::complete_status(&status));
                None
            }
        })
    }

    /// Ready when the stream has to end; then nothing more is read.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.items_since_end_check = 0;
        ready!(self.end.poll_unpin(cx));
        self.stop_reading();
        Poll::Ready(())
    }

    fn stop_reading(&mut self) {
        self.items = None;
        // One of its calls may be held. If the caller was revoked it must not get a lease any more.
        if let Ok(store) = self.context.slot().get() {
            store.caller_revoked();
        }
    }

    /// Submits an item, or answers it if it is refused at once.
    fn begin(&mut self, item: proto::SessionRequest) {
        let call_id = item.call_id;
        let SessionItem { call, timeout } = match parse::session::item(item) {
            Ok(item) => item,
            Err(violations) => {
                let problem = Problem::from(violations);
                self.context.log_refused(&self.caller, RPC, "", &problem);
                return self.push_answer(call_id, Err(problem));
            }
        };
        let kind = CallKind::of(&call);
        let tracked = match &self.tracker {
            None => None,
            Some(SessionCallTracker(tracker)) => match tracker.begin(kind.path(), request_bytes(&call)) {
                Ok(tracked) => Some(tracked),
                Err(problem) => return self.push_answer(call_id, Err(problem)),
            },
        };
        let is_timed = self.deadline.is_some() || kind == CallKind::ClaimNext;
        let arrived = if is_timed { self.context.now() } else { None };
        let left = arrived.zip(self.deadline).map(|(now, deadline)| deadline.since(now));
        let timeout = timeout.into_iter().chain(left).min();
        let submit = || self.submit(call, timeout);
        let begun = match tracked.as_ref().and_then(|tracked| tracked.notes()) {
            None => submit(),
            Some(notes) => CallNotes::sync_scope(notes, submit),
        };
        match begun {
            Ok(SubmittedChange { subject, answer }) => {
                self.pending
                    .push(PendingItem { item: Some(ItemContext { call_id, kind, arrived, subject, tracked }), answer });
            }
            Err(problem) => self.end(call_id, tracked, Err(problem)),
        }
    }

    fn submit(&self, call: Call, timeout: Option<Span>) -> Result<SubmittedChange, Problem> {
        match call {
            Call::Claim(message) => self.submit_change(message),
            Call::ClaimNext(message) => {
                let parsed = claim_within(message, self.caller.principal_name(), timeout);
                self.context.begin(proto::ClaimNextRequest::RPC, &self.caller, parsed)
            }
            Call::Heartbeat(message) => self.submit_change(message),
            Call::Release(message) => self.submit_change(message),
            Call::RegisterCompensation(message) => self.submit_change(message),
            Call::Complete(message) => self.submit_change(message),
            Call::Fail(message) => self.submit_change(message),
            Call::RecordCompensation(message) => self.submit_change(message),
            Call::Compensate(message) => self.submit_change(message),
        }
    }

    fn submit_change<M: ChangeRequest>(&self, message: M) -> Result<SubmittedChange, Problem> {
        self.context.begin(M::RPC, &self.caller, parse::request_from(message, self.caller.principal_name()))
    }

    /// Answers an item that the writer has handled.
    fn answer(&mut self, (item, outcome): (ItemContext, Result<Answer, StoreError>)) {
        let ItemContext { call_id, kind, arrived, subject, tracked } = item;
        let answer = self.context.conclude(kind.rpc(), &self.caller, &subject, outcome);
        let result = answer.and_then(|answer| self.render(kind, arrived, answer));
        self.end(call_id, tracked, result);
    }

    /// An item is done.
    fn end(&mut self, call_id: i64, tracked: Option<Box<dyn TrackedCall>>, result: Result<Outcome, Problem>) {
        if let Some(tracked) = tracked {
            tracked.end(result.as_ref().map_or_else(|problem| problem.code, |_| Code::Ok));
        }
        self.push_answer(call_id, result);
    }

    fn push_answer(&mut self, call_id: i64, result: Result<Outcome, Problem>) {
        let result = result.unwrap_or_else(|problem| Outcome::Error(problem.into()));
        if self.answers.capacity() < MESSAGE_BUFFER {
            self.answers.reserve(STREAM_BUFFER);
        }
        put_framed(&mut self.answers, &SessionResponse { call_id, result: Some(result) });
    }

    fn render(&self, kind: CallKind, arrived: Option<Timestamp>, answer: Answer) -> Result<Outcome, Problem> {
        let saga = |answer| self.context.saga_of(kind.rpc(), answer);
        Ok(match kind {
            CallKind::Claim => Outcome::Claim(proto::ClaimResponse { saga: saga(answer)? }),
            CallKind::ClaimNext => Outcome::ClaimNext(self.context.claim_next_response(arrived, answer)?),
            CallKind::Heartbeat => {
                Outcome::Heartbeat(keep_alive::heartbeat(self.context.renewed_lease(kind.rpc(), answer)?))
            }
            CallKind::Release => Outcome::Release(proto::ReleaseResponse { saga: saga(answer)? }),
            CallKind::RegisterCompensation => {
                Outcome::RegisterCompensation(proto::RegisterCompensationResponse { saga: saga(answer)? })
            }
            CallKind::Complete => Outcome::Complete(proto::CompleteResponse { saga: saga(answer)? }),
            CallKind::Fail => Outcome::Fail(proto::FailResponse { saga: saga(answer)? }),
            CallKind::RecordCompensation => {
                Outcome::RecordCompensation(proto::RecordCompensationResponse { saga: saga(answer)? })
            }
            CallKind::Compensate => Outcome::Compensate(proto::CompensateResponse { saga: saga(answer)? }),
        })
    }
}

/// The future of an item in flight.
struct PendingItem {
    /// Taken when it is done.
    item: Option<ItemContext>,
    answer: PendingAnswer,
}

/// What an item's answer needs.
struct ItemContext {
    call_id: i64,
    kind: CallKind,
    /// Only for calls that need it. None also if the store was not open.
    arrived: Option<Timestamp>,
    /// Its subject, for the log.
    subject: Box<str>,
    tracked: Option<Box<dyn TrackedCall>>,
}

impl Future for PendingItem {
    type Output = (ItemContext, Result<Answer, StoreError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.answer).poll(cx));
        let item = self.item.take().expect("a future is not polled once it was ready");
        Poll::Ready((item, outcome))
    }
}

macro_rules! call_kinds {
    ($($kind:ident)*) => {
        /// Which call an item is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum CallKind {
            $($kind,)*
        }

        impl CallKind {
            fn of(call: &Call) -> Self {
                match call {
                    $(Call::$kind(_) => CallKind::$kind,)*
                }
            }

            fn rpc(self) -> &'static str {
                match self {
                    $(CallKind::$kind => stringify!($kind),)*
                }
            }

            /// The path of the unary call.
            fn path(self) -> &'static str {
                match self {
                    $(CallKind::$kind => concat!("/sagad.v1.SagaService/", stringify!($kind)),)*
                }
            }
        }

        /// The length of the encoded request.
        fn request_bytes(call: &Call) -> usize {
            match call {
                $(Call::$kind(message) => message.encoded_len(),)*
            }
        }
    };
}

call_kinds!(Claim ClaimNext Heartbeat Release RegisterCompensation Complete Fail RecordCompensation Compensate);
