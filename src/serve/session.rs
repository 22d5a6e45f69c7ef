//! [`SessionTrackers`]: items of a `Session` count as calls. They are measured, logged and traced, need a slot and room for
//! their bytes, and shutdown waits for them.

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
    listen::ConnectionState,
};

/// The headers of a trace. (W3C Trace Context)
const TRACE_HEADERS: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

/// Makes the trackers of sessions; cheap to clone.
#[derive(Clone)]
pub(super) struct SessionCounters {
    pub(super) observe: Observer,
    pub(super) ledger: Arc<Ledger>,
    /// Shutdown waits for these calls.
    pub(super) calls: TaskTracker,
}

impl SessionCounters {
    /// The tracker of a session with these headers: its items belong to the session's connection and trace.
    pub(super) fn counter(&self, headers: &HeaderMap, connection: &Arc<ConnectionState>) -> SessionCounter {
        let trace = TRACE_HEADERS.into_iter().filter_map(|name| {
            let value = headers.get(&name)?.clone();
            Some((name, value))
        });
        SessionCounter(Arc::new(Counter { all: self.clone(), connection: connection.clone(), trace: trace.collect() }))
    }
}

/// Tracks the items of one session.
struct Counter {
    all: SessionCounters,
    connection: Arc<ConnectionState>,
    trace: HeaderMap,
}

/// An item that is being handled. If it is dropped before its end, its client cancelled it.
struct Item {
    observed: Option<ObservedCall>,
    _place: Arc<calls::Call>,
    _waited_for: TaskTrackerToken,
}

impl CountCalls for Counter {
    fn begin(&self, path: &'static str, bytes: usize) -> Result<Box<dyn CountedCall>, Problem> {
        let SessionCounters { observe, ledger, calls } = &self.all;
        let mut observed = ObservedCall::of(observe, path, &self.trace, Some(self.connection.peer()));
        match ledger.begin_item(Some(&self.connection), bytes) {
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
