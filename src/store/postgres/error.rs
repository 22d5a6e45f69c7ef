//! [`PostgresError`]: an error of PostgreSQL, before it becomes a [`BackendError`](crate::coordinator::BackendError).

use tokio_postgres::error::SqlState;

/// The code with which the fence ends a transaction; see `require_rows` in the schema.
const NOT_THE_WRITER: &str = "SG001";
/// The error code for a missing row.
const ROW_MISSING: &str = "SG002";

/// Why PostgreSQL can't read or write.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PostgresError {
    /// The database's disk is full: the transaction did not happen.
    #[error("the database's disk is full: {0}")]
    Full(String),
    /// A stored row is damaged, missing or unexpected.
    #[error("{0}")]
    Damaged(String),
    /// Another coordinator writes: the transaction did not happen.
    #[error("another coordinator writes now")]
    NotTheWriter,
    /// The connection is gone, or the database takes no work at the moment. A commit that failed this way may have happened.
    #[error("{0}")]
    Away(String),
    /// The database refused a statement: it did not happen.
    #[error("{0}")]
    Refused(String),
}

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(database) = error.as_db_error() else {
            let what = with_causes(&error);
            return if is_value(&error) { PostgresError::Damaged(what) } else { PostgresError::Away(what) };
        };
        let what = format!("{} ({})", database.message(), database.code().code());
        match database.code().code() {
            NOT_THE_WRITER => PostgresError::NotTheWriter,
            ROW_MISSING => PostgresError::Damaged(format!("rows are not there: {}", database.message())),
            code if code == SqlState::DISK_FULL.code() => PostgresError::Full(database.message().to_owned()),
            // Violated constraints: a row exists that was not found before.
            code if code.starts_with("23") => PostgresError::Damaged(what),
            // Connection exceptions, lack of resources, and effects of an operator or a failover: shutdown, recovery, a
            // standby that only reads.
            code if ["08", "53", "57"].iter().any(|class| code.starts_with(class))
                || code == SqlState::READ_ONLY_SQL_TRANSACTION.code()
                || code == SqlState::LOCK_NOT_AVAILABLE.code()
                || code == SqlState::T_R_DEADLOCK_DETECTED.code() =>
            {
                PostgresError::Away(what)
            }
            _ => PostgresError::Refused(what),
        }
    }
}

/// True if the error is about a value and not about the connection.
fn is_value(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    text.starts_with("error deserializing") || text.starts_with("error serializing")
}

/// The error's text with the texts of its causes, which have the details.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
