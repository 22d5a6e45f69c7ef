//! [`ResponseBody`]: a response's body. Its bytes are counted until the peer has read them, and its trailers tell the
//! observer how the call ended.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame};
use tonic::Status;

use super::{
    call_limiter::{CallPermit, UnreadAnswer},
    library_stream_limiter::LibraryStreamPermit,
};
use crate::{grpc::HandlerBody, serve::observe::ObservedCall};

/// The body of a response that is being sent.
pub(in crate::serve) struct ResponseBody {
    pub(in crate::serve) inner: HandlerBody,
    /// None: the call was refused because there was no slot.
    pub(in crate::serve) call: Option<Arc<CallPermit>>,
    /// The client may read it as slowly as it likes: `answer_timeout` doesn't apply.
    pub(in crate::serve) reads_slowly: bool,
    pub(in crate::serve) observed: Option<ObservedCall>,
    pub(in crate::serve) _permit: Option<LibraryStreamPermit>,
}

impl HttpBody for ResponseBody {
    type Data = TrackedBytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<TrackedBytes>, Status>>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_frame(cx).map_ok(|frame| {
            if let (Some(observed), Some(trailers)) = (&mut this.observed, frame.trailers_ref()) {
                observed.observe_status(trailers);
            }
            frame.map_data(|bytes| {
                let unread = this.call.as_ref().map(|call| call.hand_out(bytes.len(), !this.reads_slowly));
                TrackedBytes { bytes, _unread: unread }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// Bytes that are counted until they have been written to the socket, or their stream or connection has ended.
pub(in crate::serve) struct TrackedBytes {
    bytes: Bytes,
    _unread: Option<UnreadAnswer>,
}

impl Buf for TrackedBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
