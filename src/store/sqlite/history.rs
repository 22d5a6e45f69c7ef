//! A saga's own history, event by event. Each event names the one before, so that is how it is read: back from the newest, or
//! from one of the places that an index has of it, one event in some sixty. What was written before events did so is in a
//! table of its own, with an index by saga.

use rusqlite::{Connection, OptionalExtension, params};

use crate::coordinator::RowId;
use crate::domain::ids::Revision;

use super::{error::RowsError, sql};

/// The revisions of a saga's events after one revision and up to another, in order: at most `most`. Its newest event is `newest`.
pub fn of_saga(
    connection: &Connection,
    id: RowId,
    newest: Revision,
    after: Revision,
    through: Revision,
    most: usize,
) -> Result<Vec<Revision>, RowsError> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut found = revisions(connection, sql::OLD_EVENTS_OF_SAGA, params![id.0, after.0, through.0, limit])?;
    let mut next_place = connection.prepare_cached(sql::NEXT_PLACE)?;
    let mut behind = found.last().copied().unwrap_or(after);
    while found.len() < most && behind < newest.min(through) {
        let place = next_place.query_row([id.0, behind.0], |row| row.get(0).map(Revision)).optional();
        // The newest is the last place; a place beyond it is a damaged row's.
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
) -> Result<Vec<Revision>, RowsError> {
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.query_map(params, |row| row.get(0).map(Revision))?.collect::<Result<_, _>>()?)
}
