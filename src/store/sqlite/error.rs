//! Why rows can't be read or written, on the way to a [`Fault`](crate::coordinator::Fault).

/// Why rows can't be read or written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowsError {
    /// No room: the transaction did not happen.
    #[error("the disk is full")]
    Full,
    /// A stored row that makes no sense. Other rows may.
    #[error("a stored row can't be read: {0}")]
    Corrupt(String),
    /// The store can't be relied upon any more; a commit that failed this way may have happened.
    #[error("{0}")]
    Broken(String),
    /// The system refused a write; it has to be seen whether that was for lack of room. If not, it is like `Broken`.
    #[error("{0}")]
    Unwritten(String),
    /// The store's files were removed or replaced: what is written goes where the next start won't find it.
    #[error("{0}")]
    Gone(String),
}
