//! Tracks the items of a session as calls. Metrics, limits and logs see a session as one call and don't look into it. So
//! they add a [`SessionCallTracker`] to its request, and the session tells it of each item.

use std::sync::Arc;

use tonic::Code;

use super::{CallNotes, problem::Problem};

/// A request extension of sessions. Without one, items are not tracked.
#[derive(Clone)]
pub struct SessionCallTracker(pub Arc<dyn CallTracker>);

/// Begins tracked calls.
pub trait CallTracker: Send + Sync {
    /// A call of the rpc with this path begins; its request has this many bytes.
    ///
    /// # Errors
    /// There is no slot or no room for it: it must not be carried out.
    fn begin(&self, path: &'static str, bytes: usize) -> Result<Box<dyn TrackedCall>, Problem>;
}

/// A call that has begun. If it is dropped before its end, its client cancelled it.
pub trait TrackedCall: Send {
    /// Where its subject is noted; none if nothing reads that.
    fn notes(&self) -> Option<Arc<CallNotes>>;

    /// The call has ended, and its answer was handed to the connection.
    fn end(self: Box<Self>, code: Code);
}
