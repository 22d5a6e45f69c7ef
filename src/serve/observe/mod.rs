//! What is seen of calls from outside: how many, of which rpc, with which end, and after how long. A call is
//! looked at before anything else is done with it, so those that are refused are seen, too; and so are its trailers, where the end
//! of a call that was answered stands.

mod call;
mod meters;

use std::sync::Arc;

use super::trace::Tracer;
use crate::clock::Clock;

pub(super) use call::ObservedCall;
pub(super) use meters::Meters;

/// Looks at all calls of a server.
#[derive(Clone)]
pub(super) struct Observer {
    /// Where they are counted, if they are.
    pub(super) meters: Option<Arc<Meters>>,
    /// What takes spans, if there is such a one.
    pub(super) tracer: Option<Tracer>,
    /// What tells how long they take.
    pub(super) clock: Arc<dyn Clock>,
}
