//! [`CallObserver`]: what is done with every call of a server.

use std::sync::Arc;

use super::rpc_metrics::RpcMetrics;
use crate::{clock::Clock, serve::trace::Tracer};

/// What observes all calls of a server; cheap to clone.
#[derive(Clone)]
pub(in crate::serve) struct CallObserver {
    /// None: calls are not counted.
    pub(in crate::serve) metrics: Option<Arc<RpcMetrics>>,
    /// None: calls are not traced.
    pub(in crate::serve) tracer: Option<Tracer>,
    /// Measures durations.
    pub(in crate::serve) clock: Arc<dyn Clock>,
}
