//! [`PostgresWriter`]: the elected coordinator's connection, with the loads and writes of a turn.
//!
//! A turn takes two round trips. The first loads what is not in memory. The second has the changes: `BEGIN`, the fence,
//! the changes and `COMMIT` are all sent before the first answer is awaited. If a statement finds fewer rows than it
//! must, it ends the transaction in the database, and the `COMMIT` after it commits nothing. PostgreSQL reports such a
//! `COMMIT` as a success, so every result is checked.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, thread, time::Duration};

use futures::future::{FutureExt, LocalBoxFuture, join_all, try_join};
use tokio_postgres::{Client, Statement, types::ToSql};

use crate::{
    clock::Clock,
    coordinator::{
        Backend, BackendError, ChangeSet, ContentBytes, LoadKey, LoadResult, MaintenanceBudget, ReadyPosition,
        ReadyScan, RemovalCounts, RowId, StoredAnswer,
    },
    domain::{
        event::{Event, EventType},
        ids::{FencingToken, QueueName, Revision},
        saga::{Saga, State},
        text::Blob,
        time::{Span, Timestamp},
    },
    mutants::{self, Mutant},
};

use super::{
    super::columns::{codes::Coded, decode},
    column_arrays::ColumnArrays,
    connect_options::ConnectOptions,
    connection::PostgresConnection,
    durability::check_durability,
    election::{Epoch, try_lock},
    encode::EncodedChanges,
    error::PostgresError,
    load,
    open_error::{OpenError, SCHEMA_VERSION},
    sql,
    statements::WriterStatements,
    values::integer,
};

/// How long the writer tries to find out whether a commit happened after its answer was lost. A database restarts or
/// fails over within this time.
const RESOLVE_WITHIN: Span = Span::from_secs(30);
const RECONNECT_EVERY: Duration = Duration::from_millis(200);
/// How often an idle writer updates `alive_time`.
const ALIVE_EVERY: Span = Span::from_secs(1);

/// Writes a store in PostgreSQL, as the coordinator of one epoch.
pub struct PostgresWriter {
    options: ConnectOptions,
    connection: PostgresConnection,
    statements: WriterStatements,
    epoch: i64,
    /// The number of committed turns.
    turn: i64,
    /// The numbers of all queues.
    queues: HashMap<QueueName, i64>,
    /// What the next turn will read, loaded in advance.
    loaded: LoadedAhead,
    /// True if the database is away; then the lock may be lost too.
    is_away: bool,
    clock: Arc<dyn Clock>,
    alive_at: Timestamp,
}

/// Sagas and answers that were loaded before their turn began.
#[derive(Default)]
struct LoadedAhead {
    sagas: HashMap<LoadKey, LoadResult>,
    answers: HashMap<[u8; 16], Option<StoredAnswer>>,
}

/// How a commit ended.
enum Ended {
    Committed,
    /// The commit did not happen.
    Not(PostgresError),
    /// The connection was lost when the commit may have been on its way.
    Unknown(String),
}

impl PostgresWriter {
    /// A writer on the connection that took over.
    pub(super) fn new(
        options: ConnectOptions,
        connection: PostgresConnection,
        epoch: Epoch,
        queues: HashMap<QueueName, i64>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PostgresError> {
        let statements = WriterStatements::prepare(&connection)?;
        Ok(PostgresWriter {
            options,
            connection,
            statements,
            epoch: epoch.epoch,
            turn: epoch.turn,
            queues,
            loaded: LoadedAhead::default(),
            is_away: false,
            alive_at: clock.now(),
            clock,
        })
    }

    /// Reads for a turn. If the connection breaks, it is replaced before the next turn.
    fn read<T>(
        &mut self,
        read: impl AsyncFnOnce(&Client, &WriterStatements) -> Result<T, PostgresError>,
    ) -> Result<T, BackendError> {
        let done = self.connection.run(async |client| read(client, &self.statements).await);
        done.map_err(|error| self.fault(error))
    }

    /// Converts an error that came before the commit: nothing was changed.
    fn fault(&mut self, error: PostgresError) -> BackendError {
        match error {
            PostgresError::Full(_) => {
                self.is_away = true;
                BackendError::Full
            }
            PostgresError::Damaged(what) => BackendError::Corrupt(what),
            PostgresError::NotTheWriter => BackendError::Deposed,
            PostgresError::Away(what) => {
                self.is_away = true;
                BackendError::Away(what)
            }
            PostgresError::Refused(what) => BackendError::Unavailable(what),
        }
    }

    /// Loads sagas by keys, in one round trip.
    fn load_keys(&mut self, keys: &[LoadKey]) -> Result<Vec<LoadResult>, BackendError> {
        let (mut tasks, mut sagas, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            match key {
                LoadKey::Task(id) => tasks.push(id.as_str()),
                LoadKey::Saga(id) => sagas.push(id.as_str()),
                LoadKey::Row(id) => rows.push(id.0),
            }
        }
        let found = self.read(async |client, statements| {
            let keys: [&(dyn ToSql + Sync); 3] = [&tasks, &sagas, &rows];
            let (found, compensations) =
                try_join(client.query(&statements.sagas, &keys), client.query(&statements.compensations, &keys))
                    .await?;
            load::sagas(&found, &compensations)
        })?;
        let mut loaded = HashMap::new();
        for read in found {
            match read {
                Ok((id, saga)) => {
                    let saga = Arc::new(saga);
                    let own = [
                        LoadKey::Task(saga.spec.task_id.clone()),
                        LoadKey::Saga(saga.spec.saga_id.clone()),
                        LoadKey::Row(id),
                    ];
                    loaded.extend(own.map(|key| (key, LoadResult::Saga(id, saga.clone()))));
                }
                // A row that can't be read doesn't say which key it belongs to, so several keys are loaded one by one.
                Err(damaged) if keys.len() == 1 => return Ok(vec![LoadResult::Unreadable(damaged.0)]),
                Err(_) => return keys.iter().map(|key| self.load_key(key)).collect(),
            }
        }
        Ok(keys.iter().map(|key| loaded.get(key).cloned().unwrap_or(LoadResult::Nothing)).collect())
    }

    fn load_key(&mut self, key: &LoadKey) -> Result<LoadResult, BackendError> {
        Ok(self.load_keys(std::slice::from_ref(key))?.pop().unwrap_or(LoadResult::Nothing))
    }

    /// Sends a turn's changes, and waits for all results.
    fn send(&self, changes: &ChangeSet, encoded: &EncodedChanges<'_>) -> Ended {
        let statements = &self.statements;
        let forget =
            changes.forget_answers.map(|(before, limit)| (before.micros(), i64::try_from(limit).unwrap_or(i64::MAX)));
        let fence: [&(dyn ToSql + Sync); 6] =
            [&self.epoch, &self.turn, &SCHEMA_VERSION, &encoded.next_revision, &encoded.next_row, &encoded.compacted];
        let sent = self.connection.run(async |client| {
            let mut pipeline = Pipeline { client, sent: vec![client.batch_execute("BEGIN").boxed_local()] };
            if !mutants::on(Mutant::EpochUnchecked) {
                pipeline.add(&statements.fence, fence.to_vec());
            }
            // Removals come first: new sagas may have the ids of removed ones.
            if !encoded.removed.is_empty() {
                let every = [
                    &statements.remove,
                    &statements.remove_events,
                    &statements.remove_compensations,
                    &statements.remove_contents,
                    &statements.remove_sagas,
                ];
                every.into_iter().for_each(|statement| pipeline.add(statement, vec![&encoded.removed]));
            }
            for (statement, rows) in
                [(&statements.end_work, &encoded.ended_work), (&statements.unend, &encoded.gone_from_ended)]
            {
                if !rows.is_empty() {
                    pipeline.add(statement, vec![rows]);
                }
            }
            let arrays: [(&Statement, &ColumnArrays<'_>); 11] = [
                (&statements.add_queues, &encoded.new_queues),
                (&statements.add_sagas, &encoded.new_sagas),
                (&statements.add_work, &encoded.new_work),
                (&statements.change_work, &encoded.changed_work),
                (&statements.add_ended, &encoded.ended),
                (&statements.put_contents, &encoded.contents),
                (&statements.put_compensations, &encoded.compensations),
                (&statements.add_counts, &encoded.counts),
                (&statements.add_events, &encoded.events),
                (&statements.keep_answers, &encoded.answers),
                (&statements.set_paused, &encoded.paused),
            ];
            for (statement, rows) in arrays.into_iter().filter(|(_, rows)| !rows.is_empty()) {
                pipeline.add(statement, rows.parameters());
            }
            if let Some((before, limit)) = &forget {
                pipeline.add(&statements.forget_answers, vec![before, limit]);
            }
            pipeline.sent.push(client.batch_execute("COMMIT").boxed_local());
            let mut results = join_all(pipeline.sent).await;
            let committed = results.pop().expect("the commit's");
            // The first error says what failed. Those after it only say that the transaction had ended. If the connection
            // was lost, the commit may have arrived.
            if let Some(failed) = results.into_iter().find_map(Result::err) {
                let is_lost = failed.is_closed();
                let error = PostgresError::from(failed);
                return Ok(if is_lost { Ended::Unknown(error.to_string()) } else { Ended::Not(error) });
            }
            Ok(committed
                .map_or_else(|error| Ended::Unknown(PostgresError::from(error).to_string()), |()| Ended::Committed))
        });
        sent.unwrap_or_else(|error| Ended::Unknown(error.to_string()))
    }

    /// Finds out whether a turn was committed after its answer was lost.
    fn resolve(&mut self, what: &str) -> Result<(), BackendError> {
        tracing::warn!(what, "the connection to the database was lost during a commit; asking whether it happened");
        let until = self.clock.now().plus(RESOLVE_WITHIN);
        loop {
            match self.reconnect() {
                Ok(turn) if turn > self.turn => return Ok(()),
                Ok(_) => return Err(BackendError::Away(format!("{what}; the turn was not committed"))),
                Err(OpenError::Deposed { last_turn }) if last_turn > self.turn => return Ok(()),
                Err(OpenError::Deposed { .. }) => return Err(BackendError::Deposed),
                Err(error) if error.may_pass() && self.clock.now() < until => thread::sleep(RECONNECT_EVERY),
                Err(error) => return Err(BackendError::OutcomeUnknown(format!("{what}; then: {error}"))),
            }
        }
    }

    /// Connects again and takes the lock; returns how many turns are committed.
    ///
    /// # Errors
    /// The database is away, another coordinator has taken over, or it is not the same database any more.
    fn reconnect(&mut self) -> Result<i64, OpenError> {
        let connection = PostgresConnection::connect(&self.options)?;
        check_durability(&connection, &self.options)?;
        let failed = |error| self.options.error(error);
        // Waits for a transaction of the lost connection that still runs.
        let (epoch, turn, is_same) = connection
            .run(async |client| {
                let row = client.query_one(sql::TURN, &[]).await?;
                let same = client.query_one(sql::IS_SAME_TIMELINE, &[]).await?;
                Ok((integer::<i64>(&row, 0)?, integer::<i64>(&row, 1)?, integer::<i64>(&same, 0)? == 1))
            })
            .map_err(failed)?;
        if epoch != self.epoch {
            let last = connection.run(async |client| {
                let row = client.query_opt(sql::FIRST_TURN_BEHIND, &[&self.epoch]).await?;
                row.map_or(Ok(0), |row| Ok(integer::<i64>(&row, 0)? - 1))
            });
            return Err(OpenError::Deposed { last_turn: last.map_err(failed)? });
        }
        if !is_same {
            return Err(OpenError::FailedOver);
        }
        if !try_lock(&connection).map_err(failed)? {
            // The lost session may not have ended yet, or another coordinator is taking over.
            return Err(self.options.unreachable("another session holds the writer's lock"));
        }
        self.statements = WriterStatements::prepare(&connection).map_err(failed)?;
        self.connection = connection;
        Ok(turn)
    }

    /// Replaces a broken connection, and checks that the database accepts a write.
    fn come_back(&mut self) -> Result<(), BackendError> {
        if self.connection.is_closed() || self.stay_alive().is_err() {
            match self.reconnect() {
                Ok(turn) if turn == self.turn => {}
                Ok(turn) => {
                    let what = format!("turn {turn} was committed, though {} was the last known", self.turn);
                    return Err(BackendError::Unavailable(what));
                }
                Err(OpenError::Deposed { .. }) => return Err(BackendError::Deposed),
                Err(error) if error.may_pass() => {
                    thread::sleep(RECONNECT_EVERY);
                    return Err(BackendError::Away(error.to_string()));
                }
                Err(error) => return Err(BackendError::Unavailable(error.to_string())),
            }
            self.stay_alive().map_err(|error| self.fault(error))?;
        }
        self.is_away = false;
        Ok(())
    }

    /// Updates `alive_time`; fails if this coordinator is not the writer any more.
    fn stay_alive(&mut self) -> Result<(), PostgresError> {
        let changed = self.connection.run(async |client| {
            Ok(client.execute(&self.statements.stay_alive, &[&self.epoch, &SCHEMA_VERSION]).await?)
        })?;
        self.alive_at = self.clock.now();
        if changed == 1 { Ok(()) } else { Err(PostgresError::NotTheWriter) }
    }
}

/// Statements that are all sent before the first result is awaited. Each is sent when its future is first polled, so
/// they are sent in this order.
struct Pipeline<'a> {
    client: &'a Client,
    sent: Vec<LocalBoxFuture<'a, Result<(), tokio_postgres::Error>>>,
}

impl<'a> Pipeline<'a> {
    fn add(&mut self, statement: &'a Statement, parameters: Vec<&'a (dyn ToSql + Sync)>) {
        let client = self.client;
        self.sent.push(async move { client.execute(statement, &parameters).await.map(drop) }.boxed_local());
    }
}

impl Backend for PostgresWriter {
    const IS_REMOTE: bool = true;

    fn load_ahead(&mut self, keys: Vec<LoadKey>, answers: &[[u8; 16]]) -> Result<(), BackendError> {
        let sagas = if keys.is_empty() { Vec::new() } else { self.load_keys(&keys)? };
        let found = if answers.is_empty() { Vec::new() } else { self.stored_answers(answers)? };
        self.loaded = LoadedAhead {
            sagas: keys.into_iter().zip(sagas).collect(),
            answers: answers.iter().copied().zip(found).collect(),
        };
        Ok(())
    }

    fn load(&mut self, keys: &[LoadKey]) -> Result<Vec<LoadResult>, BackendError> {
        let loaded: Option<Vec<_>> = keys.iter().map(|key| self.loaded.sagas.get(key).cloned()).collect();
        loaded.map_or_else(|| self.load_keys(keys), Ok)
    }

    fn load_without_contents(
        &mut self,
        id: RowId,
        compensations: bool,
    ) -> Result<Option<(Saga, ContentBytes)>, BackendError> {
        self.read(async |client, statements| {
            let (id, ids) = (id.0, vec![id.0]);
            let (id, ids): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&id], [&ids]);
            let (found, of) =
                try_join(client.query(&statements.brief, &id), client.query(&statements.compensations_of_rows, &ids))
                    .await?;
            let Some(row) = found.first() else { return Ok(None) };
            let bytes = |column| integer::<i64>(row, column).map(|bytes| usize::try_from(bytes).unwrap_or_default());
            let contents = ContentBytes {
                payload: bytes(sql::BRIEF_PAYLOAD_BYTES)?,
                outcome: bytes(sql::BRIEF_PAYLOAD_BYTES + 1)?,
            };
            let (_, mut saga, _) = decode::saga(row)?;
            if compensations {
                saga.compensations = of.iter().map(decode::compensation).collect::<Result<_, _>>()?;
            }
            Ok(Some((saga, contents)))
        })
    }

    fn payload(&mut self, id: RowId) -> Result<Option<Blob>, BackendError> {
        self.read(async |client, statements| {
            let row = client.query_opt(&statements.payload, &[&id.0]).await?;
            let Some(row) = row else { return Ok(None) };
            let payload: &[u8] = row.try_get(0)?;
            let parsed = Blob::parse(bytes::Bytes::copy_from_slice(payload));
            parsed.map(Some).map_err(|e| PostgresError::Damaged(format!("row {}, column payload: {}", id.0, e.0)))
        })
    }

    fn answers(&mut self, ids: &[[u8; 16]]) -> Result<Vec<Option<StoredAnswer>>, BackendError> {
        if let [id] = ids
            && let Some(found) = self.loaded.answers.get(id)
        {
            return Ok(vec![found.clone()]);
        }
        self.stored_answers(ids)
    }

    fn lease_events(&mut self, id: RowId, token: FencingToken, newest: usize) -> Result<Vec<Event>, BackendError> {
        let limit = i64::try_from(newest).unwrap_or(i64::MAX);
        self.read(async |client, statements| {
            let (first, newest): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 3]) =
                ([&id.0, &token.0], [&id.0, &token.0, &limit]);
            let (first, newest) =
                try_join(client.query(&statements.claimed, &first), client.query(&statements.newest_events, &newest))
                    .await?;
            let mut found = load::events(&first)?;
            let ended = load::events(&newest)?.into_iter().find(|event| {
                event.token == Some(token)
                    && event.kind != EventType::CompensationSettled
                    && event.details.contains_key("ended_by")
            });
            found.extend(ended);
            Ok(found)
        })
    }

    fn ready(&mut self, scan: &ReadyScan) -> Result<Vec<ReadyPosition>, BackendError> {
        let Some(queue) = self.queues.get(&scan.queue).copied() else { return Ok(Vec::new()) };
        let (rank, after) =
            scan.after.map_or((i64::MIN, 0), |(Reverse(priority), after)| (-i64::from(priority), after.0));
        let limit = i64::try_from(scan.limit).unwrap_or(i64::MAX);
        self.read(async |client, statements| {
            let rows = client.query(&statements.ready, &[&scan.purpose.code(), &queue, &rank, &after, &limit]).await?;
            rows.iter().map(|row| Ok((Reverse(integer(row, 1)?), integer(row, 0)?))).collect()
        })
    }

    fn queue_exists(&mut self, queue: &QueueName) -> Result<bool, BackendError> {
        Ok(self.queues.contains_key(queue))
    }

    fn ended(
        &mut self,
        states: &[State],
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RowId)>, BackendError> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut found = self.read(async |client, statements| {
            let mut found = Vec::new();
            // One query for each state, so that sagas of a state that is kept for ever are not scanned each time.
            for state in states {
                for row in client.query(&statements.purgeable, &[&state.code(), &before.micros(), &most]).await? {
                    found.push((integer(&row, 1)?, integer(&row, 0)?));
                }
            }
            Ok(found)
        })?;
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    fn count_removal(&mut self, id: RowId) -> Result<RemovalCounts, BackendError> {
        self.read(async |client, statements| {
            let row = client.query_one(&statements.count_removal, &[&id.0]).await?;
            let count = |index| integer::<i64>(&row, index).map(|count| usize::try_from(count).unwrap_or_default());
            let newest: Revision = integer(&row, 2)?;
            Ok(RemovalCounts { events: count(0)?, compensations: count(1)?, newest })
        })
    }

    fn commit(&mut self, changes: &ChangeSet) -> Result<(), BackendError> {
        self.loaded = LoadedAhead::default();
        let encoded = EncodedChanges::of(changes, &self.queues);
        match self.send(changes, &encoded) {
            Ended::Committed => {}
            Ended::Unknown(what) => self.resolve(&what)?,
            Ended::Not(error) => {
                return Err(match self.fault(error) {
                    BackendError::Corrupt(what) => self.whose_rows(changes, what),
                    fault => fault,
                });
            }
        }
        self.turn += 1;
        self.alive_at = self.clock.now();
        self.queues.extend(encoded.queues);
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), BackendError> {
        self.loaded = LoadedAhead::default();
        let epoch = self.epoch;
        let found = self.read(async |client, statements| {
            Ok(client.query_opt(&statements.is_writer, &[&epoch, &SCHEMA_VERSION]).await?)
        })?;
        if found.is_some() { Ok(()) } else { Err(BackendError::Deposed) }
    }

    fn maintain(&mut self, _: MaintenanceBudget) -> Result<bool, BackendError> {
        self.loaded = LoadedAhead::default();
        if self.is_away {
            self.come_back()?;
        }
        if self.clock.now().since(self.alive_at) >= ALIVE_EVERY {
            self.stay_alive().map_err(|error| self.fault(error))?;
        }
        Ok(false)
    }

    fn close(&mut self, now: Timestamp) -> Result<(), BackendError> {
        let epoch = self.epoch;
        let closed =
            self.connection.run(async |client| Ok(client.execute(sql::CLOSE, &[&epoch, &now.micros()]).await?));
        closed.map(drop).map_err(|error| self.fault(error))
    }
}

impl PostgresWriter {
    fn stored_answers(&mut self, ids: &[[u8; 16]]) -> Result<Vec<Option<StoredAnswer>>, BackendError> {
        let wanted: Vec<&[u8]> = ids.iter().map(|id| &id[..]).collect();
        let found = self.read(async |client, statements| {
            let mut found = HashMap::new();
            for row in client.query(&statements.answers, &[&wanted]).await? {
                let damaged = || PostgresError::Damaged("an answer can't be read".to_owned());
                let id: [u8; 16] = row.try_get::<_, &[u8]>(0)?.try_into().map_err(|_| damaged())?;
                let digest: [u8; 16] = row.try_get::<_, &[u8]>(1)?.try_into().map_err(|_| damaged())?;
                let sagas: Vec<(i64, Option<i64>)> = serde_json::from_str(row.try_get(3)?).map_err(|_| damaged())?;
                let sagas = sagas.into_iter().map(|(id, token)| (RowId(id), token.map(FencingToken))).collect();
                found.insert(id, StoredAnswer { digest, time: integer(&row, 2)?, sagas });
            }
            Ok(found)
        })?;
        // An id may be asked for twice.
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    /// Finds the saga whose rows the turn could not change, by trying each saga separately.
    fn whose_rows(&mut self, changes: &ChangeSet, what: String) -> BackendError {
        let stored =
            changes.sagas.iter().filter_map(|change| Some((change.id, change.before.as_ref()?.state.is_terminal())));
        let removed = changes.removed.iter().map(|id| (*id, true));
        let found = self.connection.run(async |client| {
            for (id, is_ended) in removed.chain(stored) {
                client.batch_execute("BEGIN").await?;
                let tried = client.execute(if is_ended { sql::TRY_ENDED } else { sql::TRY_WORK }, &[&id.0]).await;
                client.batch_execute("ROLLBACK").await?;
                if tried.is_ok_and(|rows| rows == 0) {
                    return Ok(Some(id));
                }
            }
            Ok(None)
        });
        match found {
            Ok(Some(id)) => BackendError::Unwritable(id, what),
            Ok(None) => BackendError::Corrupt(what),
            Err(error) => self.fault(error),
        }
    }
}
