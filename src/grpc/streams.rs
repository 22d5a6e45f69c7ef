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

use super::{caller::Visitor, permits, status::Problem};

/// When clients should retry after too many streams were open.
const RETRY: Span = Span::from_secs(1);

/// Streams that one principal, or one connection where calls need no credentials, may always have. Once three quarters of
/// all are open, a caller with more gets none of the last quarter. Calls are limited the same way (`max_calls`).
const FAIR: usize = 64;

/// The items of a streaming response.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Limits the number of open streams; cheap to clone.
#[derive(Clone)]
pub(super) struct Seats {
    most: usize,
    what: &'static str,
    taken: Arc<Mutex<Taken>>,
}

/// The number of open streams, in total and by caller.
#[derive(Default)]
struct Taken {
    all: usize,
    shares: HashMap<CallerKey, usize>,
}

/// Permission for one open stream, until it is dropped.
pub(super) struct Seat {
    taken: Arc<Mutex<Taken>>,
    share: Option<CallerKey>,
}

impl Seats {
    pub(super) fn new(most: usize, what: &'static str) -> Self {
        Seats { most, what, taken: Arc::default() }
    }

    /// A permit for a caller. `OVERLOADED` if none is left, or only ones that this caller's fair share does not include.
    pub(super) fn take(&self, visitor: &Visitor) -> Result<Seat, Problem> {
        let share = visitor.share();
        let mut taken = self.taken.lock();
        let mine = share.as_ref().and_then(|share| taken.shares.get(share)).copied().unwrap_or(0);
        if taken.all >= self.most || (taken.all >= self.most / 4 * 3 && mine >= FAIR) {
            let what = self.what;
            return Err(Problem::overloaded(format!("too many {what} are open: close some, or try again"), RETRY));
        }
        taken.all += 1;
        if let Some(share) = &share {
            *taken.shares.entry(share.clone()).or_default() += 1;
        }
        Ok(Seat { taken: self.taken.clone(), share })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        if let Some(share) = &self.share
            && let Some(count) = taken.shares.get_mut(share)
        {
            *count -= 1;
            if *count == 0 {
                taken.shares.remove(share);
            }
        }
    }
}

/// What ends a stream early; cheap to clone.
#[derive(Clone)]
pub(super) struct End {
    /// The coordinator shuts down.
    stop: CancellationToken,
    /// The caller is revoked.
    revoked: CancellationToken,
    /// The connection's certificate has expired or was revoked.
    certificate: CancellationToken,
    rpc: &'static str,
}

impl End {
    pub(super) fn new(stop: &CancellationToken, visitor: &Visitor, rpc: &'static str) -> Self {
        End { stop: stop.clone(), revoked: visitor.revoked(), certificate: visitor.certificate_end(), rpc }
    }

    /// The items until the stream has to end.
    pub(super) fn cuts<S: Stream>(&self, items: S) -> impl Stream<Item = S::Item> + use<S> {
        items.take_until(self.clone().comes())
    }

    /// Ready when the stream has to end.
    pub(super) async fn comes(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.revoked.cancelled(), if !mutants::on(Mutant::RevokedStreamsGoOn) => {}
            () = self.certificate.cancelled() => {}
        }
    }

    /// Why the stream has to end; none if it doesn't.
    pub(super) fn why(&self) -> Option<Problem> {
        if mutants::on(Mutant::StreamsEndUnsaid) {
            return None;
        }
        if self.stop.is_cancelled() {
            Some(Problem::from(StoreError::ShuttingDown))
        } else if self.certificate.is_cancelled() {
            tracing::info!(rpc = self.rpc, "ended a stream: its connection's certificate has run out, or was revoked");
            Some(permits::certificate_ended(self.rpc))
        } else if self.revoked.is_cancelled() {
            tracing::info!(rpc = self.rpc, "ended a stream: its caller's principal was changed, or is no more");
            Some(permits::unauthenticated(self.rpc))
        } else {
            None
        }
    }
}

/// The items, then the reason if they were ended early. The permit is held until the stream is dropped.
pub(super) fn answers<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    seat: Seat,
    end: End,
) -> Answers<T> {
    let end = future::lazy(move |_| end.why().map(|why| Err(why.into()))).into_stream();
    let answers = answers.chain(end.filter_map(future::ready));
    Box::pin(answers.map(move |answer| {
        let _held = &seat;
        answer
    }))
}
