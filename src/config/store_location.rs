//! [`StoreLocation`]: where the store is.

use std::{
    fmt::{self, Display},
    path::PathBuf,
};

use super::passwords::without_password;

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// A directory with a database of SQLite.
    Sqlite(PathBuf),
    /// The URL of a database of PostgreSQL, which may have a password.
    Postgres(String),
}

/// As the file has it, without a password.
impl Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreLocation::Sqlite(directory) => write!(f, "sqlite:{}", directory.display()),
            StoreLocation::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

/// `sqlite:` and a directory, the URL of a database, or nothing at all.
pub(super) fn parse(text: &str) -> Result<Option<StoreLocation>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(directory) = text.strip_prefix("sqlite:").filter(|directory| !directory.is_empty()) {
        return Ok(Some(StoreLocation::Sqlite(directory.into())));
    }
    if ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Ok(Some(StoreLocation::Postgres(text.to_owned())));
    }
    Err("is neither sqlite:DIRECTORY nor the URL of a PostgreSQL database, such as postgres://sagad@db.example/sagad"
        .to_owned())
}
