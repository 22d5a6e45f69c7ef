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

use super::call_limiter::{AbortReason, ArrivingRequest, CallPermit, no_room};
use crate::grpc::problem::Problem;

/// Size of a message's prefix: a flag and a length of four bytes. (gRPC over HTTP/2, Length-Prefixed-Message)
const PREFIX: usize = 5;
/// The most bytes that one byte of gzip can become. (DEFLATE: 1032, plus headers)
const UNPACKED_PER_BYTE: usize = 1100;

/// The body of a request that is being received.
pub(in crate::serve) struct RequestBody {
    /// None: nothing more is read.
    inner: Option<Incoming>,
    call: Arc<CallPermit>,
    /// Each message is a request of its own.
    is_stream: bool,
    scanner: MessageScanner,
    /// Messages that have arrived completely.
    complete: usize,
    arriving: Option<ArrivingRequest>,
    /// When ready, the body ends, whatever still arrives.
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl RequestBody {
    pub(in crate::serve) fn new(inner: Incoming, call: Arc<CallPermit>, is_stream: bool) -> Self {
        let (inner, scanner) = (Some(inner), MessageScanner::default());
        RequestBody { inner, call, is_stream, scanner, complete: 0, arriving: None, end: None }
    }

    /// Ends the body when `end` is cancelled.
    pub(in crate::serve) fn end_on(&mut self, end: CancellationToken) {
        self.end = Some(Box::pin(end.cancelled_owned()));
    }

    /// Ends the body with an error. What has arrived is freed, and what still arrives is discarded.
    fn abort(&mut self, problem: Problem) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.arriving = None;
        self.inner = None;
        Poll::Ready(Some(Err(problem.into())))
    }

    /// Counts a message with its complete length as soon as its prefix has arrived, because the decoder then reserves that
    /// much. A compressed message is counted with the most it can become, because it is decompressed before it can be
    /// checked.
    fn count_data(&mut self, data: &Bytes) -> Result<(), Problem> {
        let Scanned { complete, begun_bytes } = self.scanner.scan(data, self.call.limits().max_message_bytes);
        self.complete = self.complete.saturating_add(complete);
        if self.is_stream {
            if complete > 0 {
                // The complete message goes to its handler. Its length stays counted until the next one is complete.
                self.arriving = None;
                self.call.release_bytes();
            }
        } else if self.complete > 1 || (self.complete == 1 && self.scanner.is_mid_message()) {
            let text = "this call takes one message, and more were sent; nothing was changed";
            let mut problem = Problem::new(Code::InvalidArgument, "INVALID_ARGUMENT", text);
            problem.violations.push((String::new(), text.to_owned()));
            return Err(problem);
        }
        self.call.charge(begun_bytes).map_err(|abort_reason| problem(&self.call, abort_reason))
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
            this.arriving = None;
            this.inner = None;
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let is_last = inner.is_end_stream();
                if let Some(data) = frame.data_ref()
                    && let Err(problem) = this.count_data(data)
                {
                    return this.abort(problem);
                }
                if is_last {
                    this.arriving = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(end) => {
                this.arriving = None;
                Poll::Ready(end.map(|failed| failed.map_err(|error| Status::from_error(error.into()))))
            }
            Poll::Pending => {
                // A stream may be silent between messages for as long as it likes.
                if !this.is_stream || this.scanner.is_mid_message() {
                    this.arriving.get_or_insert_with(|| this.call.begin_arriving());
                }
                match this.call.poll_aborted(cx.waker()) {
                    None => Poll::Pending,
                    Some(abort_reason) => {
                        let problem = problem(&this.call, abort_reason);
                        this.abort(problem)
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

fn problem(call: &CallPermit, abort_reason: AbortReason) -> Problem {
    match abort_reason {
        AbortReason::TimedOut => Problem::new(
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            format!(
                "the request did not arrive within {:?}; it was not carried out (request_timeout)",
                call.limits().request_timeout
            ),
        ),
        AbortReason::NoRoom => no_room(),
    }
}

/// What [`MessageScanner::scan`] found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scanned {
    /// Messages that became complete.
    complete: usize,
    /// The bytes to count for messages whose prefixes became complete.
    begun_bytes: usize,
}

/// Finds the messages in the bytes of a body.
#[derive(Debug, Default)]
struct MessageScanner {
    /// Bytes of the current prefix that have arrived.
    prefix: usize,
    compressed: bool,
    length: u32,
    /// Bytes of the current message that are missing, once its prefix is complete.
    missing: usize,
}

impl MessageScanner {
    /// Scans bytes that have arrived. A message longer than `max`, compressed or not, counts nothing: the decoder refuses
    /// it without reserving memory.
    fn scan(&mut self, mut data: &[u8], max: usize) -> Scanned {
        let mut scanned = Scanned::default();
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
                    self.missing = self.length as usize;
                    let unpacked =
                        if self.compressed { self.missing.saturating_mul(UNPACKED_PER_BYTE).min(max) } else { 0 };
                    let room = if self.missing > max { 0 } else { self.missing + unpacked };
                    scanned.begun_bytes = scanned.begun_bytes.saturating_add(room);
                }
            } else {
                let step = self.missing.min(data.len());
                self.missing -= step;
                data = &data[step..];
            }
            if self.prefix == PREFIX && self.missing == 0 {
                *self = MessageScanner::default();
                scanned.complete += 1;
            }
        }
        scanned
    }

    /// Whether a message has begun and is not complete.
    fn is_mid_message(&self) -> bool {
        self.prefix > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_separated_however_they_are_split() {
        let body = [&[0, 0, 0, 0, 0][..], &[0, 0, 0, 0, 3, 7, 7, 7], &[1, 0, 0, 1, 0], &[9; 256], &[0, 0]].concat();
        for size in 1..=body.len() {
            let mut scanner = MessageScanner::default();
            let scanned: Vec<Scanned> = body.chunks(size).map(|piece| scanner.scan(piece, 1000)).collect();
            assert_eq!(scanned.iter().map(|scanned| scanned.complete).sum::<usize>(), 3, "{size}");
            // The last is compressed.
            assert_eq!(scanned.iter().map(|scanned| scanned.begun_bytes).sum::<usize>(), 3 + 256 + 1000, "{size}");
            assert!(scanner.is_mid_message(), "two bytes of the next prefix");
        }
        let mut scanner = MessageScanner::default();
        assert!(!scanner.is_mid_message());
        assert_eq!(scanner.scan(&body[..13], 1000), Scanned { complete: 2, begun_bytes: 3 });
        assert!(!scanner.is_mid_message());
        assert_eq!(
            scanner.scan(&[0, 0, 0, 4, 0], 1000),
            Scanned { complete: 0, begun_bytes: 0 },
            "larger than any may be"
        );
    }
}
