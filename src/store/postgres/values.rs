//! Converts values of PostgreSQL into values of the domain.

use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use super::{
    super::columns::{DamagedValue, ResultRow, StoredInteger, decode},
    error::PostgresError,
};

/// A column's value, of the types that occur in tables and in counts.
enum Value<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> FromSql<'a> for Value<'a> {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *kind {
            Type::INT8 => Value::Integer(i64::from_sql(kind, raw)?),
            Type::INT4 => Value::Integer(i32::from_sql(kind, raw)?.into()),
            Type::INT2 => Value::Integer(i16::from_sql(kind, raw)?.into()),
            Type::BYTEA => Value::Bytes(raw),
            _ => Value::Text(<&str>::from_sql(kind, raw)?),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Value::Null)
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT2, Type::INT4, Type::INT8, Type::BYTEA, Type::TEXT, Type::VARCHAR, Type::UNKNOWN].contains(kind)
    }
}

fn value(row: &Row, index: usize) -> Result<Value<'_>, String> {
    row.try_get(index).map_err(|error| error.to_string())
}

impl ResultRow for Row {
    fn integer(&self, index: usize) -> Result<Option<i64>, String> {
        match value(self, index)? {
            Value::Null => Ok(None),
            Value::Integer(number) => Ok(Some(number)),
            Value::Text(_) | Value::Bytes(_) => Err("it is no integer".into()),
        }
    }

    fn text(&self, index: usize) -> Result<Option<&str>, String> {
        match value(self, index)? {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            Value::Integer(_) | Value::Bytes(_) => Err("it is no text".into()),
        }
    }

    fn bytes(&self, index: usize) -> Result<Option<&[u8]>, String> {
        match value(self, index)? {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes)),
            Value::Integer(_) | Value::Text(_) => Err("it is not bytes".into()),
        }
    }

    fn column_name(&self, index: usize) -> &str {
        self.columns().get(index).map_or("?", tokio_postgres::Column::name)
    }
}

impl From<DamagedValue> for PostgresError {
    fn from(DamagedValue(what): DamagedValue) -> Self {
        PostgresError::Damaged(what)
    }
}

/// An integer column that may be NULL.
pub fn maybe<T: StoredInteger>(row: &Row, index: usize) -> Result<Option<T>, PostgresError> {
    let found = row.integer(index).and_then(|found| found.map(T::stored).transpose());
    found.map_err(|what| PostgresError::Damaged(decode::place(row, index, &what)))
}

/// An integer column.
pub fn integer<T: StoredInteger>(row: &Row, index: usize) -> Result<T, PostgresError> {
    maybe(row, index)?.ok_or_else(|| PostgresError::Damaged(decode::place(row, index, "it is NULL")))
}

/// A text column that may be NULL.
pub fn maybe_text(row: &Row, index: usize) -> Result<Option<&str>, PostgresError> {
    row.text(index).map_err(|what| PostgresError::Damaged(decode::place(row, index, &what)))
}

/// A text column that a type of the domain is parsed from.
pub fn parsed<T>(
    row: &Row,
    index: usize,
    parse: impl FnOnce(&str) -> Result<T, crate::domain::ids::Malformed>,
) -> Result<T, PostgresError> {
    let parsed = parse(maybe_text(row, index)?.unwrap_or_default());
    parsed.map_err(|error| PostgresError::Damaged(decode::place(row, index, &error.0)))
}
