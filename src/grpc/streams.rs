//! Response streams: limited in number, and ended when the coordinator ends or their caller is revoked.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures::{FutureExt, Stream, StreamExt, future};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    domain::time::Span,
    mutants::{self, Mutant},
    store::{CallerKey, StoreError},
};

use super::{caller::AuthenticatedCaller, permissions, problem::Problem};

/// When clients should retry after too many streams were open.
const RETRY: Span = Span::from_secs(1);

/// Streams that one principal, or one connection where calls need no credentials, may always have. Once three quarters of
/// all are open, a caller with more gets none of the last quarter. Calls are limited the same way (`max_calls`).
const FAIR: usize = 64;

/// The items of a streaming response.
pub(super) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Limits the number of open streams; cheap to clone.
#[derive(Clone)]
pub(super) struct StreamLimiter {
    most: usize,
    what: &'static str,
    open: Arc<Mutex<OpenStreams>>,
}

/// The number of open streams, in total and by caller.
#[derive(Default)]
struct OpenStreams {
    all: usize,
    by_caller: HashMap<CallerKey, usize>,
}

/// Permission for one open stream, until it is dropped.
pub(super) struct StreamPermit {
    open: Arc<Mutex<OpenStreams>>,
    caller_key: Option<CallerKey>,
}

impl StreamLimiter {
    pub(super) fn new(most: usize, what: &'static str) -> Self {
        StreamLimiter { most, what, open: Arc::default() }
    }

    /// A permit for a caller. `OVERLOADED` if none is left, or only ones that this caller's fair share does not include.
    pub(super) fn take(&self, caller: &AuthenticatedCaller) -> Result<StreamPermit, Problem> {
        let caller_key = caller.key();
        let mut open = self.open.lock();
        let own = caller_key.as_ref().and_then(|caller_key| open.by_caller.get(caller_key)).copied().unwrap_or(0);
        if open.all >= self.most || (open.all >= self.most / 4 * 3 && own >= FAIR) {
            let what = self.what;
            return Err(Problem::overloaded(format!("too many {what} are open: close some, or try again"), RETRY));
        }
        open.all += 1;
        if let Some(caller_key) = &caller_key {
            *open.by_caller.entry(caller_key.clone()).or_default() += 1;
        }
        Ok(StreamPermit { open: self.open.clone(), caller_key })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.all -= 1;
        if let Some(caller_key) = &self.caller_key
            && let Some(count) = open.by_caller.get_mut(caller_key)
        {
            *count -= 1;
            if *count == 0 {
                open.by_caller.remove(caller_key);
            }
        }
    }
}

/// What ends a stream early; cheap to clone.
#[derive(Clone)]
pub(super) struct StreamEnd {
    /// The coordinator shuts down.
    stop: CancellationToken,
    /// The caller is revoked.
    revoked: CancellationToken,
    /// The connection's certificate has expired or was revoked.
    certificate: CancellationToken,
    rpc: &'static str,
}

impl StreamEnd {
    pub(super) fn new(stop: &CancellationToken, caller: &AuthenticatedCaller, rpc: &'static str) -> Self {
        StreamEnd { stop: stop.clone(), revoked: caller.revoked(), certificate: caller.certificate_invalidated(), rpc }
    }

    /// The items until the stream has to end.
    pub(super) fn until_end<S: Stream>(&self, items: S) -> impl Stream<Item = S::Item> + use<S> {
        items.take_until(self.clone().wait())
    }

    /// Ready when the stream has to end.
    pub(super) async fn wait(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.revoked.cancelled(), if !mutants::on(Mutant::RevokedStreamsGoOn) => {}
            () = self.certificate.cancelled() => {}
        }
    }

    /// Why the stream has to end; none if it doesn't.
    pub(super) fn reason(&self) -> Option<Problem> {
        if mutants::on(Mutant::StreamsEndUnsaid) {
            return None;
        }
        if self.stop.is_cancelled() {
            Some(Problem::from(StoreError::ShuttingDown))
        } else if self.certificate.is_cancelled() {
            tracing::info!(rpc = self.rpc, "ended a stream: its connection's certificate has run out, or was revoked");
            Some(permissions::certificate_ended(self.rpc))
        } else if self.revoked.is_cancelled() {
            tracing::info!(rpc = self.rpc, "ended a stream: its caller's principal was changed, or is no more");
            Some(permissions::unauthenticated(self.rpc))
        } else {
            None
        }
    }
}

/// The items, then the reason if they were ended early. The permit is held until the stream is dropped.
pub(super) fn limited_stream<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    permit: StreamPermit,
    end: StreamEnd,
) -> ResponseStream<T> {
    let end = future::lazy(move |_| end.reason().map(|reason| Err(reason.into()))).into_stream();
    let answers = answers.chain(end.filter_map(future::ready));
    Box::pin(answers.map(move |answer| {
        let _held = &permit;
        answer
    }))
}
