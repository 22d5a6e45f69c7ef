//! [`RetryingCaller`]: sends unanswered calls again as `docs/how-to/worker.md` asks, with the same `request_id` and a jittered
//! delay that doubles. And the figures of all callers.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tonic::{Code, Status, transport::Endpoint};
use tonic_types::StatusExt;

use crate::support::{Api, WAIT_MAX, now};

/// The timeout of one sending.
const SENDING: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Figures of all clients.
pub struct CallFigures {
    inner: Mutex<Inner>,
}

struct Inner {
    answered: u64,
    /// Sendings without an answer, by error.
    retried: BTreeMap<String, u64>,
    slowest: Duration,
    last_answer: Instant,
    longest_gap: Duration,
    streams_ended: BTreeMap<String, u64>,
}

impl CallFigures {
    pub fn new() -> Arc<Self> {
        let inner = Inner {
            answered: 0,
            retried: BTreeMap::new(),
            slowest: Duration::ZERO,
            last_answer: now(),
            longest_gap: Duration::ZERO,
            streams_ended: BTreeMap::new(),
        };
        Arc::new(CallFigures { inner: Mutex::new(inner) })
    }

    fn answered(&self, took: Duration) {
        let mut inner = self.inner.lock().unwrap();
        inner.answered += 1;
        inner.slowest = inner.slowest.max(took);
        inner.longest_gap = inner.longest_gap.max(inner.last_answer.elapsed());
        inner.last_answer = now();
    }

    fn retried(&self, status: &Status) {
        *self.inner.lock().unwrap().retried.entry(name(status)).or_default() += 1;
    }

    pub fn stream_ended(&self, status: &Status) {
        *self.inner.lock().unwrap().streams_ended.entry(name(status)).or_default() += 1;
    }

    /// The number of answered calls, and of sendings without an answer.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner.lock().unwrap();
        (inner.answered, inner.retried.values().sum())
    }
}

impl fmt::Display for CallFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.lock().unwrap();
        write!(
            f,
            "{} calls answered, sent again after {:?}; the slowest took {:?}, the longest time without an answer to \
             anyone was {:?}; streams ended by {:?}",
            inner.answered, inner.retried, inner.slowest, inner.longest_gap, inner.streams_ended
        )
    }
}

/// The cause of a transport error.
fn innermost(status: &Status) -> String {
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    causes.last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// The daemon's reason, or a description of any other error.
fn name(status: &Status) -> String {
    let reason = status.get_details_error_info().map(|info| info.reason);
    reason.unwrap_or_else(|| format!("no answer ({:?}: {})", status.code(), innermost(status)))
}

/// True if the call may be sent again: the daemon says so, or the error is not from the daemon.
pub fn may_be_repeated(status: &Status) -> bool {
    let own = status.get_details_error_info();
    let passing = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    passing || own.is_none() || own.is_some_and(|info| info.reason == "OUTCOME_UNKNOWN")
}

/// The delays between sendings.
pub struct Backoff(Duration);

impl Backoff {
    pub fn new() -> Self {
        Backoff(PAUSE_FIRST)
    }

    /// Waits; at least as long as the daemon asked for.
    pub async fn wait(&mut self, status: &Status) {
        let jittered = self.0.mul_f64(rand::random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(PAUSE_MAX);
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
        tokio::time::sleep(jittered.max(asked)).await;
    }
}

/// A client with its own connection.
#[derive(Clone)]
pub struct RetryingCaller {
    pub api: Api,
    pub figures: Arc<CallFigures>,
}

impl RetryingCaller {
    pub fn new(address: SocketAddr, figures: &Arc<CallFigures>) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        RetryingCaller { api: Api::new(channel), figures: figures.clone() }
    }

    /// Sends a call until it is answered. A refusal is an answer.
    pub async fn call<Q, A, F>(&self, request: Q, send: impl Fn(Api, Q) -> F) -> Result<A, Status>
    where
        Q: Clone + fmt::Debug,
        F: Future<Output = Result<A, Status>>,
    {
        let begun = now();
        let mut pauses = Backoff::new();
        loop {
            let sent = tokio::time::timeout(SENDING, send(self.api.clone(), request.clone())).await;
            let status = match sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                Err(status) if may_be_repeated(&status) => status,
                answer => {
                    self.figures.answered(begun.elapsed());
                    return answer;
                }
            };
            self.figures.retried(&status);
            assert!(begun.elapsed() < WAIT_MAX, "it fails finally: {request:?}: {status:?}");
            pauses.wait(&status).await;
        }
    }

    /// The same for a call that must not be refused.
    pub async fn must<Q, A, F>(&self, request: Q, send: impl Fn(Api, Q) -> F) -> A
    where
        Q: Clone + fmt::Debug,
        F: Future<Output = Result<A, Status>>,
    {
        let answer = self.call(request.clone(), send).await;
        answer.unwrap_or_else(|status| panic!("refused: {request:?}: {status:?}"))
    }
}

/// A fresh `request_id`.
pub fn fresh() -> String {
    uuid::Uuid::new_v4().to_string()
}
