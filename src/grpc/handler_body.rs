//! [`HandlerBody`]: the response body that a handler returns.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body};

/// The trailer with the status code.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// A body of the generated code, or one message and its status.
#[derive(Debug, Default)]
pub enum HandlerBody {
    /// A body of the generated code.
    Generated(Body),
    /// A message with its prefix, not sent yet.
    Message(Bytes),
    /// The message was sent; the trailers with status 0 follow.
    OkTrailers,
    #[default]
    Done,
}

impl HttpBody for HandlerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = match this {
            HandlerBody::Generated(body) => return Pin::new(body).poll_frame(cx),
            HandlerBody::Message(message) => {
                let message = std::mem::take(message);
                *this = HandlerBody::OkTrailers;
                Frame::data(message)
            }
            HandlerBody::OkTrailers => {
                *this = HandlerBody::Done;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(STATUS, OK);
                Frame::trailers(trailers)
            }
            HandlerBody::Done => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            HandlerBody::Generated(body) => body.is_end_stream(),
            HandlerBody::Message(_) | HandlerBody::OkTrailers => false,
            HandlerBody::Done => true,
        }
    }
}
