//! Items of a `Session` counted as the calls that they are: measured, written of and traced, with a place among all calls and room for
//! their bytes, and waited for when the daemon ends.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::Code;

use super::{
    calls::{self, Ledger},
    observe::{ObservedCall, Observer},
};
use crate::{
    grpc::{CountCalls, CountedCall, Notes, SessionCounter, status::Problem},
    listen::Line,
};

/// The headers by which a trace is known. (W3C Trace Context)
const TRACE_HEADERS: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

/// Makes what counts the items of a session.
#[derive(Clone)]
pub(super) struct SessionCounters {
    pub(super) observe: Observer,
    pub(super) ledger: Arc<Ledger>,
    /// Calls that are waited for at the end.
    pub(super) calls: TaskTracker,
}

impl SessionCounters {
    /// For the session that is opened with these headers: items belong to its connection, and to its trace.
    pub(super) fn counter(&self, headers: &HeaderMap, line: &Arc<Line>) -> SessionCounter {
        let trace = TRACE_HEADERS.into_iter().filter_map(|name| {
            let value = headers.get(&name)?.clone();
            Some((name, value))
        });
        SessionCounter(Arc::new(Counter { all: self.clone(), line: line.clone(), trace: trace.collect() }))
    }
}

/// Counts the items of one session.
struct Counter {
    all: SessionCounters,
    line: Arc<Line>,
    trace: HeaderMap,
}

/// An item that is under way. Dropped before its end, it was given up by its client.
struct Item {
    observed: Option<ObservedCall>,
    _place: Arc<calls::Call>,
    _waited_for: TaskTrackerToken,
}

impl CountCalls for Counter {
    fn begin(&self, path: &'static str, bytes: usize) -> Result<Box<dyn CountedCall>, Problem> {
        let SessionCounters { observe, ledger, calls } = &self.all;
        let mut observed = ObservedCall::of(observe, path, &self.trace, Some(self.line.peer()));
        match ledger.begin_item(Some(&self.line), bytes) {
            Ok(place) => Ok(Box::new(Item { observed, _place: place, _waited_for: calls.token() })),
            Err(problem) => {
                if let Some(observed) = &mut observed {
                    observed.end(problem.code);
                }
                Err(problem)
            }
        }
    }
}

impl CountedCall for Item {
    fn notes(&self) -> Option<Arc<Notes>> {
        self.observed.as_ref().and_then(ObservedCall::notes)
    }

    fn end(mut self: Box<Self>, code: Code) {
        if let Some(observed) = &mut self.observed {
            observed.end(code);
        }
    }
}
