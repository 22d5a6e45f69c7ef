//! Streams to clients: bounded in number, and ended when the coordinator ends.

use std::{pin::Pin, sync::Arc};

use futures::{FutureExt, Stream, StreamExt, future};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{domain::time::Span, store::StoreError};

use super::status::Problem;

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

/// The items until the coordinator stops.
pub(super) fn until_stopped<S: Stream>(items: S, stop: CancellationToken) -> impl Stream<Item = S::Item> {
    items.take_until(stop.cancelled_owned())
}

/// The answers; behind them `SHUTTING_DOWN` if the coordinator stops. The seat is held until the stream is dropped.
pub(super) fn answers<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    seat: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> Answers<T> {
    let end = future::lazy(move |_| stop.is_cancelled().then(|| Err(shutting_down()))).into_stream();
    let answers = answers.chain(end.filter_map(future::ready));
    Box::pin(answers.map(move |answer| {
        let _held = &seat;
        answer
    }))
}

fn shutting_down() -> Status {
    Problem::from(StoreError::ShuttingDown).into()
}
