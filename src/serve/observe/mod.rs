//! Metrics, logs and traces of calls. A call is observed before anything else is done with it, so refused calls are seen,
//! too. Its status is in the headers of a refusal and in the trailers of other answers.

mod observed_call;
mod rpc_metrics;

use std::sync::Arc;

use super::trace::Tracer;
use crate::clock::Clock;

pub(super) use observed_call::ObservedCall;
pub(super) use rpc_metrics::{MethodMetrics, RpcMetrics};

/// What observes all calls of a server; cheap to clone.
#[derive(Clone)]
pub(super) struct CallObserver {
    /// None: calls are not counted.
    pub(super) metrics: Option<Arc<RpcMetrics>>,
    /// None: calls are not traced.
    pub(super) tracer: Option<Tracer>,
    /// Measures durations.
    pub(super) clock: Arc<dyn Clock>,
}
