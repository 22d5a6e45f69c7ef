//! [`StoreError`]: why a call has no result. Each variant says whether the change happened.

use crate::domain::{ids::Revision, rejection::CommandRefusal, time::Span};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The rules refused it: it did not happen.
    #[error("refused: {0:?}")]
    Refused(Box<CommandRefusal>),
    /// Too many requests wait already: it did not happen.
    #[error("too many requests are waiting for the writer")]
    Overloaded { retry_after: Span },
    /// The disk is full: it did not happen.
    #[error("the disk that holds the store is full")]
    Full { retry_after: Span },
    /// The coordinator is shutting down: it did not happen.
    #[error("the coordinator is shutting down")]
    ShuttingDown,
    /// The caller's credentials were revoked or expired before the change was executed: it did not happen.
    #[error("the caller's credentials are not valid any more")]
    Revoked,
    /// The store is not open, or can't be reached: it did not happen.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The commit failed, but may have taken effect.
    #[error("whether the change was committed is not known")]
    OutcomeUnknown,
    /// A stored row can't be read.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The history below `oldest`, the oldest position that can be resumed from, is not kept any more.
    #[error("revisions below {oldest} are compacted")]
    Compacted { oldest: Revision },
    /// No event ever had this revision: it lies above the head, or in a gap that a restore left.
    #[error("this revision is not known; the head is {head}")]
    UnknownRevision { head: Revision },
}
