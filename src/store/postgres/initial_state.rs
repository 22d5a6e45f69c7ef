//! Reads the coordinator's [`InitialState`] after this coordinator has taken over.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::{Client, Row};

use crate::{
    coordinator::{DueEntry, Eligibility, InitialState, ReadyEntry, RowId},
    domain::{
        bounds::{HAPPENED_MAX, NUMBERS_LEFT, REVISION_MAX},
        ids::{QueueName, Revision},
        saga::State,
        text::Kind,
        time::{Span, Timestamp},
        transition::{Due, ReadyPurposes},
    },
};

use super::{
    super::columns::{Quantity, codes::Coded, rare_fields::RareFields},
    connection::PostgresConnection,
    error::PostgresError,
    sql,
    values::{integer, maybe, maybe_text, parsed},
};

/// The initial state, and the numbers of all queues.
pub(super) fn read_initial_state(
    connection: &PostgresConnection,
) -> Result<(InitialState, HashMap<QueueName, i64>), PostgresError> {
    connection.run_long(async |client| {
        let row = client.query_one(sql::WRITER, &[]).await?;
        let (stored_next, stored_row): (Revision, Quantity) = (integer(&row, 3)?, integer(&row, 4)?);
        let (compacted, closed): (Revision, Timestamp) = (integer(&row, 5)?, integer(&row, 6)?);
        let newest = client.query_opt(sql::NEWEST_EVENT, &[]).await?;
        let (newest, last_event) = match &newest {
            Some(row) => (integer(row, 0)?, integer(row, 1)?),
            None => (Revision::ZERO, Timestamp::ZERO),
        };
        let last_heartbeat: Option<Timestamp> = maybe(&client.query_one(sql::NEWEST_HEARTBEAT, &[]).await?, 0)?;
        let last_time = last_event.max(last_heartbeat.unwrap_or_default()).max(closed);
        if last_time.micros() > HAPPENED_MAX {
            return Err(PostgresError::Damaged(format!("its newest time is {last_time}, which no clock has said")));
        }
        let head = newest.max(compacted);
        let next_revision = head.after(1).max(stored_next);
        if next_revision.0 > REVISION_MAX - NUMBERS_LEFT {
            return Err(PostgresError::Damaged(format!(
                "the next revision would be {next_revision}: too few are left"
            )));
        }
        // A watch can't resume from revisions that were never assigned.
        let last_skipped = next_revision.0 - 1;
        if last_skipped > head.0 {
            client.execute(sql::ADD_GAP, &[&head.0, &last_skipped]).await?;
        }
        let opening = InitialState {
            head,
            next_revision,
            next_row: RowId(stored_row.0),
            last_time: last_time.plus(Span::MICROSECOND),
            due: stored_due(&client.query(sql::DUE, &[]).await?)?,
            ready: stored_ready(client).await?,
            paused: queue_names(&client.query(sql::PAUSED, &[]).await?)?,
        };
        let mut queues = HashMap::new();
        for row in client.query(sql::QUEUES, &[&"", &i64::MAX]).await? {
            queues.insert(parsed(&row, 0, QueueName::parse)?, integer(&row, 5)?);
        }
        Ok((opening, queues))
    })
}

fn queue_names(rows: &[Row]) -> Result<Vec<QueueName>, PostgresError> {
    rows.iter().map(|row| parsed(row, 0, QueueName::parse)).collect()
}

fn stored_due(rows: &[Row]) -> Result<Vec<(RowId, DueEntry)>, PostgresError> {
    let due = |row: &Row| {
        let state: i64 = integer(row, 4)?;
        let state = State::decode(state).ok_or_else(|| PostgresError::Damaged(format!("state {state}")))?;
        let due = Due { at: integer(row, 1)?, grace_reference: maybe(row, 2)? };
        let queue = parsed(row, 3, QueueName::parse)?;
        Ok((integer(row, 0)?, DueEntry { due, queue, ready: ReadyPurposes::of_state(state) }))
    };
    rows.iter().map(due).collect()
}

async fn stored_ready(client: &Client) -> Result<Vec<(RowId, ReadyEntry)>, PostgresError> {
    let mut to_compensate: BTreeMap<RowId, (i32, QueueName, BTreeSet<Kind>)> = BTreeMap::new();
    for row in client.query(sql::READY_TO_COMPENSATE, &[]).await? {
        let place = (integer(&row, 1)?, parsed(&row, 2, QueueName::parse)?, BTreeSet::new());
        let (_, _, kinds) = to_compensate.entry(integer(&row, 0)?).or_insert(place);
        kinds.extend(maybe_text(&row, 3)?.and_then(|kind| Kind::stored(kind).ok()));
    }
    let mut all: Vec<_> = to_compensate
        .into_iter()
        .map(|(id, (priority, queue, kinds))| {
            let eligibility = Eligibility::Kinds(kinds.into_iter().collect());
            (id, ReadyEntry { priority, queue, eligibility })
        })
        .collect();
    for row in client.query(sql::RESERVED, &[]).await? {
        let due_at: Option<Timestamp> = maybe(&row, 3)?;
        let rare_fields = RareFields::parse(maybe_text(&row, 4)?).map_err(PostgresError::Damaged)?;
        // The saga is still delayed unless something is due after its delay.
        let delayed = rare_fields.not_before.is_some_and(|ready| due_at.is_none_or(|due| due <= ready));
        if let Some(reservation) = rare_fields.reservation.filter(|_| !delayed) {
            let eligibility = Eligibility::Assignee(reservation.assignee);
            let queue = parsed(&row, 2, QueueName::parse)?;
            all.push((integer(&row, 0)?, ReadyEntry { priority: integer(&row, 1)?, queue, eligibility }));
        }
    }
    Ok(all)
}
