//! Values of SQLite as values of the domain, and what is wrong with one that makes no sense.

use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, ValueRef},
};

use crate::{
    coordinator::RowId,
    domain::{
        ids::{FencingToken, Revision},
        time::{Span, Timestamp},
    },
};

use super::{
    super::columns::{DamagedValue, Quantity, ResultRow, StoredInteger, decode},
    error::SqliteError,
};

macro_rules! stored_integers {
    ($($type:ty),*) => {
        $(impl FromSql for $type {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                <$type>::stored(value.as_i64()?).map_err(|what| FromSqlError::Other(what.into()))
            }
        })*
    };
}

stored_integers!(Timestamp, Span, Revision, FencingToken, RowId, Quantity);

/// A value of a row, or what is wrong with it.
fn value<'a, T>(
    row: &'a Row<'_>,
    index: usize,
    read: impl FnOnce(ValueRef<'a>) -> FromSqlResult<T>,
) -> Result<T, String> {
    row.get_ref(index)
        .map_err(|error| error.to_string())
        .and_then(|value| read(value).map_err(|error| error.to_string()))
}

impl ResultRow for Row<'_> {
    fn integer(&self, index: usize) -> Result<Option<i64>, String> {
        value(self, index, |value| value.as_i64_or_null())
    }

    fn text(&self, index: usize) -> Result<Option<&str>, String> {
        value(self, index, |value| value.as_str_or_null())
    }

    fn bytes(&self, index: usize) -> Result<Option<&[u8]>, String> {
        value(self, index, |value| value.as_blob_or_null())
    }

    fn column_name(&self, index: usize) -> &str {
        self.as_ref().column_name(index).unwrap_or("?")
    }
}

impl From<DamagedValue> for SqliteError {
    fn from(DamagedValue(what): DamagedValue) -> Self {
        SqliteError::Corrupt(what)
    }
}

/// What is wrong with a value, if the error concerns a value and not a statement or the file.
pub fn wrong_value(error: &rusqlite::Error) -> Option<String> {
    use rusqlite::Error;
    match error {
        Error::FromSqlConversionFailure(_, _, what) => Some(what.to_string()),
        Error::IntegralValueOutOfRange(_, value) => Some(format!("{value} is out of range")),
        Error::InvalidColumnType(..) | Error::Utf8Error(..) => Some(error.to_string()),
        _ => None,
    }
}

/// An error for a stored value that makes no sense.
pub fn corrupt_value(what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Integer, what.into())
}

/// Reads a column of a statement whose first column is the row number. An error names the row and the column.
pub fn column<T: FromSql>(row: &Row<'_>, index: usize) -> Result<T, rusqlite::Error> {
    row.get(index).map_err(|error| match wrong_value(&error) {
        Some(what) => corrupt_value(decode::place(row, index, &what)),
        None => error,
    })
}
