//! Reading rows on any connection, the writing one and those of the readers alike.

use rusqlite::{CachedStatement, Connection};

use crate::domain::{compensation::Compensation, event::Event, saga::Saga};

use super::{
    super::{
        query::SagaKey,
        rows::{RowId, RowsError},
    },
    codec, sql,
};

/// What an error of SQLite's means for the transaction and the store.
pub fn rows_error(error: rusqlite::Error) -> RowsError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => RowsError::Full,
        _ => RowsError::Broken(error.to_string()),
    }
}

/// The compensations of a saga.
pub fn compensations(connection: &Connection, id: RowId) -> Result<Vec<Compensation>, RowsError> {
    let mut statement = connection.prepare_cached(sql::COMPENSATIONS).map_err(rows_error)?;
    let mut rows = statement.query([id.0]).map_err(rows_error)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(rows_error)? {
        all.push(codec::compensation(row)?);
    }
    Ok(all)
}

/// A saga by a statement with one parameter.
pub fn one_saga(
    connection: &Connection,
    sql: &'static str,
    key: impl rusqlite::ToSql,
) -> Result<Option<(RowId, Saga)>, RowsError> {
    let mut statement = connection.prepare_cached(sql).map_err(rows_error)?;
    let mut rows = statement.query([key]).map_err(rows_error)?;
    let Some(row) = rows.next().map_err(rows_error)? else { return Ok(None) };
    let (id, mut saga, count) = codec::saga(row)?;
    if count > 0 {
        saga.compensations = compensations(connection, id)?;
    }
    Ok(Some((id, saga)))
}

/// A saga by one of its ids.
pub fn find(connection: &Connection, key: &SagaKey) -> Result<Option<(RowId, Saga)>, RowsError> {
    match key {
        SagaKey::Task(id) => one_saga(connection, sql::SAGA_BY_TASK, id.as_str()),
        SagaKey::Saga(id) => one_saga(connection, sql::SAGA_BY_SAGA, id.as_str()),
    }
}

/// The rows of `sql::EVENTS` and the like.
pub fn events(statement: &mut CachedStatement<'_>, params: impl rusqlite::Params) -> Result<Vec<Event>, RowsError> {
    let mut rows = statement.query(params).map_err(rows_error)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next().map_err(rows_error)? {
        events.push(codec::event(row)?);
    }
    Ok(events)
}

/// Texts as a JSON array, for `json_each`.
pub fn json_array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    serde_json::Value::from(texts.collect::<Vec<_>>()).to_string()
}
