//! An answer's body: what is handed to the connection stays on the call's account until the peer has taken it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body};

use super::{
    call::{Call, Given},
    layer::StreamPlace,
};

/// A body that is being sent.
pub(super) struct Leaving {
    inner: Body,
    call: Arc<Call>,
    /// It is a stream that its client may read as slowly as it likes.
    at_leisure: bool,
    _place: Option<StreamPlace>,
}

impl Leaving {
    pub(super) fn new(inner: Body, call: Arc<Call>, at_leisure: bool, place: Option<StreamPlace>) -> Self {
        Leaving { inner, call, at_leisure, _place: place }
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_frame(cx).map_ok(|frame| {
            frame.map_data(|bytes| {
                let given = this.call.give(bytes.len(), !this.at_leisure);
                Bytes::from_owner(Held { bytes, _given: given })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// Bytes that are dropped when they have been written to the socket, or their stream or connection has ended.
struct Held {
    bytes: Bytes,
    _given: Given,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
