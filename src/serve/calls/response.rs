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
    call::{Call, Given},
    other_streams::StreamPlace,
};
use crate::{grpc::AnswerBody, serve::observe::ObservedCall};

/// The body of a response that is being sent.
pub(in crate::serve) struct ResponseBody {
    pub(in crate::serve) inner: AnswerBody,
    /// None: the call was refused because there was no slot.
    pub(in crate::serve) call: Option<Arc<Call>>,
    /// The client may read it as slowly as it likes: `answer_timeout` doesn't apply.
    pub(in crate::serve) at_leisure: bool,
    pub(in crate::serve) observed: Option<ObservedCall>,
    pub(in crate::serve) _place: Option<StreamPlace>,
}

impl HttpBody for ResponseBody {
    type Data = HeldBytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<HeldBytes>, Status>>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_frame(cx).map_ok(|frame| {
            if let (Some(observed), Some(trailers)) = (&mut this.observed, frame.trailers_ref()) {
                observed.look_at(trailers);
            }
            frame.map_data(|bytes| {
                let given = this.call.as_ref().map(|call| call.give(bytes.len(), !this.at_leisure));
                HeldBytes { bytes, _given: given }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// Bytes that are counted until they have been written to the socket, or their stream or connection has ended.
pub(in crate::serve) struct HeldBytes {
    bytes: Bytes,
    _given: Option<Given>,
}

impl Buf for HeldBytes {
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
