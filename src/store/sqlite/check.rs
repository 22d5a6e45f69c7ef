//! Verifying a store that no daemon has open: SQLite's own structures, every row, and what holds across tables.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, OpenFlags, Row};

use crate::domain::{
    compensation::Compensation,
    event::{Event, EventType},
    ids::Revision,
    lease::{Lease, Standing},
    saga::{Saga, State},
};

use super::{
    super::rows::{RowId, RowsError},
    checkpoint::PAGE_BYTES,
    codec, counts,
    guard::{Found, OpenError, inspect, open_error, take_directory},
    load::{compensations, events, rows_error},
    shrink::Room,
    sql,
};

/// Findings that are told one by one; further ones are counted.
const TOLD: usize = 100;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sagas looked at.
    pub sagas: u64,
    /// Events looked at.
    pub events: u64,
    /// The newest event.
    pub head: Revision,
    /// Bytes of the file.
    pub bytes: u64,
    /// Of them, what holds nothing.
    pub free_bytes: u64,
    /// What is wrong, a sentence each: the first hundred.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl Report {
    /// Whether so much holds nothing that it is worth giving back.
    pub fn has_much_room(&self) -> bool {
        Room::of_bytes(self.free_bytes, self.bytes).is_much()
    }

    fn add(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(problem);
        }
    }
}

/// Verifies the store in a directory, changing nothing in it. Fails when there is none, or when it is in use.
pub fn check(data: &Path) -> Result<Report, OpenError> {
    let path = data.join("sagad.db");
    if !path.exists() {
        return Err(OpenError::Unusable { path, what: "there is no store here".into() });
    }
    let _lock = take_directory(data)?;
    check_file(&path)
}

/// Verifies one database file.
pub fn check_file(path: &Path) -> Result<Report, OpenError> {
    if inspect(path)? == Found::Nothing {
        return Err(OpenError::Unusable { path: path.to_owned(), what: "there is no store in it".into() });
    }
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    let mut report = Report::default();
    let room = Room::of(&connection).map_err(|e| OpenError::Unusable { path: path.to_owned(), what: e.to_string() })?;
    report.bytes = room.all.unsigned_abs() * PAGE_BYTES;
    report.free_bytes = room.free.unsigned_abs() * PAGE_BYTES;
    check_structures(&connection, &mut report).map_err(failed)?;
    // What is broken below can't be relied on to be read above.
    if report.problem_count == 0 {
        check_numbers(&connection, &mut report).map_err(failed)?;
        check_sagas(&connection, &mut report)
            .map_err(|e| OpenError::Unusable { path: path.to_owned(), what: e.to_string() })?;
    }
    Ok(report)
}

/// Runs a statement for each of its rows.
fn each(
    connection: &Connection,
    sql: &'static str,
    mut seen: impl FnMut(&Row<'_>) -> Result<(), rusqlite::Error>,
) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        seen(row)?;
    }
    Ok(())
}

fn check_structures(connection: &Connection, report: &mut Report) -> Result<(), rusqlite::Error> {
    each(connection, sql::INTEGRITY_CHECK, |row| {
        let said: String = row.get(0)?;
        if said != "ok" {
            report.add(format!("the file: {said}"));
        }
        Ok(())
    })?;
    each(connection, sql::FOREIGN_KEY_CHECK, |row| {
        let (table, id, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let id = id.map_or("?".to_owned(), |id| id.to_string());
        report.add(format!("{table}: row {id} belongs to a row of {parent} that is not there"));
        Ok(())
    })?;
    each(connection, sql::SAGAS_WITHOUT_WORK, |row| {
        report.add(format!("saga: row {} has no state", row.get::<_, i64>(0)?));
        Ok(())
    })
}

fn check_numbers(connection: &Connection, report: &mut Report) -> Result<(), rusqlite::Error> {
    report.head = Revision(connection.query_row(sql::HEAD, [], |row| row.get(0))?);
    let floor: i64 = connection.query_row(sql::META, ["revision_floor"], |row| row.get(0))?;
    if report.head.0 >= floor {
        report.add(format!(
            "meta: the newest event has revision {}, but revisions are reserved below {floor} only",
            report.head
        ));
    }
    check_counts(connection, report)?;
    each(connection, sql::EVENTS_IN_GAPS, |row| {
        report.add(format!("event {}: lies in a gap of revisions that were never given", row.get::<_, i64>(0)?));
        Ok(())
    })?;
    each(connection, sql::EVENTS_OUT_OF_TIME, |row| {
        report.add(format!("event {}: is older than the event before it", row.get::<_, i64>(0)?));
        Ok(())
    })
}

/// The counts that are kept are those of the rows.
fn check_counts(connection: &Connection, report: &mut Report) -> Result<(), rusqlite::Error> {
    let (Some(kept), found) = (counts::stored(connection)?, counts::scan(connection)?) else { return Ok(()) };
    let queues: BTreeSet<_> = kept.keys().chain(found.keys()).collect();
    for queue in queues {
        let (kept, found) = (kept.get(queue).copied(), found.get(queue).copied());
        let (kept, found) = (kept.unwrap_or_default(), found.unwrap_or_default());
        if kept != found {
            report.add(format!("queue_count: queue {queue} is counted as {kept}, but has {found}"));
        }
    }
    Ok(())
}

fn check_sagas(connection: &Connection, report: &mut Report) -> Result<(), RowsError> {
    let mut statement = connection.prepare(sql::ALL_SAGAS).map_err(rows_error)?;
    let mut rows = statement.query([]).map_err(rows_error)?;
    while let Some(row) = rows.next().map_err(rows_error)? {
        report.sagas += 1;
        let due_at: Option<i64> = row.get("due_at").map_err(rows_error)?;
        let found = codec::saga(row).and_then(|(id, saga, count)| {
            Ok((id, saga, count, compensations(connection, id)?, history(connection, id)?))
        });
        match found {
            Ok((_, mut saga, count, compensations, history)) => {
                report.events += history.len() as u64;
                saga.compensations = compensations;
                let mut wrong = Vec::new();
                check_saga(&saga, count, due_at, &mut wrong);
                check_history(&saga, &history, &mut wrong);
                for what in wrong {
                    report.add(format!("saga {}: {what}", saga.task_id()));
                }
            }
            Err(RowsError::Corrupt(what)) => report.add(format!("can't be read: {what}")),
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

fn history(connection: &Connection, id: RowId) -> Result<Vec<Event>, RowsError> {
    let mut statement = connection.prepare_cached(sql::EVENTS_OF_ROW).map_err(rows_error)?;
    events(&mut statement, [id.0])
}

/// What must hold of a saga by itself.
fn check_saga(saga: &Saga, count: u32, due_at: Option<i64>, wrong: &mut Vec<String>) {
    if count as usize != saga.compensations.len() {
        wrong.push(format!("{count} compensations are counted, {} are there", saga.compensations.len()));
    }
    if !(1u32..).zip(&saga.compensations).all(|(position, compensation)| compensation.position == position) {
        wrong.push("its compensations are not numbered 1, 2, …".into());
    }
    if saga.state == State::Compensated && !saga.compensations.iter().all(Compensation::is_settled) {
        wrong.push("it is COMPENSATED, but not all of its compensations are done or waived".into());
    }
    if saga.state == State::Failed && saga.compensations.is_empty() {
        wrong.push("it is FAILED without a compensation record".into());
    }
    if let Some(Lease { standing: Standing::Held, expire_time, .. }) = &saga.lease
        && due_at != Some(expire_time.micros())
    {
        wrong.push(format!("its lease ends at {expire_time}, but that is not when it is looked at"));
    }
}

/// What must hold between a saga and its history.
fn check_history(saga: &Saga, history: &[Event], wrong: &mut Vec<String>) {
    let (Some(first), Some(last)) = (history.first(), history.last()) else {
        wrong.push("it has no history".into());
        return;
    };
    if first.kind != EventType::Created {
        wrong.push("its history does not begin with its creation".into());
    }
    if last.revision != saga.revision {
        wrong.push(format!("its revision is {}, its last event's is {}", saga.revision, last.revision));
    }
    if last.to_state != saga.state {
        let (state, told) = (saga.state.name(), last.to_state.name());
        wrong.push(format!("it is {state}, but its last event says {told}"));
    }
    for pair in history.windows(2) {
        if pair[1].from_state != Some(pair[0].to_state) {
            wrong.push(format!("event {} does not begin where event {} ended", pair[1].revision, pair[0].revision));
        }
    }
    let Some(lease) = &saga.lease else { return };
    let claimed = history.iter().find(|event| event.revision.0 == lease.token.0);
    let by_owner = |event: &Event| event.actor.as_ref().is_some_and(|actor| actor.as_str() == lease.owner.as_str());
    if !claimed.is_some_and(|event| event.kind == EventType::Claimed && by_owner(event)) {
        wrong.push(format!("its lease's token {} is not that of a claim by {}", lease.token, lease.owner));
    }
    if let Standing::Expired { revision, .. } = lease.standing
        && !history.iter().any(|event| event.revision == revision && event.kind == EventType::LeaseExpired)
    {
        wrong.push(format!("its lease is reported as expired by event {revision}, which is not there"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks a healthy store by one statement; returns what is found.
    fn broken_by(statement: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        drop(super::super::open_rows(&path, 1 << 20).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(include_str!("healthy.sql")).unwrap();
        assert_eq!(check_file(&path).unwrap().problems, Vec::<String>::new(), "the store was healthy");
        connection.execute_batch("PRAGMA ignore_check_constraints = 1; PRAGMA foreign_keys = 0").unwrap();
        connection.execute_batch(statement).unwrap();
        check_file(&path).unwrap().problems
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        for (statement, expected) in [
            ("UPDATE work SET state = 99 WHERE id = 1", "99"),
            ("UPDATE saga SET labels = 'x' WHERE id = 1", "label"),
            ("UPDATE saga SET task_id = '..' WHERE id = 1", "task_id"),
            ("UPDATE work SET revision = 1 WHERE id = 1", "its revision is 1"),
            ("UPDATE work SET state = 4 WHERE id = 1", "its last event says RUNNING"),
            ("UPDATE work SET lease_token = 1 WHERE id = 1", "is not that of a claim"),
            ("UPDATE work SET lease_owner = 'other' WHERE id = 1", "is not that of a claim"),
            ("UPDATE work SET due_at = NULL WHERE id = 1", "not when it is looked at"),
            ("UPDATE work SET compensations = 3 WHERE id = 1", "3 compensations are counted"),
            ("UPDATE compensation SET position = 9 WHERE saga = 1", "not numbered"),
            ("DELETE FROM work WHERE id = 1", "has no state"),
            ("DELETE FROM saga WHERE id = 1", "that is not there"),
            ("DELETE FROM event WHERE revision = 1", "does not begin with its creation"),
            ("UPDATE event SET from_state = 4 WHERE revision = 2", "does not begin where"),
            ("UPDATE event SET time = 1 WHERE revision = 2", "is older than"),
            ("UPDATE meta SET value = 2 WHERE key = 'revision_floor'", "reserved below 2"),
            ("INSERT INTO queue_count VALUES (1, 0, 0, 1, 0, 0, 0, 0, 0)", "counted as RUNNING 2, but has RUNNING 1"),
            ("UPDATE meta SET value = 2 WHERE key = 'counted'", "counted as nothing, but has RUNNING 1"),
            ("INSERT INTO gap VALUES (1, 5)", "lies in a gap"),
        ] {
            let problems = broken_by(statement);
            assert!(problems.iter().any(|p| p.contains(expected)), "{statement}: {problems:?}");
        }
    }

    #[test]
    fn damage_to_the_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        drop(super::super::open_rows(&path, 1 << 20).unwrap());
        Connection::open(&path).unwrap().execute_batch(include_str!("healthy.sql")).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 512].fill(0x5A);
        std::fs::write(&path, bytes).unwrap();
        let found = check_file(&path);
        assert!(found.is_err() || found.is_ok_and(|report| report.problem_count > 0));
    }
}
