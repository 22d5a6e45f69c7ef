//! [`ObservedCall`]: counts, logs and traces one call.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tonic::Code;
use tracing::{Level, debug};

use super::{
    call_observer::CallObserver,
    rpc_metrics::{CODES, RpcMetrics},
};
use crate::{
    clock::Clock,
    domain::time::{Span, Timestamp},
    grpc::CallNotes,
    listen::Peer,
    serve::trace::{CallSpan, TraceContext, TraceParent, Tracer, sample},
};

/// The header or trailer with the status code of a call.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The log target of lines about calls.
pub(super) const TARGET: &str = "sagad::calls";

/// A call that is counted, logged or traced. If it is dropped before its end was seen, its client cancelled it.
pub(in crate::serve) struct ObservedCall {
    clock: Arc<dyn Clock>,
    begun: Timestamp,
    metrics: Option<(Arc<RpcMetrics>, usize)>,
    record: Option<Box<CallRecord>>,
    ended: bool,
}

/// What a log line and a trace need of the call.
struct CallRecord {
    rpc: String,
    peer: Option<Peer>,
    trace_id: Option<String>,
    notes: Arc<CallNotes>,
    logged: bool,
    traced: Option<(Tracer, TraceContext)>,
}

impl ObservedCall {
    /// Begins to observe a call; none if nothing counts, logs or traces it. `headers` may name its trace.
    pub(in crate::serve) fn of(
        observer: &CallObserver,
        path: &str,
        headers: &HeaderMap,
        peer: Option<Peer>,
    ) -> Option<Self> {
        let metrics = observer.metrics.as_ref().map(|metrics| (metrics.clone(), metrics.index(path)));
        let logged = tracing::enabled!(target: TARGET, Level::DEBUG);
        let parent = (logged || observer.tracer.is_some()).then(|| TraceParent::of(headers)).flatten();
        let sampled = |tracer: &Tracer| Some((tracer.clone(), sample(parent, headers, tracer.share)?));
        let traced = observer.tracer.as_ref().and_then(sampled);
        let record = (logged || traced.is_some()).then(|| {
            Box::new(CallRecord {
                rpc: path.trim_start_matches('/').to_owned(),
                peer,
                trace_id: parent.map(|parent| parent.trace_id()),
                notes: CallNotes::new(traced.is_some()),
                logged,
                traced,
            })
        });
        if metrics.is_none() && record.is_none() {
            return None;
        }
        if let Some((metrics, index)) = &metrics {
            metrics.begin(*index);
        }
        let clock = observer.clock.clone();
        Some(ObservedCall { begun: clock.now(), clock, metrics, record, ended: false })
    }

    /// Where its handler notes the subject of the call; none if nothing reads that.
    pub(in crate::serve) fn notes(&self) -> Option<Arc<CallNotes>> {
        self.record.as_ref().map(|record| record.notes.clone())
    }

    /// Ends the call if these headers or trailers have its status.
    pub(in crate::serve) fn observe_status(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(STATUS) {
            self.end(Code::from_bytes(status.as_bytes()));
        }
    }

    /// The call has ended; only the first end counts.
    pub(in crate::serve) fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let ended = self.clock.now();
        let took = ended.since(self.begun);
        if let Some((metrics, index)) = &self.metrics {
            metrics.end(*index, code, took);
        }
        let Some(record) = &self.record else { return };
        if record.logged {
            record.log(code, took);
        }
        if let Some((tracer, context)) = &record.traced {
            let clock_offset = self.clock.utc().micros().saturating_sub(self.clock.now().micros());
            let (rpc, peer, notes, code_name) =
                (record.rpc.as_str(), record.peer, &*record.notes, CODES[code as usize]);
            CallSpan { context, rpc, peer, code, code_name, begun: self.begun, ended, clock_offset, notes }
                .send(tracer);
        }
    }
}

impl CallRecord {
    fn log(&self, code: Code, took: Span) {
        let (peer, task_id) = (self.peer.map(|peer| peer.to_string()), self.notes.subject());
        let (peer, task_id, trace_id) = (peer.as_deref(), task_id.as_deref(), self.trace_id.as_deref());
        let (rpc, code, micros) = (self.rpc.as_str(), CODES[code as usize], took.micros());
        debug!(target: TARGET, rpc, code, task_id, micros, peer, trace_id, "call");
    }
}

impl Drop for ObservedCall {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}
