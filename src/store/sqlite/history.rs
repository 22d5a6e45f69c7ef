//! Reads the history of one saga. Each event names the previous one, so the history is read backwards from the newest
//! event, or from an indexed one: the index has one event in 61. Events written before they named the previous one are
//! in a separate table with an index by saga.

use rusqlite::{Connection, OptionalExtension, params};

use crate::coordinator::RowId;
use crate::domain::ids::Revision;

use super::{error::SqliteError, sql};

/// The revisions of a saga's events after one revision and up to another, in order: at most `most`. `newest` is its
/// newest event.
pub fn of_saga(
    connection: &Connection,
    id: RowId,
    newest: Revision,
    after: Revision,
    through: Revision,
    most: usize,
) -> Result<Vec<Revision>, SqliteError> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut found = revisions(connection, sql::OLD_EVENTS_OF_SAGA, params![id.0, after.0, through.0, limit])?;
    let mut next_place = connection.prepare_cached(sql::NEXT_PLACE)?;
    let mut behind = found.last().copied().unwrap_or(after);
    while found.len() < most && behind < newest.min(through) {
        let place = next_place.query_row([id.0, behind.0], |row| row.get(0).map(Revision)).optional();
        // No indexed event is newer than the newest one, unless a row is damaged.
        let place = place?.map_or(newest, |place| place.min(newest));
        let mut back = revisions(connection, sql::CHAIN, [place.0, behind.0])?;
        back.reverse();
        found.extend(back.into_iter().filter(|revision| *revision > behind && *revision <= through));
        behind = place;
    }
    found.truncate(most);
    Ok(found)
}

fn revisions(
    connection: &Connection,
    sql: &'static str,
    params: impl rusqlite::Params,
) -> Result<Vec<Revision>, SqliteError> {
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_map(params, |row| row.get(0).map(Revision))?.collect::<Result<_, _>>()?)
}
