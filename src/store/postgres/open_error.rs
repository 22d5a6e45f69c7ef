//! [`OpenError`]: why a store in PostgreSQL can't be opened.

use std::path::PathBuf;

/// The schema's version that this program reads and writes.
pub const SCHEMA_VERSION: i64 = 1;

/// Why a store in PostgreSQL was not opened. Each message says what to do; nothing was changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// The URL can't be parsed.
    #[error("--store is no URL of a PostgreSQL database: {0}; one looks like postgres://USER@HOST:5432/DATABASE")]
    BadUrl(String),
    /// A file with a password, a certificate or a key can't be used.
    #[error("{path}, which --store names, can't be used: {what}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The database can't be reached, or takes no work yet.
    #[error("the database {database} can't be reached: {what}; check that it runs, and the address in --store")]
    Unreachable {
        /// Its address and name.
        database: String,
        /// Why.
        what: String,
    },
    /// The user or its password is wrong.
    #[error("the database does not let sagad in: {0}; check user and password (PGPASSWORD, PGPASSFILE, or in --store)")]
    NotAllowed(String),
    /// There is no such database.
    #[error("{0}; create it, or name another in --store")]
    NoDatabase(String),
    /// The server is too old.
    #[error("the database is PostgreSQL {version}; sagad needs 14 or later")]
    TooOld {
        /// `server_version_num`.
        version: String,
    },
    /// The database does not keep what it acknowledges.
    #[error("the database does not keep what it acknowledges: {0}; set it, restart the database, and start again")]
    Unsafe(String),
    /// The user lacks rights.
    #[error("the user {user} may not do what sagad needs: {what}; give it CREATE on the database, or the schema sagad")]
    MissingRights {
        /// The user.
        user: String,
        /// What was refused.
        what: String,
    },
    /// The schema `sagad` is another program's.
    #[error("the schema sagad in this database is not sagad's; choose another database with --store")]
    Foreign,
    /// The schema was made by a later version.
    #[error(
        "the store was written by a newer sagad (schema {found}, this one knows up to {SCHEMA_VERSION}); install that \
         version or a later one"
    )]
    Newer {
        /// Its version.
        found: i64,
    },
    /// Another coordinator has taken over.
    #[error("another coordinator has taken over")]
    Deposed {
        /// The last turn that was committed before the takeover.
        last_turn: i64,
    },
    /// The database has failed over, was restored, or is a different one.
    #[error("the database has failed over; what is in memory may not be what is stored any more")]
    FailedOver,
    /// Stored data is invalid.
    #[error("the store is damaged: {0}; start from a backup")]
    Damaged(String),
    /// Any other error.
    #[error("the database can't be used: {0}")]
    Unusable(String),
}

impl OpenError {
    /// True if a later attempt may succeed: the database can't be reached now.
    pub fn may_pass(&self) -> bool {
        matches!(self, OpenError::Unreachable { .. })
    }
}
