//! [`SqliteError`]: an error of SQLite, before it becomes a [`BackendError`](crate::coordinator::Fault).

/// Why SQLite can't read or write.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SqliteError {
    /// The disk is full: the transaction did not happen.
    #[error("the disk is full")]
    Full,
    /// A stored row is damaged. Other rows may be fine.
    #[error("a stored row can't be read: {0}")]
    Corrupt(String),
    /// The store can't be used any more. A commit that failed this way may have happened.
    #[error("{0}")]
    Broken(String),
    /// The system refused a write. The caller must find out whether that was for lack of room; if not, it is like
    /// `Broken`.
    #[error("{0}")]
    Unwritten(String),
    /// The store's files were removed or replaced: what is written goes where the next start won't find it.
    #[error("{0}")]
    Gone(String),
}
