//! [`SessionTrackers`]: items of a `Session` count as calls. They are measured, logged and traced, need a slot and room for
//! their bytes, and shutdown waits for them.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::Code;

use super::{
    calls::{CallLimiter, CallPermit},
    observe::{CallObserver, ObservedCall},
};
use crate::{
    grpc::{CallNotes, CallTracker, SessionCallTracker, TrackedCall, problem::Problem},
    listen::ConnectionState,
};

/// The headers of a trace. (W3C Trace Context)
const TRACE_HEADERS: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];

/// Makes the trackers of sessions; cheap to clone.
#[derive(Clone)]
pub(super) struct SessionTrackers {
    pub(super) observer: CallObserver,
    pub(super) limiter: Arc<CallLimiter>,
    /// Shutdown waits for these calls.
    pub(super) calls: TaskTracker,
}

impl SessionTrackers {
    /// The tracker of a session with these headers: its items belong to the session's connection and trace.
    pub(super) fn tracker(&self, headers: &HeaderMap, connection: &Arc<ConnectionState>) -> SessionCallTracker {
        let trace = TRACE_HEADERS.into_iter().filter_map(|name| {
            let value = headers.get(&name)?.clone();
            Some((name, value))
        });
        SessionCallTracker(Arc::new(SessionTracker {
            all: self.clone(),
            connection: connection.clone(),
            trace: trace.collect(),
        }))
    }
}

/// Tracks the items of one session.
struct SessionTracker {
    all: SessionTrackers,
    connection: Arc<ConnectionState>,
    trace: HeaderMap,
}

/// An item that is being handled. If it is dropped before its end, its client cancelled it.
struct TrackedItem {
    observed: Option<ObservedCall>,
    _permit: Arc<CallPermit>,
    _drain_token: TaskTrackerToken,
}

impl CallTracker for SessionTracker {
    fn begin(&self, path: &'static str, bytes: usize) -> Result<Box<dyn TrackedCall>, Problem> {
        let SessionTrackers { observer, limiter, calls } = &self.all;
        let mut observed = ObservedCall::of(observer, path, &self.trace, Some(self.connection.peer()));
        match limiter.begin_item(Some(&self.connection), bytes) {
            Ok(permit) => Ok(Box::new(TrackedItem { observed, _permit: permit, _drain_token: calls.token() })),
            Err(problem) => {
                if let Some(observed) = &mut observed {
                    observed.end(problem.code);
                }
                Err(problem)
            }
        }
    }
}

impl TrackedCall for TrackedItem {
    fn notes(&self) -> Option<Arc<CallNotes>> {
        self.observed.as_ref().and_then(ObservedCall::notes)
    }

    fn end(mut self: Box<Self>, code: Code) {
        if let Some(observed) = &mut self.observed {
            observed.end(code);
        }
    }
}
