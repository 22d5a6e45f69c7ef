//! Streams to clients: bounded in number, and ended when the coordinator ends.

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

/// When to try again after too many streams were open: they last long.
const RETRY: Span = Span::from_secs(1);

/// Streams of one principal, or of one connection where callers are not known, that are its fair share: once three quarters of all
/// are open, those who have more get none of the last quarter. As with calls (`max_calls`).
const FAIR: usize = 64;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A bounded number of open streams.
#[derive(Clone)]
pub(super) struct Seats {
    most: usize,
    what: &'static str,
    taken: Arc<Mutex<Taken>>,
}

/// How many are open, and how many of them are whose.
#[derive(Default)]
struct Taken {
    all: usize,
    shares: HashMap<CallerKey, usize>,
}

/// An open stream's seat, free again when it is dropped.
pub(super) struct Seat {
    taken: Arc<Mutex<Taken>>,
    share: Option<CallerKey>,
}

impl Seats {
    pub(super) fn new(most: usize, what: &'static str) -> Self {
        Seats { most, what, taken: Arc::default() }
    }

    /// A seat for a caller; `OVERLOADED` when all are taken, or so many that those who have more than their fair share get none.
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

/// What ends a stream before its time.
#[derive(Clone)]
pub(super) struct End {
    /// The coordinator stops.
    stop: CancellationToken,
    /// The caller is not who it was.
    revoked: CancellationToken,
    /// The certificate of the connection has run out, or was revoked.
    certificate: CancellationToken,
    rpc: &'static str,
}

impl End {
    pub(super) fn new(stop: &CancellationToken, visitor: &Visitor, rpc: &'static str) -> Self {
        End { stop: stop.clone(), revoked: visitor.revoked(), certificate: visitor.certificate_end(), rpc }
    }

    /// The items until then.
    pub(super) fn cuts<S: Stream>(&self, items: S) -> impl Stream<Item = S::Item> + use<S> {
        items.take_until(self.clone().comes())
    }

    /// Ready then.
    pub(super) async fn comes(self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.revoked.cancelled(), if !mutants::on(Mutant::RevokedStreamsGoOn) => {}
            () = self.certificate.cancelled() => {}
        }
    }

    /// Why, if it has come.
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

/// The answers; behind them why they ended, if it was before their time. The seat is held until the stream is dropped.
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
