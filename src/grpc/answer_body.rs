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
pub enum AnswerBody {
    /// A body of the generated code.
    Library(Body),
    /// A message with its prefix, not sent yet.
    Message(Bytes),
    /// The message was sent; the trailers with status 0 follow.
    Succeeded,
    #[default]
    Over,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = match this {
            AnswerBody::Library(body) => return Pin::new(body).poll_frame(cx),
            AnswerBody::Message(message) => {
                let message = std::mem::take(message);
                *this = AnswerBody::Succeeded;
                Frame::data(message)
            }
            AnswerBody::Succeeded => {
                *this = AnswerBody::Over;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(STATUS, OK);
                Frame::trailers(trailers)
            }
            AnswerBody::Over => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Library(body) => body.is_end_stream(),
            AnswerBody::Message(_) | AnswerBody::Succeeded => false,
            AnswerBody::Over => true,
        }
    }
}
