//! What is answered instead of a result. Each tells whether the change happened.

use crate::domain::{ids::Revision, rejection::Refusal, time::Span};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The rules refused it: it did not happen.
    #[error("refused: {0:?}")]
    Refused(Box<Refusal>),
    /// Too much waits already: it did not happen.
    #[error("too many requests are waiting for the writer")]
    Overloaded {
        /// When to try again.
        retry_after: Span,
    },
    /// The disk is full: it did not happen.
    #[error("the disk that holds the store is full")]
    Full {
        /// When to try again.
        retry_after: Span,
    },
    /// The coordinator is ending: it did not happen.
    #[error("the coordinator is shutting down")]
    ShuttingDown,
    /// The caller's credentials were revoked, or ran out, before the change's turn came: it did not happen.
    #[error("the caller's credentials are not valid any more")]
    Revoked,
    /// The store is not open, or can't be reached: it did not happen.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The commit failed in a way that may have succeeded.
    #[error("whether the change was committed is not known")]
    OutcomeUnknown,
    /// A stored row can't be read.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The history below `oldest` is not kept any more.
    #[error("revisions below {oldest} are compacted")]
    Compacted {
        /// The oldest position that can be resumed from.
        oldest: Revision,
    },
    /// No event was ever given this position: it lies above the head, or in a gap that a restore left.
    #[error("this revision is not known; the head is {head}")]
    UnknownRevision {
        /// The newest durable revision.
        head: Revision,
    },
}
