//! Reads rows on any connection, the writing one or a reading one.

use rusqlite::{CachedStatement, Connection, types::FromSql};

use crate::coordinator::{ContentBytes, RowId};
use crate::domain::{compensation::Compensation, event::Event, saga::Saga};

use super::{
    super::{columns::decode, query::SagaKey},
    error::SqliteError,
    sql, values,
};

/// What an error of SQLite means for the transaction and the store.
pub fn sqlite_error(error: rusqlite::Error) -> SqliteError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => SqliteError::Full,
        // A row exists that was not found before, for example of a saga that lost its other half.
        Some(rusqlite::ErrorCode::ConstraintViolation) => SqliteError::Corrupt(error.to_string()),
        // A refused write, not a failed sync or read: SQLite reports a used-up quota this way.
        Some(_)
            if error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE) =>
        {
            SqliteError::Unwritten(error.to_string())
        }
        _ => match values::wrong_value(&error) {
            Some(what) => SqliteError::Corrupt(what),
            None => SqliteError::Broken(error.to_string()),
        },
    }
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        sqlite_error(error)
    }
}

/// A number about the store as a whole.
pub fn meta<T: FromSql>(connection: &Connection, key: &str) -> Result<T, rusqlite::Error> {
    let found = connection.prepare_cached(sql::META).and_then(|mut s| s.query_row([key], |row| row.get(0)));
    found.map_err(|error| match values::wrong_value(&error) {
        Some(what) => values::corrupt_value(format!("meta, row {key:?}, column value: {what}")),
        None => error,
    })
}

/// Runs a statement and calls `seen` for each row.
pub fn each(
    connection: &Connection,
    sql: &'static str,
    params: impl rusqlite::Params,
    mut seen: impl FnMut(&rusqlite::Row<'_>) -> Result<(), rusqlite::Error>,
) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        seen(row)?;
    }
    Ok(())
}

/// The compensations of a saga.
pub fn compensations(connection: &Connection, id: RowId) -> Result<Vec<Compensation>, SqliteError> {
    let mut statement = connection.prepare_cached(sql::COMPENSATIONS)?;
    let mut rows = statement.query([id.0])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(decode::compensation(row)?);
    }
    Ok(all)
}

/// A saga by a statement with one parameter.
pub fn one_saga(
    connection: &Connection,
    sql: &'static str,
    key: impl rusqlite::ToSql,
) -> Result<Option<(RowId, Saga)>, SqliteError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([key])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (id, mut saga, count) = decode::saga(row)?;
    if count > 0 {
        saga.compensations = compensations(connection, id)?;
    }
    Ok(Some((id, saga)))
}

/// Loads a saga without its contents, of which only the sizes are read; without compensations unless wanted.
pub fn brief_saga(
    connection: &Connection,
    id: RowId,
    with_compensations: bool,
) -> Result<Option<(Saga, ContentBytes)>, SqliteError> {
    let mut statement = connection.prepare_cached(sql::BRIEF_BY_ROW)?;
    let mut rows = statement.query([id.0])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let bytes = |column| row.get::<_, usize>(column).map_err(sqlite_error);
    let contents = ContentBytes { payload: bytes("payload_bytes")?, outcome: bytes("outcome_bytes")? };
    let (_, mut saga, count) = decode::saga(row)?;
    if count > 0 && with_compensations {
        saga.compensations = compensations(connection, id)?;
    }
    Ok(Some((saga, contents)))
}

/// A saga by one of its ids.
pub fn find(connection: &Connection, key: &SagaKey) -> Result<Option<(RowId, Saga)>, SqliteError> {
    match key {
        SagaKey::Task(id) => one_saga(connection, sql::SAGA_BY_TASK, id.as_str()),
        SagaKey::Saga(id) => one_saga(connection, sql::SAGA_BY_SAGA, id.as_str()),
    }
}

/// The rows of `sql::EVENTS` and the like.
pub fn events(statement: &mut CachedStatement<'_>, params: impl rusqlite::Params) -> Result<Vec<Event>, SqliteError> {
    let mut rows = statement.query(params)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(decode::event(row)?);
    }
    Ok(events)
}

/// Texts as a JSON array, for `json_each`.
pub fn json_array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    serde_json::Value::from(texts.collect::<Vec<_>>()).to_string()
}
