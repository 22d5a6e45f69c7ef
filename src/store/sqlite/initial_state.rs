//! Reads the coordinator's [`InitialState`] when a store is opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension};

use crate::{
    coordinator::{DueEntry, Eligibility, InitialState, ReadyEntry, RowId},
    domain::{
        bounds::{HAPPENED_MAX, NUMBERS_LEFT, REVISION_MAX, ROW_MAX},
        ids::{QueueName, Revision},
        saga::State,
        text::Kind,
        time::{Span, Timestamp},
        transition::{Due, ReadyPurposes},
    },
};

use super::{
    super::columns::{Quantity, codes::Coded, rare_fields::RareFields},
    load::{each, meta},
    sql, state_counts,
    values::{column, corrupt_value},
};

/// Reads the initial state. Revisions that an earlier run may have assigned, and that a lost tail of the log may have
/// hidden, are never assigned again: the next one is above all that were reserved, and those between are recorded as a
/// gap from which no watch can resume.
pub(super) fn read_initial_state(
    connection: &mut Connection,
) -> Result<(InitialState, state_counts::CountsByQueue), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let opening = stored_initial_state(&transaction)?;
    let (head, last_lost) = (opening.head.0, opening.next_revision.0 - 1);
    if last_lost > head {
        transaction.execute(sql::ADD_GAP, [head, last_lost])?;
    }
    let counted = state_counts::open(&transaction)?;
    for queue in counted.keys() {
        if !transaction.prepare_cached(sql::QUEUE_BY_ID)?.exists([queue])? {
            return Err(corrupt_value(format!("sagas are counted in queue {queue}, which is not there")));
        }
    }
    transaction.commit()?;
    Ok((opening, counted))
}

/// Reads the stored initial state. Fails on numbers with which no daemon could continue. The verification uses it too.
pub(super) fn stored_initial_state(connection: &Connection) -> Result<InitialState, rusqlite::Error> {
    let head: Revision = connection.query_row(sql::HEAD, [], |row| row.get(0))?;
    let head = head.max(meta(connection, "compacted")?);
    let next_revision = head.after(1).max(meta(connection, "revision_floor")?);
    if next_revision.0 > REVISION_MAX - NUMBERS_LEFT {
        let what = format!("the next revision would be {next_revision}, with too few left up to {REVISION_MAX}");
        return Err(corrupt_value(what));
    }
    // Later than anything in the store, so that the absence is after it.
    let last_time = last_time(connection)?.plus(Span::MICROSECOND);
    let names = queue_names(connection)?;
    let (due, ready) = (stored_due(connection, &names)?, stored_ready(connection, &names)?);
    let mut paused = Vec::new();
    each(connection, sql::PAUSED, [], |row| {
        paused.extend(QueueName::parse(&row.get::<_, String>(0)?).ok());
        Ok(())
    })?;
    let next_row = RowId(last_row(connection)? + 1);
    Ok(InitialState { head, next_revision, next_row, last_time, due, ready, paused })
}

/// The time of the newest event, heartbeat or closing.
fn last_time(connection: &Connection) -> Result<Timestamp, rusqlite::Error> {
    let newest = |sql| connection.query_row(sql, [], |row| column::<Option<Timestamp>>(row, 1)).optional();
    let last_event = newest(sql::LAST_EVENT_TIME)?.flatten().unwrap_or_default();
    let last_heartbeat = newest(sql::LAST_HEARTBEAT_TIME)?.flatten().unwrap_or_default();
    let closed: Timestamp = meta(connection, "last_time")?;
    let last = last_event.max(last_heartbeat).max(closed);
    if last.micros() > HAPPENED_MAX {
        let told =
            [("the newest event", last_event), ("the newest heartbeat", last_heartbeat), ("its last end", closed)];
        let of = told.iter().find(|(_, time)| *time == last).map_or("something", |(what, _)| what);
        return Err(corrupt_value(format!("{of} was at {last}, which no clock has said")));
    }
    Ok(last)
}

/// Queue names by number. A damaged name is skipped, and with it sagas that can't be read anyway.
fn queue_names(connection: &Connection) -> Result<HashMap<i64, QueueName>, rusqlite::Error> {
    let mut names = HashMap::new();
    each(connection, sql::QUEUE_NAMES, [], |row| {
        let id = row.get(0)?;
        names.extend(QueueName::parse(&row.get::<_, String>(1)?).ok().map(|name| (id, name)));
        Ok(())
    })?;
    Ok(names)
}

fn stored_due(
    connection: &Connection,
    names: &HashMap<i64, QueueName>,
) -> Result<Vec<(RowId, DueEntry)>, rusqlite::Error> {
    let mut all = Vec::new();
    each(connection, sql::DUE, [], |row| {
        let due = Due { at: column(row, 1)?, grace_reference: column(row, 2)? };
        let (queue, state) = (names.get(&row.get(3)?), State::decode(row.get(4)?));
        if let (Some(queue), Some(state)) = (queue, state) {
            let ready = ReadyPurposes::of_state(state);
            all.push((column(row, 0)?, DueEntry { due, queue: queue.clone(), ready }));
        }
        Ok(())
    })?;
    Ok(all)
}

fn stored_ready(
    connection: &Connection,
    names: &HashMap<i64, QueueName>,
) -> Result<Vec<(RowId, ReadyEntry)>, rusqlite::Error> {
    let mut kinds: BTreeMap<RowId, (i32, i64, BTreeSet<Kind>)> = BTreeMap::new();
    each(connection, sql::READY_TO_COMPENSATE, [], |row| {
        let place = kinds.entry(column(row, 0)?).or_insert((column(row, 1)?, row.get(2)?, BTreeSet::new()));
        place.2.extend(row.get::<_, Option<String>>(3)?.and_then(|kind| Kind::stored(&kind).ok()));
        Ok(())
    })?;
    let mut all = Vec::new();
    for (id, (priority, queue, kinds)) in kinds {
        if let Some(queue) = names.get(&queue) {
            let eligibility = Eligibility::Kinds(kinds.into_iter().collect());
            all.push((id, ReadyEntry { priority, queue: queue.clone(), eligibility }));
        }
    }
    each(connection, sql::RESERVED, [], |row| {
        let due_at: Option<Timestamp> = column(row, 3)?;
        // A damaged value is skipped with its saga, which can't be read either.
        let rare_fields = RareFields::parse(row.get_ref(4)?.as_str_or_null()?).unwrap_or_default();
        // If nothing is due after its delay, it is still delayed.
        let delayed = rare_fields.not_before.is_some_and(|ready| due_at.is_none_or(|due| due <= ready));
        let reservation = rare_fields.reservation.filter(|_| !delayed);
        if let (Some(queue), Some(reservation)) = (names.get(&row.get(2)?), reservation) {
            let eligibility = Eligibility::Assignee(reservation.assignee);
            all.push((column(row, 0)?, ReadyEntry { priority: column(row, 1)?, queue: queue.clone(), eligibility }));
        }
        Ok(())
    })?;
    Ok(all)
}

/// The highest row number of any saga ever.
pub(super) fn last_row(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let Quantity(floor) = meta(connection, "row_floor")?;
    let Quantity(last) = connection.query_row(sql::LAST_ROW, [], |row| column(row, 0))?;
    connection.query_row(sql::FIRST_ROW, [], |row| column::<Option<RowId>>(row, 0))?;
    let last = floor.max(last);
    if last > ROW_MAX - NUMBERS_LEFT {
        return Err(corrupt_value(format!("the last saga is row {last}, with too few numbers left up to {ROW_MAX}")));
    }
    Ok(last)
}
