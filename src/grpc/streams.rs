//! Streams to clients: bounded in number, and ended when the coordinator ends.

use std::{pin::Pin, sync::Arc};

use futures::{FutureExt, Stream, StreamExt, future};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{domain::time::Span, store::StoreError};

use super::{caller::Visitor, permits, status::Problem};

/// When to try again after too many streams were open: they last long.
const RETRY: Span = Span::from_secs(1);

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A bounded number of open streams.
#[derive(Clone)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    what: &'static str,
}

impl Seats {
    pub(super) fn new(count: usize, what: &'static str) -> Self {
        Seats { free: Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))), what }
    }

    /// A seat, free again when it is dropped; `OVERLOADED` when all are taken.
    pub(super) fn take(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let what = self.what;
        Arc::clone(&self.free)
            .try_acquire_owned()
            .map_err(|_| Problem::overloaded(format!("too many {what} are open: close some, or try again"), RETRY))
    }
}

/// What ends a stream before its time.
#[derive(Clone)]
pub(super) struct End {
    /// The coordinator stops.
    stop: CancellationToken,
    /// The caller is not who it was.
    revoked: CancellationToken,
    rpc: &'static str,
}

impl End {
    pub(super) fn new(stop: &CancellationToken, visitor: &Visitor, rpc: &'static str) -> Self {
        End { stop: stop.clone(), revoked: visitor.revoked(), rpc }
    }

    /// The items until then.
    pub(super) fn cuts<S: Stream>(&self, items: S) -> impl Stream<Item = S::Item> + use<S> {
        items.take_until(self.clone().comes())
    }

    /// Ready then.
    pub(super) async fn comes(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.revoked.cancelled() => {}
        }
    }

    /// Why, if it has come.
    pub(super) fn why(&self) -> Option<Problem> {
        if self.stop.is_cancelled() {
            Some(Problem::from(StoreError::ShuttingDown))
        } else if self.revoked.is_cancelled() {
            tracing::info!(rpc = self.rpc, "ended a stream: its caller's principal was changed, or is no more");
            Some(permits::unauthenticated(self.rpc))
        } else {
            None
        }
    }
}

/// The answers; behind them why they ended, if it was before their time. The seat is held until the stream is dropped.
pub(super) fn answers<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    seat: OwnedSemaphorePermit,
    end: End,
) -> Answers<T> {
    let end = future::lazy(move |_| end.why().map(|why| Err(why.into()))).into_stream();
    let answers = answers.chain(end.filter_map(future::ready));
    Box::pin(answers.map(move |answer| {
        let _held = &seat;
        answer
    }))
}
