//! [`RequestBody`]: a request's body. Its bytes are counted, and it fails when its client takes too long or room is needed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Status};

use super::{
    call::{Call, Verdict, Wait},
    ledger::no_room,
};
use crate::grpc::status::Problem;

/// Size of a message's prefix: a flag and a length of four bytes. (gRPC over HTTP/2, Length-Prefixed-Message)
const PREFIX: usize = 5;
/// The most bytes that one byte of gzip can become. (DEFLATE: 1032, plus headers)
const UNPACKED_PER_BYTE: usize = 1100;

/// The body of a request that is being received.
pub(in crate::serve) struct RequestBody {
    /// None: nothing more is read.
    inner: Option<Incoming>,
    call: Arc<Call>,
    /// Each message is a request of its own.
    many: bool,
    messages: Messages,
    /// Messages that have arrived completely.
    whole: usize,
    wait: Option<Wait>,
    /// When ready, the body ends, whatever still arrives.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl RequestBody {
    pub(in crate::serve) fn new(inner: Incoming, call: Arc<Call>, many: bool) -> Self {
        let (inner, messages) = (Some(inner), Messages::default());
        RequestBody { inner, call, many, messages, whole: 0, wait: None, end: None }
    }

    /// Ends the body when `end` is cancelled.
    pub(in crate::serve) fn end_with(&mut self, end: CancellationToken) {
        self.end = Some(Box::pin(end.cancelled_owned()));
    }

    /// Ends the body with an error. What has arrived is freed, and what still arrives is discarded.
    fn give_up(&mut self, problem: Problem) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.wait = None;
        self.inner = None;
        Poll::Ready(Some(Err(problem.into())))
    }

    /// Counts a message with its whole length as soon as its prefix has arrived, because the decoder then reserves that
    /// much. A compressed message is counted with the most it can become, because it is decompressed before it can be
    /// checked.
    fn account(&mut self, data: &Bytes) -> Result<(), Problem> {
        let Fed { whole, begun } = self.messages.feed(data, self.call.limits().max_message_bytes);
        self.whole = self.whole.saturating_add(whole);
        if self.many {
            if whole > 0 {
                // The complete message goes to its handler. Its length stays counted until the next one is complete.
                self.wait = None;
                self.call.discharge();
            }
        } else if self.whole > 1 || (self.whole == 1 && self.messages.is_within()) {
            let text = "this call takes one message, and more were sent; nothing was changed";
            let mut problem = Problem::new(Code::InvalidArgument, "INVALID_ARGUMENT", text);
            problem.violations.push((String::new(), text.to_owned()));
            return Err(problem);
        }
        self.call.charge(begun).map_err(|verdict| problem(&self.call, verdict))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(end) = &mut this.end
            && end.as_mut().poll(cx).is_ready()
        {
            this.wait = None;
            this.inner = None;
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let is_last = inner.is_end_stream();
                if let Some(data) = frame.data_ref()
                    && let Err(problem) = this.account(data)
                {
                    return this.give_up(problem);
                }
                if is_last {
                    this.wait = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => {
                this.wait = None;
                Poll::Ready(end.map(|failed| failed.map_err(|error| Status::from_error(error.into()))))
            }
            Poll::Pending => {
                // A stream may be silent between messages for as long as it likes.
                if !this.many || this.messages.is_within() {
                    this.wait.get_or_insert_with(|| this.call.arriving());
                }
                match this.call.verdict(cx.waker()) {
                    None => Poll::Pending,
                    Some(verdict) => {
                        let problem = problem(&this.call, verdict);
                        this.give_up(problem)
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

fn problem(call: &Call, verdict: Verdict) -> Problem {
    match verdict {
        Verdict::Late => Problem::new(
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            format!(
                "the request did not arrive within {:?}; it was not carried out (request_timeout)",
                call.limits().request_timeout
            ),
        ),
        Verdict::NoRoom => no_room(),
    }
}

/// What [`MessageScanner::scan`] found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fed {
    /// Messages that became complete.
    whole: usize,
    /// The bytes to count for messages whose prefixes became complete.
    begun: usize,
}

/// Finds the messages in the bytes of a body.
#[derive(Debug, Default)]
struct Messages {
    /// Bytes of the current prefix that have arrived.
    prefix: usize,
    compressed: bool,
    length: u32,
    /// Bytes of the current message that are missing, once its prefix is complete.
    lacking: usize,
}

impl Messages {
    /// Scans bytes that have arrived. A message longer than `max`, compressed or not, counts nothing: the decoder refuses
    /// it without reserving memory.
    fn feed(&mut self, mut data: &[u8], max: usize) -> Fed {
        let mut fed = Fed::default();
        while !data.is_empty() {
            if self.prefix < PREFIX {
                if self.prefix == 0 {
                    self.compressed = data[0] != 0;
                } else {
                    self.length = self.length << 8 | u32::from(data[0]);
                }
                self.prefix += 1;
                data = &data[1..];
                if self.prefix == PREFIX {
                    self.lacking = self.length as usize;
                    let unpacked =
                        if self.compressed { self.lacking.saturating_mul(UNPACKED_PER_BYTE).min(max) } else { 0 };
                    let room = if self.lacking > max { 0 } else { self.lacking + unpacked };
                    fed.begun = fed.begun.saturating_add(room);
                }
            } else {
                let step = self.lacking.min(data.len());
                self.lacking -= step;
                data = &data[step..];
            }
            if self.prefix == PREFIX && self.lacking == 0 {
                *self = Messages::default();
                fed.whole += 1;
            }
        }
        fed
    }

    /// Whether a message has begun and is not complete.
    fn is_within(&self) -> bool {
        self.prefix > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let body = [&[0, 0, 0, 0, 0][..], &[0, 0, 0, 0, 3, 7, 7, 7], &[1, 0, 0, 1, 0], &[9; 256], &[0, 0]].concat();
        for size in 1..=body.len() {
            let mut messages = Messages::default();
            let fed: Vec<Fed> = body.chunks(size).map(|piece| messages.feed(piece, 1000)).collect();
            assert_eq!(fed.iter().map(|fed| fed.whole).sum::<usize>(), 3, "{size}");
            // The last is compressed.
            assert_eq!(fed.iter().map(|fed| fed.begun).sum::<usize>(), 3 + 256 + 1000, "{size}");
            assert!(messages.is_within(), "two bytes of the next prefix");
        }
        let mut messages = Messages::default();
        assert!(!messages.is_within());
        assert_eq!(messages.feed(&body[..13], 1000), Fed { whole: 2, begun: 3 });
        assert!(!messages.is_within());
        assert_eq!(messages.feed(&[0, 0, 0, 4, 0], 1000), Fed { whole: 0, begun: 0 }, "larger than any may be");
    }
}
