//! [`SecurityError`]: a file of the security settings that can't be used.

use std::path::{Path, PathBuf};

/// A file that can't be used. The text has nothing of its content but principals' names.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {} {problem}", file.display())]
pub struct SecurityError {
    pub(super) key: &'static str,
    file: PathBuf,
    problem: String,
}

impl SecurityError {
    pub(super) fn new(key: &'static str, file: &Path, problem: impl Into<String>) -> Self {
        SecurityError { key, file: file.to_owned(), problem: problem.into() }
    }
}
