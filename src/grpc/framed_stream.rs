//! Responses of streams whose messages are encoded and framed already.
//!
//! The generated code encodes each message of a stream separately and moves it through half a dozen layers first. But
//! messages that many callers get alike are encoded once, and the answers of a session are encoded many into one buffer.
//! Such a handler returns a response whose stream is empty and whose framed messages are in an extension;
//! [`use_framed_body`] makes them the body. Like all our answers they are not compressed.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use prost::Message;
use tonic::{Response, Status, body::Body};

use super::streams::ResponseStream;

/// Size of a message's prefix: a compression flag and the length. (gRPC over HTTP/2, Length-Prefixed-Message)
pub(super) const PREFIX_BYTES: usize = 5;

/// Writes a message with its prefix, not compressed. The length is filled in afterwards: computing it first would take half
/// as long as the encoding.
pub(super) fn put_framed(frames: &mut BytesMut, message: &impl Message) {
    let start = frames.len();
    frames.put_bytes(0, PREFIX_BYTES);
    message.encode_raw(frames);
    let length = u32::try_from(frames.len() - start - PREFIX_BYTES).expect("an answer is bounded to some MiB");
    frames[start + 1..start + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// The framed messages of a response, until they become its body.
#[derive(Clone)]
struct FramedMessages(Arc<Mutex<Option<ResponseStream<Bytes>>>>);

/// A response of framed messages; each item holds one or more.
pub(super) fn framed_response<T: Send + 'static>(frames: ResponseStream<Bytes>) -> Response<ResponseStream<T>> {
    let nothing: ResponseStream<T> = Box::pin(stream::empty());
    let mut response = Response::new(nothing);
    response.extensions_mut().insert(FramedMessages(Arc::new(Mutex::new(Some(frames)))));
    response
}

/// Gives a response made by [`framed_response`] its framed messages as body. Other responses stay as they are.
pub(super) fn use_framed_body(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<FramedMessages>().and_then(|frames| frames.0.lock().take()) {
        None => response,
        Some(frames) => response.map(|_| Body::new(FramedBody { frames, is_done: false })),
    }
}

/// A body of framed messages, followed by the status.
struct FramedBody {
    frames: ResponseStream<Bytes>,
    is_done: bool,
}

impl HttpBody for FramedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.is_done {
            return Poll::Ready(None);
        }
        let status = match ready!(this.frames.as_mut().poll_next(cx)) {
            Some(Ok(frames)) => return Poll::Ready(Some(Ok(Frame::data(frames)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        this.is_done = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_done
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use http_body_util::BodyExt;
    use tonic::Code;

    use super::*;

    /// The bytes of a response's body, and its trailers.
    fn read(frames: Vec<Result<Bytes, Status>>) -> (Vec<u8>, HeaderMap) {
        let answer = framed_response::<()>(Box::pin(stream::iter(frames)));
        let (_, _, extensions) = answer.into_parts();
        let mut response = http::Response::new(Body::empty());
        *response.extensions_mut() = extensions;
        let body = block_on(use_framed_body(response).into_body().collect()).unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        (body.to_bytes().to_vec(), trailers)
    }

    #[test]
    fn frames_are_sent_unchanged_and_followed_by_the_status() {
        let (bytes, trailers) = read(vec![Ok(Bytes::from_static(b"one")), Ok(Bytes::from_static(b"two"))]);
        assert_eq!(bytes, b"onetwo");
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Ok);
        let (bytes, trailers) = read(vec![Ok(Bytes::from_static(b"one")), Err(Status::unavailable("it ends"))]);
        assert_eq!(bytes, b"one");
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "it ends"));
    }

    #[test]
    fn other_answers_are_not_changed() {
        let response = http::Response::new(Body::new(String::from("whole")));
        let body = block_on(use_framed_body(response).into_body().collect()).unwrap();
        assert_eq!(&body.to_bytes()[..], b"whole");
    }
}
