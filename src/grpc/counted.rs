//! Counting the items of a session as calls. What counts calls, limits them and writes of them sees a session as one call, and
//! knows nothing of what is in it. So it leaves a [`SessionCounter`] with it, which the session tells of each item.

use std::sync::Arc;

use tonic::Code;

use super::{Notes, status::Problem};

/// What counts items as calls: an extension of a session's request. Without one they are not counted.
#[derive(Clone)]
pub struct SessionCounter(pub Arc<dyn CountCalls>);

/// Counts calls.
pub trait CountCalls: Send + Sync {
    /// A call of the rpc with this path begins, with a request of so many bytes.
    ///
    /// # Errors
    /// There is no place or no room for it: it must not be carried out.
    fn begin(&self, path: &'static str, bytes: usize) -> Result<Box<dyn CountedCall>, Problem>;
}

/// A call that has begun. Dropped before its end, it was given up by its client.
pub trait CountedCall: Send {
    /// Where it is noted what the call is about, if anyone reads that.
    fn notes(&self) -> Option<Arc<Notes>>;

    /// The call has ended, and its answer is handed to the connection.
    fn end(self: Box<Self>, code: Code);
}
