//! `Session`: a worker's calls over one stream, each exactly as by itself.
//!
//! An item is parsed and handed to the writer as it is read, so items are judged in the order in which they were sent. Of one
//! that is under way, only what its answer needs is kept. Nothing more is read while the bound of such items is reached, nor
//! while the client does not take answers, so a stream holds no more than that.

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
    caller::Visitor,
    counted::{CountedCall, SessionCounter},
    deadline,
    desk::{Begun, Desk, claim_within},
    edge,
    frames::put_frame,
    keep_alive,
    notes::Notes,
    parse::{self, Change, session::SessionItem},
    status::Problem,
    streams::{self, Answers, End, Seats},
};

const RPC: &str = "Session";
/// After so many items without a pause it is looked whether the stream is to end.
const LOOK_AFTER: u32 = 64;

/// Answers each item, up to `max_calls` of them under way at a time. What was taken up before `stop` is still answered.
pub(super) fn answers(
    desk: &Desk,
    request: Request<Streaming<proto::SessionRequest>>,
    seats: &Seats,
    max_calls: usize,
    stop: &CancellationToken,
) -> Result<Answers<Bytes>, Problem> {
    let timeout = deadline::call_timeout(request.metadata().as_ref());
    let counter = request.extensions().get::<SessionCounter>().cloned();
    let (visitor, items) = desk.open(RPC, request)?;
    let open = || {
        visitor.permit(RPC, true)?;
        let now = desk.slot().get()?.read_time().now;
        Ok((seats.take(&visitor)?, timeout.map(|timeout| now.plus(timeout))))
    };
    let (seat, deadline) = open().inspect_err(|problem| desk.refused(&visitor, RPC, "", problem))?;
    tracing::debug!(rpc = RPC, "opened");
    let end = End::new(stop, &visitor, RPC);
    let session = Session {
        desk: desk.clone(),
        visitor,
        counter,
        deadline,
        max_calls,
        items: Some(items),
        broken: None,
        end: end.clone().comes().boxed(),
        unlooked: 0,
        pending: FuturesUnordered::new(),
        answers: BytesMut::new(),
    };
    Ok(streams::answers(session, seat, end))
}

/// One stream: its items in, their answers out.
struct Session {
    desk: Desk,
    visitor: Visitor,
    counter: Option<SessionCounter>,
    /// When the client gives the stream up.
    deadline: Option<Timestamp>,
    max_calls: usize,
    /// None: nothing more is read.
    items: Option<Streaming<proto::SessionRequest>>,
    /// Why nothing more can be read; told when all before it is answered.
    broken: Option<Status>,
    /// Ready when the stream is to end before its time.
    end: BoxFuture<'static, ()>,
    /// Items since it was last looked at that.
    unlooked: u32,
    pending: FuturesUnordered<Pending>,
    /// Answers in their frames that are not handed out yet.
    answers: BytesMut,
}

impl Stream for Session {
    /// Answers in their frames: as many as there are, up to a bound.
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
        Poll::Ready(this.broken.take().map(Err))
    }
}

impl Session {
    /// Goes on by an answer or an item; none: all is answered, and nothing more comes.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        // What is done makes room before more is taken up.
        if let Poll::Ready(Some(done)) = self.pending.poll_next_unpin(cx) {
            self.answer(done);
        } else if self.items.is_none() {
            return if self.pending.is_empty() { Poll::Ready(None) } else { Poll::Pending };
        } else if self.pending.len() >= self.max_calls {
            ready!(self.look_for_end(cx));
        } else {
            match self.poll_item(cx) {
                Poll::Ready(Some(item)) => self.begin(item),
                Poll::Ready(None) => self.items = None,
                Poll::Pending => ready!(self.look_for_end(cx)),
            }
        }
        Poll::Ready(Some(()))
    }

    /// The next item; none: there is no more.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<proto::SessionRequest>> {
        let Some(items) = &mut self.items else { return Poll::Ready(None) };
        if self.unlooked >= LOOK_AFTER {
            self.unlooked = 0;
            if self.end.poll_unpin(cx).is_ready() {
                self.stop_reading();
                return Poll::Ready(None);
            }
        }
        self.unlooked += 1;
        items.poll_next_unpin(cx).map(|item| match item? {
            Ok(item) => Some(item),
            Err(status) => {
                self.broken = Some(edge::complete(&status));
                None
            }
        })
    }

    /// Ready when the stream is to end: then nothing more is read.
    fn look_for_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unlooked = 0;
        ready!(self.end.poll_unpin(cx));
        self.stop_reading();
        Poll::Ready(())
    }

    fn stop_reading(&mut self) {
        self.items = None;
        // A call of it may be held, for a caller who is not to be given anything any more.
        if let Ok(store) = self.desk.slot().get() {
            store.caller_revoked();
        }
    }

    /// Takes up an item, or answers it, if it is refused at once.
    fn begin(&mut self, item: proto::SessionRequest) {
        let call_id = item.call_id;
        let SessionItem { call, timeout } = match parse::session::item(item) {
            Ok(item) => item,
            Err(violations) => {
                let problem = Problem::from(violations);
                self.desk.refused(&self.visitor, RPC, "", &problem);
                return self.put(call_id, Err(problem));
            }
        };
        let kind = Kind::of(&call);
        let counted = match &self.counter {
            None => None,
            Some(SessionCounter(counter)) => match counter.begin(kind.path(), length(&call)) {
                Ok(counted) => Some(counted),
                Err(problem) => return self.put(call_id, Err(problem)),
            },
        };
        let is_timed = self.deadline.is_some() || kind == Kind::ClaimNext;
        let arrived = if is_timed { self.desk.now() } else { None };
        let left = arrived.zip(self.deadline).map(|(now, deadline)| deadline.since(now));
        let timeout = timeout.into_iter().chain(left).min();
        let submit = || self.submit(call, timeout);
        let begun = match counted.as_ref().and_then(|counted| counted.notes()) {
            None => submit(),
            Some(notes) => Notes::noting(notes, submit),
        };
        match begun {
            Ok(Begun { subject, answer }) => {
                self.pending.push(Pending { item: Some(Item { call_id, kind, arrived, subject, counted }), answer });
            }
            Err(problem) => self.end(call_id, counted, Err(problem)),
        }
    }

    fn submit(&self, call: Call, timeout: Option<Span>) -> Result<Begun, Problem> {
        match call {
            Call::Claim(message) => self.hand_over(message),
            Call::ClaimNext(message) => {
                let parsed = claim_within(message, self.visitor.name(), timeout);
                self.desk.begin(proto::ClaimNextRequest::RPC, &self.visitor, parsed)
            }
            Call::Heartbeat(message) => self.hand_over(message),
            Call::Release(message) => self.hand_over(message),
            Call::RegisterCompensation(message) => self.hand_over(message),
            Call::Complete(message) => self.hand_over(message),
            Call::Fail(message) => self.hand_over(message),
            Call::RecordCompensation(message) => self.hand_over(message),
            Call::Compensate(message) => self.hand_over(message),
        }
    }

    fn hand_over<M: Change>(&self, message: M) -> Result<Begun, Problem> {
        self.desk.begin(M::RPC, &self.visitor, parse::request_of(message, self.visitor.name()))
    }

    /// Answers an item that the writer is done with.
    fn answer(&mut self, (item, outcome): (Item, Result<Answer, StoreError>)) {
        let Item { call_id, kind, arrived, subject, counted } = item;
        let answer = self.desk.conclude(kind.rpc(), &self.visitor, &subject, outcome);
        let result = answer.and_then(|answer| self.render(kind, arrived, answer));
        self.end(call_id, counted, result);
    }

    /// An item is done.
    fn end(&mut self, call_id: i64, counted: Option<Box<dyn CountedCall>>, result: Result<Outcome, Problem>) {
        if let Some(counted) = counted {
            counted.end(result.as_ref().map_or_else(|problem| problem.code, |_| Code::Ok));
        }
        self.put(call_id, result);
    }

    fn put(&mut self, call_id: i64, result: Result<Outcome, Problem>) {
        let result = result.unwrap_or_else(|problem| Outcome::Error(problem.into()));
        if self.answers.capacity() < MESSAGE_BUFFER {
            self.answers.reserve(STREAM_BUFFER);
        }
        put_frame(&mut self.answers, &SessionResponse { call_id, result: Some(result) });
    }

    fn render(&self, kind: Kind, arrived: Option<Timestamp>, answer: Answer) -> Result<Outcome, Problem> {
        let saga = |answer| self.desk.saga_of(kind.rpc(), answer);
        Ok(match kind {
            Kind::Claim => Outcome::Claim(proto::ClaimResponse { saga: saga(answer)? }),
            Kind::ClaimNext => Outcome::ClaimNext(self.desk.claimed(arrived, answer)?),
            Kind::Heartbeat => Outcome::Heartbeat(keep_alive::heartbeat(self.desk.beat_of(kind.rpc(), answer)?)),
            Kind::Release => Outcome::Release(proto::ReleaseResponse { saga: saga(answer)? }),
            Kind::RegisterCompensation => {
                Outcome::RegisterCompensation(proto::RegisterCompensationResponse { saga: saga(answer)? })
            }
            Kind::Complete => Outcome::Complete(proto::CompleteResponse { saga: saga(answer)? }),
            Kind::Fail => Outcome::Fail(proto::FailResponse { saga: saga(answer)? }),
            Kind::RecordCompensation => {
                Outcome::RecordCompensation(proto::RecordCompensationResponse { saga: saga(answer)? })
            }
            Kind::Compensate => Outcome::Compensate(proto::CompensateResponse { saga: saga(answer)? }),
        })
    }
}

/// An item that is under way.
struct Pending {
    /// Taken when it is done.
    item: Option<Item>,
    answer: PendingAnswer,
}

/// What is kept of an item until its answer is there.
struct Item {
    call_id: i64,
    kind: Kind,
    /// None: nobody asks, or the store was not open then.
    arrived: Option<Timestamp>,
    /// What it is about, for the log.
    subject: Box<str>,
    counted: Option<Box<dyn CountedCall>>,
}

impl Future for Pending {
    type Output = (Item, Result<Answer, StoreError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.answer).poll(cx));
        let item = self.item.take().expect("a future is not polled once it was ready");
        Poll::Ready((item, outcome))
    }
}

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// Which call an item is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Kind {
            $($kind,)*
        }

        impl Kind {
            fn of(call: &Call) -> Self {
                match call {
                    $(Call::$kind(_) => Kind::$kind,)*
                }
            }

            fn rpc(self) -> &'static str {
                match self {
                    $(Kind::$kind => stringify!($kind),)*
                }
            }

            /// The path of the unary call.
            fn path(self) -> &'static str {
                match self {
                    $(Kind::$kind => concat!("/sagad.v1.SagaService/", stringify!($kind)),)*
                }
            }
        }

        /// How long the request is, encoded.
        fn length(call: &Call) -> usize {
            match call {
                $(Call::$kind(message) => message.encoded_len(),)*
            }
        }
    };
}

kinds!(Claim ClaimNext Heartbeat Release RegisterCompensation Complete Fail RecordCompensation Compensate);
