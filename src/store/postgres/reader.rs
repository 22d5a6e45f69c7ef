//! [`PostgresReader`]: a small pool of connections that only read. Each read is one snapshot.

use std::{path::Path, time::Duration};

use futures::future::{try_join, try_join3};
use parking_lot::Mutex;
use r2d2::{ManageConnection, Pool};
use tokio_postgres::{Client, Row, types::ToSql};

use crate::{
    coordinator::{RowId, encoded_size},
    domain::{
        bounds::ANSWER_BYTES,
        command::QueueStatus,
        event::Event,
        ids::{QueueName, Revision},
        saga::{Saga, State},
        text::{Actor, Text},
        time::Timestamp,
    },
};

use super::{
    super::{
        EventQuery, ListQuery, PageBounds, QueueStats, ReadTime, Reader, SagaKey, SagaPage, ScanPage, StoreError,
        columns::codes::Coded,
        query::Cursor,
        ready_snapshot::{ReadyCount, ReadySnapshot},
    },
    connect_options::ConnectOptions,
    connection::PostgresConnection,
    encode::state_count,
    error::PostgresError,
    load, sql,
    values::{integer, maybe, maybe_text, parsed},
};

/// How many rows one read scans at most, matching or not.
const ROWS_PER_SNAPSHOT: i64 = 5000;
/// How long a read waits for a free connection.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// All statements of a read see the same state.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Opens the connections of the pool.
struct ReadConnections(ConnectOptions);

impl ManageConnection for ReadConnections {
    type Connection = PostgresConnection;
    type Error = super::OpenError;

    fn connect(&self) -> Result<PostgresConnection, Self::Error> {
        PostgresConnection::connect(&self.0)
    }

    fn is_valid(&self, _: &mut PostgresConnection) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PostgresConnection) -> bool {
        connection.is_closed()
    }
}

/// Reads a store in PostgreSQL.
pub struct PostgresReader {
    pool: Pool<ReadConnections>,
    ready: Mutex<Option<ReadySnapshot>>,
}

impl PostgresReader {
    /// A pool of at most `size` connections, which are opened when they are needed.
    pub(super) fn new(options: ConnectOptions, size: usize) -> Result<Self, r2d2::Error> {
        let pool = Pool::builder()
            .max_size(u32::try_from(size).unwrap_or(u32::MAX))
            .min_idle(Some(0))
            .test_on_check_out(false)
            .connection_timeout(CONNECTION_WAIT)
            .build(ReadConnections(options))?;
        Ok(PostgresReader { pool, ready: Mutex::default() })
    }

    /// Reads from one snapshot.
    fn look<T>(&self, look: impl AsyncFnOnce(&Client) -> Result<T, PostgresError>) -> Result<T, StoreError> {
        let connection = self.pool.get().map_err(|e| StoreError::Unavailable(format!("no reading connection: {e}")))?;
        let read = connection.run(async |client| {
            client.batch_execute(BEGIN).await?;
            let read = look(client).await;
            // Ends the snapshot, also after an error.
            client.batch_execute("ROLLBACK").await?;
            read
        });
        read.map_err(read_error)
    }
}

fn read_error(error: PostgresError) -> StoreError {
    match error {
        PostgresError::Damaged(what) => StoreError::Corrupt(what),
        PostgresError::Full(_) | PostgresError::NotTheWriter | PostgresError::Away(_) | PostgresError::Refused(_) => {
            StoreError::Unavailable(error.to_string())
        }
    }
}

/// The whole sagas that a statement returns, with their compensations.
async fn sagas(
    client: &Client,
    statement: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<(RowId, Saga)>, PostgresError> {
    let rows = client.query(statement, parameters).await?;
    let compensations = compensations_of(client, &rows).await?;
    let read = load::sagas(&rows, &compensations)?;
    Ok(read.into_iter().collect::<Result<Vec<_>, _>>()?)
}

async fn compensations_of(client: &Client, rows: &[Row]) -> Result<Vec<Row>, PostgresError> {
    let ids = rows.iter().map(|row| integer::<i64>(row, 0)).collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() { Ok(Vec::new()) } else { Ok(client.query(sql::COMPENSATIONS_OF_ROWS, &[&ids]).await?) }
}

/// The last revision that a read with a filter scans, so that a filter with few matches doesn't make the read last
/// long.
async fn window(
    client: &Client,
    statement: &str,
    after: Revision,
    through: Revision,
) -> Result<Revision, PostgresError> {
    let end = client.query_opt(statement, &[&after.0, &through.0, &ROWS_PER_SNAPSHOT]).await?;
    end.map_or(Ok(through), |row| integer(&row, 0))
}

fn names(queues: &[QueueName]) -> Vec<&str> {
    queues.iter().map(QueueName::as_str).collect()
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The matching events of a bounded part of the history.
async fn stretch(client: &Client, query: &EventQuery) -> Result<ScanPage<Event>, PostgresError> {
    let limit = limit_of(query.limit);
    if let Some(task_id) = &query.task_id {
        // A query that skips events scans at most this many.
        let passes_over = query.marked_only || !query.queues.is_empty();
        let most = if passes_over { ROWS_PER_SNAPSHOT + 1 } else { limit };
        let rows =
            client.query(sql::EVENTS_OF_TASK, &[&task_id.as_str(), &query.after.0, &query.through.0, &most]).await?;
        let found = load::events(&rows)?;
        let through = match found.last() {
            Some(last) if passes_over && found.len() as i64 == most => last.revision,
            Some(_) | None => query.through,
        };
        let found = found.into_iter().filter(|event| query.matches(event)).take(query.limit).collect();
        return Ok(ScanPage::of_events(found, query.limit, through));
    }
    let (statement, of_window) = if query.marked_only {
        (sql::EVENTS_MARKED, sql::EVENTS_MARKED_WINDOW)
    } else {
        (sql::EVENTS, sql::EVENTS_WINDOW)
    };
    let through = if query.queues.is_empty() {
        query.through
    } else {
        window(client, of_window, query.after, query.through).await?
    };
    let rows = client.query(statement, &[&query.after.0, &through.0, &names(&query.queues), &limit]).await?;
    Ok(ScanPage::of_events(load::events(&rows)?, query.limit, through))
}

impl Reader for PostgresReader {
    fn get(&self, key: &SagaKey) -> Result<Option<Saga>, StoreError> {
        let (mut tasks, mut ids, rows) = (Vec::new(), Vec::new(), Vec::<i64>::new());
        match key {
            SagaKey::Task(id) => tasks.push(id.as_str()),
            SagaKey::Saga(id) => ids.push(id.as_str()),
        }
        self.look(async |client| {
            let keys: [&(dyn ToSql + Sync); 3] = [&tasks, &ids, &rows];
            let (found, compensations) =
                try_join(client.query(sql::SAGAS, &keys), client.query(sql::COMPENSATIONS, &keys)).await?;
            let found = load::sagas(&found, &compensations)?.pop().transpose()?;
            Ok(found.map(|(_, saga)| saga))
        })
    }

    fn list(&self, query: &ListQuery) -> Result<SagaPage, StoreError> {
        let statement = match (query.filter.implies_in_flight(), query.newest_first) {
            (false, false) => sql::LIST,
            (false, true) => sql::LIST_NEWEST,
            (true, false) => sql::LIST_IN_FLIGHT,
            (true, true) => sql::LIST_IN_FLIGHT_NEWEST,
        };
        let start = query.after.map_or(if query.newest_first { i64::MAX } else { 0 }, |cursor| cursor.0);
        // Reads one saga more than asked for, to know whether more follow. A page also ends after `ROWS_PER_SNAPSHOT`
        // rows, or when it has as many bytes as an answer may have.
        self.look(async |client| {
            let mut found = Vec::new();
            let (mut next, mut from, mut scanned) = (None, start, 0);
            while found.len() <= query.limit && scanned < ROWS_PER_SNAPSHOT {
                let step = limit_of(query.limit).saturating_add(1).max(scanned).min(ROWS_PER_SNAPSHOT - scanned);
                let rows = client.query(statement, &[&from, &step]).await?;
                for read in load::sagas(&rows, &[])? {
                    let (id, saga) = read?;
                    from = id.0;
                    if query.filter.matches(&saga, &query.read_time) {
                        found.push((id, saga));
                    }
                }
                scanned += step;
                let is_end = (rows.len() as i64) < step;
                next = if is_end { None } else { Some(Cursor(from)) };
                if is_end {
                    break;
                }
            }
            if found.len() > query.limit {
                found.truncate(query.limit);
                next = found.last().map(|(id, _)| Cursor(id.0));
            }
            let ids: Vec<i64> = found.iter().map(|(id, _)| id.0).collect();
            let rows = client.query(sql::COMPENSATIONS_OF_ROWS, &[&ids]).await?;
            let compensations = load::Compensations::of_rows(&rows)?;
            let (mut page, mut bytes) = (SagaPage { next, ..SagaPage::default() }, 0);
            for (id, mut saga) in found {
                saga.compensations = compensations.of(id)?;
                bytes += encoded_size(&saga);
                if bytes > ANSWER_BYTES && !page.sagas.is_empty() {
                    page.next = page.sagas.last().map(|(cursor, _)| *cursor);
                    break;
                }
                page.sagas.push((Cursor(id.0), saga));
            }
            Ok(page)
        })
    }

    fn events(&self, query: &EventQuery) -> Result<ScanPage<Event>, StoreError> {
        self.look(async |client| {
            // Checked in the same snapshot: events purged meanwhile must not be skipped silently.
            if !query.whole {
                let row = client.query_one(sql::POSITION, &[&query.after.0]).await?;
                let (oldest, head): (Revision, Revision) = (integer(&row, 0)?, integer(&row, 1)?);
                if query.after < oldest {
                    return Ok(Err(StoreError::Compacted { oldest }));
                }
                if query.after > head || integer::<i64>(&row, 2)? == 1 {
                    return Ok(Err(StoreError::UnknownRevision { head }));
                }
            }
            stretch(client, query).await.map(Ok)
        })?
    }

    fn stale(
        &self,
        queues: &[QueueName],
        after: Revision,
        through: Revision,
        bounds: PageBounds,
    ) -> Result<ScanPage<(Revision, Saga)>, StoreError> {
        let (found, through) = self.look(async |client| {
            let through =
                if queues.is_empty() { through } else { window(client, sql::STALE_WINDOW, after, through).await? };
            let limit = limit_of(bounds.sagas);
            let found = sagas(client, sql::STALE, &[&after.0, &through.0, &names(queues), &limit]).await?;
            Ok((found, through))
        })?;
        let mut found: Vec<_> =
            found.into_iter().filter_map(|(_, saga)| Some((saga.reported_stale()?, saga))).collect();
        found.sort_by_key(|(revision, _)| *revision);
        Ok(bounds.admitted(found, through))
    }

    fn ended(&self, state: State, before: Timestamp, limit: usize) -> Result<Vec<Saga>, StoreError> {
        let limit = limit_of(limit);
        let found =
            self.look(async |client| sagas(client, sql::ENDED, &[&state.code(), &before.micros(), &limit]).await)?;
        Ok(found.into_iter().map(|(_, saga)| saga).collect())
    }

    fn counts(&self, read_time: &ReadTime) -> Result<Vec<QueueStats>, StoreError> {
        let now = read_time.now;
        let known = self.ready.lock().clone().filter(|known| known.holds_at(now));
        let (counted, ready) = self.look(async |client| {
            let (queues, states, stale) = try_join3(
                client.query(sql::QUEUES, &[&"", &i64::MAX]),
                client.query(sql::QUEUE_COUNTS, &[]),
                client.query(sql::STALE_COUNTS, &[]),
            )
            .await?;
            let ready = match known {
                Some(known) => known,
                None => ready_snapshot(&client.query(sql::READY_COUNTS, &[]).await?, now)?,
            };
            let mut all = Vec::new();
            for row in queues {
                let id: i64 = integer(&row, 5)?;
                let of_ready = ready.by_queue.get(&id).copied().unwrap_or_default();
                let mut of_queue = QueueStats {
                    queue: parsed(&row, 0, QueueName::parse)?,
                    paused: integer::<i64>(&row, 1)? == 1,
                    states: Vec::new(),
                    ready: of_ready.sagas,
                    stale: 0,
                    oldest_ready_age: of_ready.since.map(|since| now.since(since)),
                };
                for row in states.iter() {
                    if integer::<i64>(row, 0)? == id {
                        of_queue.states.extend(state_count(integer(row, 1)?, integer(row, 2)?));
                    }
                }
                of_queue.states.sort();
                for row in &stale {
                    if integer::<i64>(row, 0)? == id {
                        of_queue.stale = integer::<i64>(row, 1)?.unsigned_abs();
                    }
                }
                all.push(of_queue);
            }
            Ok((all, ready))
        })?;
        *self.ready.lock() = Some(ready);
        Ok(counted)
    }

    fn queues(&self, after: Option<&QueueName>, limit: usize) -> Result<Vec<QueueStatus>, StoreError> {
        // No queue has an empty name, so all names come after it.
        let after = after.map_or("", QueueName::as_str);
        self.look(async |client| {
            let rows = client.query(sql::QUEUES, &[&after, &limit_of(limit)]).await?;
            rows.iter().map(queue_status).collect()
        })
    }

    fn backup(&self, _: &Path) -> Result<Revision, StoreError> {
        let what =
            "the store is in PostgreSQL: back it up with pg_dump or continuous archiving, see docs/how-to/cluster.md";
        Err(StoreError::Unavailable(what.into()))
    }
}

fn ready_snapshot(rows: &[Row], at: Timestamp) -> Result<ReadySnapshot, PostgresError> {
    let mut snapshot = ReadySnapshot { at, ..ReadySnapshot::default() };
    for row in rows {
        let sagas = integer::<i64>(row, 1)?.unsigned_abs();
        snapshot.entries += sagas;
        snapshot.by_queue.insert(integer(row, 0)?, ReadyCount { sagas, since: maybe(row, 2)? });
    }
    Ok(snapshot)
}

fn queue_status(row: &Row) -> Result<QueueStatus, PostgresError> {
    Ok(QueueStatus {
        queue: parsed(row, 0, QueueName::parse)?,
        paused: integer::<i64>(row, 1)? == 1,
        actor: maybe_text(row, 2)?.map(|_| parsed(row, 2, Actor::stored)).transpose()?,
        reason: parsed(row, 3, Text::stored)?,
        change_time: maybe(row, 4)?,
    })
}
