//! Verifies a store that no daemon has open: SQLite's structures, every row, and what must hold across tables.

use std::{collections::BTreeSet, path::Path};

use rusqlite::{Connection, OptionalExtension, Row};

use crate::coordinator::RowId;
use crate::domain::{
    compensation::Compensation,
    event::{Event, EventType},
    ids::Revision,
    lease::{Lease, LeasePurpose, Standing},
    saga::{Saga, State},
    time::Timestamp,
};

use super::{
    super::columns::{codes::Coded, decode},
    checkpoint::PAGE_BYTES,
    connection,
    error::SqliteError,
    history,
    initial_state::{last_row, stored_initial_state},
    load::{self, compensations, each},
    open_checks::{inspect, take_directory},
    open_error::{FoundDatabase, OpenError, open_error},
    reader::queue_statuses,
    shrinker::PageUsage,
    sql, state_counts, values,
};

/// The schema version since which sagas in flight have a table of their own.
const NARROW_SINCE: i32 = 3;
/// Most problems that are listed; further ones are only counted.
const LISTED_PROBLEMS: usize = 100;

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Sagas looked at.
    pub sagas: u64,
    /// Events looked at.
    pub events: u64,
    /// The newest event.
    pub head: Revision,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the file in free pages.
    pub free_bytes: u64,
    /// The first hundred problems, a sentence each.
    pub problems: Vec<String>,
    /// How many problems there are.
    pub problem_count: u64,
}

impl CheckReport {
    /// True if so much is free that it is worth giving back.
    pub fn has_much_room(&self) -> bool {
        PageUsage::of_bytes(self.free_bytes, self.bytes).is_much()
    }

    fn add(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < LISTED_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// Verifies the store in a directory and changes nothing. Fails if there is none, or if it is in use.
pub fn check(data: &Path) -> Result<CheckReport, OpenError> {
    let path = data.join("sagad.db");
    if !path.exists() {
        return Err(OpenError::Unusable { path, what: "there is no store here".into() });
    }
    let _lock = take_directory(data)?;
    check_file(&path)
}

/// Verifies one database file.
pub fn check_file(path: &Path) -> Result<CheckReport, OpenError> {
    let FoundDatabase::Ours(version) = inspect(path)? else {
        return Err(OpenError::Unusable { path: path.to_owned(), what: "there is no store in it".into() });
    };
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let connection = connection::open_to_read(path).map_err(failed)?;
    create_newest_views(&connection, version).map_err(failed)?;
    let mut report = CheckReport::default();
    let room =
        PageUsage::of(&connection).map_err(|e| OpenError::Unusable { path: path.to_owned(), what: e.to_string() })?;
    report.bytes = room.all.unsigned_abs() * PAGE_BYTES;
    report.free_bytes = room.free.unsigned_abs() * PAGE_BYTES;
    let row_problems = check_structures(&connection, &mut report).map_err(failed)?;
    // If SQLite's structures are broken, the rows can't be read reliably.
    if report.problem_count == row_problems {
        check_numbers(&connection, &mut report).map_err(failed)?;
        check_rows(&connection, &mut report);
        check_sagas(&connection, &mut report)
            .map_err(|e| OpenError::Unusable { path: path.to_owned(), what: e.to_string() })?;
    }
    Ok(report)
}

/// Lets the statements of the newest schema version read a store of an older one, by temporary views.
pub(super) fn create_newest_views(connection: &Connection, version: i32) -> Result<(), rusqlite::Error> {
    if version >= NARROW_SINCE {
        return Ok(());
    }
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.execute_batch(include_str!("older.sql"))
}

/// Returns how many of the problems concern values of rows only, which can be read all the same.
fn check_structures(connection: &Connection, report: &mut CheckReport) -> Result<u64, rusqlite::Error> {
    let mut of_rows = 0;
    each(connection, sql::INTEGRITY_CHECK, [], |row| {
        let said: String = row.get(0)?;
        if said != "ok" {
            of_rows += u64::from(said.starts_with("CHECK constraint failed"));
            report.add(format!("the file: {said}"));
        }
        Ok(())
    })?;
    each(connection, sql::FOREIGN_KEY_CHECK, [], |row| {
        let (table, id, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let id = id.map_or("?".to_owned(), |id| id.to_string());
        report.add(format!("{table}: row {id} belongs to a row of {parent} that is not there"));
        Ok(())
    })?;
    each(connection, sql::ROWS_WITHOUT_SAGA, [], |row| {
        let (table, id): (String, i64) = (row.get(0)?, row.get(1)?);
        report.add(format!("{table}: row {id} belongs to a row of saga that is not there"));
        Ok(())
    })?;
    each(connection, sql::IN_FLIGHT_AND_ENDED, [], |row| {
        let (task_id, id): (String, i64) = (row.get(0)?, row.get(1)?);
        report.add(format!("saga {task_id}: row {id} is both in work and in ended"));
        Ok(())
    })?;
    each(connection, sql::SAGAS_WITHOUT_WORK, [], |row| {
        report.add(format!("saga: row {} has no state", row.get::<_, i64>(0)?));
        Ok(())
    })?;
    Ok(of_rows)
}

/// Adds a problem for a damaged value; returns any other error.
fn wrong(checked: Result<(), rusqlite::Error>, table: &str, report: &mut CheckReport) -> Result<(), rusqlite::Error> {
    checked.or_else(|error| {
        report.add(format!("{table}: {}", values::wrong_value(&error).ok_or(error)?));
        Ok(())
    })
}

fn check_numbers(connection: &Connection, report: &mut CheckReport) -> Result<(), rusqlite::Error> {
    wrong(check_revisions(connection, report), "the store", report)?;
    wrong(check_counts(connection, report), "queue_count", report)?;
    each(connection, sql::EVENTS_IN_GAPS, [], |row| {
        report.add(format!("event {}: lies in a gap of revisions that were never given", row.get::<_, i64>(0)?));
        Ok(())
    })?;
    each(connection, sql::WORK_UNLIKE_SAGA, [], |row| {
        let (id, task_id, queue): (i64, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let column = if queue { "queue" } else { "priority" };
        report.add(format!("saga {task_id}: row {id}, column {column} is not the same in saga and work"));
        Ok(())
    })?;
    each(connection, sql::EVENTS_OUT_OF_PLACE, [], |row| {
        report.add(format!("event {}: lies before the end of the old history", row.get::<_, i64>(0)?));
        Ok(())
    })?;
    each(connection, sql::EVENTS_OUT_OF_TIME, [], |row| {
        report.add(format!("event {}: its time is before that of the event before it", row.get::<_, i64>(0)?));
        Ok(())
    })
}

/// Checks the numbers with which a daemon would continue.
fn check_revisions(connection: &Connection, report: &mut CheckReport) -> Result<(), rusqlite::Error> {
    report.head = connection.query_row(sql::HEAD, [], |row| row.get(0))?;
    let opening = stored_initial_state(connection)?;
    last_row(connection)?;
    let floor = load::meta::<Revision>(connection, "revision_floor")?.0;
    let counted: Option<i64> = connection.query_row(sql::META, ["counted"], |row| row.get(0)).optional()?;
    if counted.is_some_and(|counted| counted > opening.head.0) {
        report.add(format!("meta: what is counted is told up to {counted:?}, behind the newest event"));
    }
    // A new store has no event and no reserved revisions.
    if report.head != Revision(0) && report.head.0 >= floor {
        report.add(format!(
            "meta: the newest event has revision {}, but revisions are reserved below {floor} only",
            report.head
        ));
    }
    let compacted = load::meta::<Revision>(connection, "compacted")?.0;
    if compacted > 0 && compacted >= floor {
        report.add(format!("meta: events are purged up to {compacted}, but revisions are reserved below {floor} only"));
    }
    each(connection, sql::GAPS, [], |row| {
        let (after, through): (Revision, Revision) = (values::column(row, 0)?, values::column(row, 1)?);
        if through.0 >= floor {
            report.add(format!("gap {after}: ends at {through}, but revisions are reserved below {floor} only"));
        }
        Ok(())
    })
}

/// Checks rows that belong to no saga.
fn check_rows(connection: &Connection, report: &mut CheckReport) {
    if let Err(error) = queue_statuses(connection, None, usize::MAX) {
        report.add(format!("queue: {error}"));
    }
    let answers = each(connection, sql::ANSWER_TIMES, [], |row| values::column::<Timestamp>(row, 1).map(drop));
    if let Err(error) = answers {
        report.add(format!("answer: {}", values::wrong_value(&error).unwrap_or_else(|| error.to_string())));
    }
}

/// Checks that the stored counts are those of the rows.
fn check_counts(connection: &Connection, report: &mut CheckReport) -> Result<(), rusqlite::Error> {
    let (Some(kept), found) = (state_counts::stored(connection)?, state_counts::scan(connection)?) else {
        return Ok(());
    };
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

fn check_sagas(connection: &Connection, report: &mut CheckReport) -> Result<(), SqliteError> {
    let mut statement = connection.prepare(sql::ALL_SAGAS)?;
    let mut rows = statement.query([])?;
    let mut all_read = true;
    while let Some(row) = rows.next()? {
        report.sagas += 1;
        let found = decode::saga(row).map_err(SqliteError::from).and_then(|(id, mut saga, count)| {
            let stored = StoredDerived::read(row)?;
            saga.compensations = compensations(connection, id)?;
            let mut wrong = Vec::new();
            check_saga(&saga, count, &stored, &mut wrong);
            let events = check_history(connection, id, &saga, &mut wrong)?;
            Ok((saga, events, wrong))
        });
        match found {
            Ok((saga, events, wrong)) => {
                report.events += events;
                for what in wrong {
                    report.add(format!("saga {}: {what}", saga.task_id()));
                }
            }
            Err(SqliteError::Corrupt(what)) => {
                all_read = false;
                report.add(format!("can't be read: {what}"));
            }
            Err(other) => return Err(other),
        }
    }
    let all: u64 = connection.query_row(sql::COUNT_ALL_EVENTS, [], |row| row.get(0))?;
    if all_read && all != report.events {
        report.add(format!("event: {all} are there, but {} are in the histories of sagas", report.events));
    }
    Ok(())
}

/// Checks a saga against its history, event by event, since the history may be long. Returns the number of events.
fn check_history(connection: &Connection, id: RowId, saga: &Saga, wrong: &mut Vec<String>) -> Result<u64, SqliteError> {
    let all = history::of_saga(connection, id, saga.revision, Revision(0), saga.revision, usize::MAX)?;
    let mut statement = connection.prepare_cached(sql::EVENT_BY_REVISION)?;
    let (mut count, mut last, mut breaks) = (0_u64, None::<Event>, 0);
    let (mut claimed, mut expired) = (false, false);
    for event in all.into_iter().map(|revision| load::events(&mut statement, [revision.0])) {
        let Some(event) = event?.pop() else { continue };
        count += 1;
        if event.task_id != *saga.task_id() && breaks < LISTED_PROBLEMS {
            breaks += 1;
            wrong.push(format!("event {} of saga {} is in its history", event.revision, event.task_id));
        }
        let prev = connection
            .prepare_cached(sql::PREV)
            .and_then(|mut s| s.query_row([event.revision.0], |row| row.get::<_, Option<i64>>(0)).optional());
        // Events of the old history don't name one.
        let before = last.as_ref().map(|event| event.revision.0);
        if prev?.is_some_and(|prev| prev != before) && breaks < LISTED_PROBLEMS {
            breaks += 1;
            wrong.push(format!("event {} does not name the one before it", event.revision));
        }
        match &last {
            None if event.kind != EventType::Created => {
                wrong.push("its history does not begin with its creation".into());
            }
            Some(before) if event.from_state != Some(before.to_state) && breaks < LISTED_PROBLEMS => {
                breaks += 1;
                wrong.push(format!("event {} does not begin where event {} ended", event.revision, before.revision));
            }
            None | Some(_) => {}
        }
        if let Some(lease) = &saga.lease {
            let by_owner = event.actor.as_ref().is_some_and(|actor| actor.as_str() == lease.owner.as_str());
            claimed |= event.revision.0 == lease.token.0 && event.kind == EventType::Claimed && by_owner;
            expired |= matches!(lease.standing, Standing::Expired { revision, .. } if revision == event.revision)
                && event.kind == EventType::LeaseExpired;
        }
        last = Some(event);
    }
    let Some(last) = last else {
        wrong.push("it has no history".into());
        return Ok(0);
    };
    if last.revision != saga.revision {
        wrong.push(format!("its revision is {}, its last event's is {}", saga.revision, last.revision));
    }
    if last.to_state != saga.state {
        let (state, told) = (saga.state.name(), last.to_state.name());
        wrong.push(format!("it is {state}, but its last event says {told}"));
    }
    let Some(lease) = &saga.lease else { return Ok(count) };
    if !claimed {
        wrong.push(format!("its lease's token {} is not that of a claim by {}", lease.token, lease.owner));
    }
    if let Standing::Expired { revision, .. } = lease.standing
        && !expired
    {
        wrong.push(format!("its lease is reported as expired by event {revision}, which is not there"));
    }
    Ok(count)
}

/// Stored fields that are derived from a saga: when it is due, what it is ready for, which table it is in.
struct StoredDerived {
    due_at: Option<i64>,
    ready: Option<LeasePurpose>,
    in_flight: bool,
}

impl StoredDerived {
    fn read(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        let ready = match row.get::<_, Option<i64>>("ready")? {
            None => None,
            Some(code) => Some(
                LeasePurpose::decode(code)
                    .ok_or_else(|| values::corrupt_value(format!("ready: {code} stands for nothing")))?,
            ),
        };
        Ok(StoredDerived { due_at: row.get("due_at")?, ready, in_flight: row.get("in_flight")? })
    }
}

/// Checks a saga by itself.
fn check_saga(saga: &Saga, count: u32, stored: &StoredDerived, wrong: &mut Vec<String>) {
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
        && stored.due_at != Some(expire_time.micros())
    {
        wrong.push(format!("its lease ends at {expire_time}, but that is not when it is looked at"));
    }
    let state = saga.state.name();
    if stored.in_flight == saga.state.is_terminal() {
        wrong.push(format!(
            "it is {state}, but lies among those that {}",
            if stored.in_flight { "are in flight" } else { "have ended" }
        ));
    }
    if saga.state == State::Running && saga.lease.is_none() {
        wrong.push("it is RUNNING without a lease".into());
    }
    let is_leased = saga.lease.as_ref().is_some_and(|lease| match lease.standing {
        Standing::Held | Standing::Expired { .. } => true,
        Standing::EndedByHolder(_) | Standing::EndedByOther => false,
    });
    if is_leased && !matches!(saga.state, State::Running | State::Compensating) {
        wrong.push(format!("it is {state}, but nothing has ended its lease"));
    }
    if saga.reservation.is_some() && saga.state != State::Dispatched {
        wrong.push(format!("it is {state}, but reserved"));
    }
    let may_be_ready = match stored.ready {
        // A planned saga without a delay must be ready.
        None => saga.state != State::Planned || saga.not_before.is_some(),
        Some(LeasePurpose::Execute) => saga.state == State::Planned,
        Some(LeasePurpose::Compensate) => saga.state == State::Compensating,
    };
    if !may_be_ready {
        let ready = stored.ready.map_or("nothing", LeasePurpose::name);
        wrong.push(format!("it is {state}, but ready for {ready}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Damages a healthy store with one statement; returns the problems found.
    fn broken_by(statement: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        drop(super::super::open_writer(&path, 1 << 20).unwrap());
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
            ("UPDATE work SET revision = 1 WHERE id = 1", "its last event says PLANNED"),
            ("UPDATE work SET revision = 1 WHERE id = 1", "2 are there, but 1 are in the histories"),
            ("UPDATE work SET state = 5 WHERE id = 1", "it is COMPLETED, but lies among those that are in flight"),
            ("UPDATE work SET lease_token = NULL WHERE id = 1", "it is RUNNING without a lease"),
            ("UPDATE work SET state = 1 WHERE id = 1", "it is PLANNED, but nothing has ended its lease"),
            ("UPDATE work SET state = 1 WHERE id = 1", "it is PLANNED, but ready for nothing"),
            ("UPDATE work SET ready = 1 WHERE id = 1", "it is RUNNING, but ready for EXECUTE"),
            ("UPDATE work SET ready = 7 WHERE id = 1", "ready: 7 stands for nothing"),
            ("UPDATE work SET more = 'x' WHERE id = 1", "column more"),
            (
                r#"UPDATE work SET more = '{"assignee":"w","reserved_until":9}' WHERE id = 1"#,
                "it is RUNNING, but reserved",
            ),
            ("UPDATE work SET lease_expire = 1 WHERE id = 1", "not after lease_acquire"),
            ("UPDATE event SET prev = NULL WHERE revision = 2", "does not begin with its creation"),
            ("UPDATE event SET prev = 2 WHERE revision = 2", "event 2 does not name the one before it"),
            ("UPDATE event SET saga = 9 WHERE revision = 2", "event: row 2 belongs to a row of saga"),
            ("UPDATE event SET purpose = NULL WHERE revision = 2", "part of what a claim tells"),
            (
                "INSERT INTO old_event VALUES (3, 1, 3000, 17, 3, 3, NULL, 0, NULL, NULL, NULL, NULL, '', '{}')",
                "event 1: lies before the end of the old history",
            ),
            (
                "INSERT INTO ended (id, queue, priority, state, ready, revision, attempt, expirations, failures, compensations, \
                 update_time, progress, result) VALUES (1, 1, 0, 8, 0, 2, 1, 0, 0, 1, 2000, x'', x'')",
                "both in work and in ended",
            ),
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
            ("UPDATE event SET time = 1 WHERE revision = 2", "its time is before"),
            ("UPDATE meta SET value = 2 WHERE key = 'revision_floor'", "reserved below 2"),
            ("INSERT INTO queue_count VALUES (1, 0, 0, 1, 0, 0, 0, 0, 0)", "counted as RUNNING 2, but has RUNNING 1"),
            ("UPDATE meta SET value = 2 WHERE key = 'counted'", "counted as nothing, but has RUNNING 1"),
            ("INSERT INTO gap VALUES (1, 5)", "lies in a gap"),
        ] {
            let problems = broken_by(statement);
            assert!(problems.iter().any(|p| p.contains(expected)), "{statement}: {problems:?}");
        }
    }

    /// An older store is verified before it is changed, and holds the same data afterwards.
    #[test]
    fn a_store_of_version_2_is_verified_unmigrated_and_keeps_its_data_when_migrated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        Connection::open(&path).unwrap().execute_batch(include_str!("store_2.sql")).unwrap();
        let all = |version| {
            let connection = connection::open_to_read(&path).unwrap();
            create_newest_views(&connection, version).unwrap();
            let mut statement = connection.prepare(sql::ALL_SAGAS).unwrap();
            let mut rows = statement.query([]).unwrap();
            let mut sagas = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                let (id, mut saga, _) = decode::saga(row).unwrap();
                saga.compensations = compensations(&connection, id).unwrap();
                let stored = StoredDerived::read(row).unwrap();
                sagas.push((id, saga, stored.due_at, stored.ready));
            }
            let everything = rusqlite::params![0, i64::MAX, None::<i64>, i64::MAX];
            let events = load::events(&mut connection.prepare_cached(sql::EVENTS).unwrap(), everything).unwrap();
            (sagas, events)
        };
        let before = all(2);
        let report = check_file(&path).unwrap();
        assert_eq!((report.problems.clone(), report.sagas, report.events), (Vec::new(), 13, 33));
        drop(super::super::open_writer(&path, 1 << 20).unwrap());
        assert_eq!(all(3), before);
        assert_eq!((before.0.len(), before.1.len()), (13, 33));
        assert_eq!(check_file(&path).unwrap().problems, Vec::<String>::new());
    }

    /// A kill between the creation of a store and the first reservation leaves the store in this state.
    #[test]
    fn a_store_without_a_reservation_is_healthy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        super::super::open::create_store(&path).unwrap();
        let report = check_file(&path).unwrap();
        assert_eq!((report.problems, report.head), (Vec::new(), Revision(0)));
    }

    #[test]
    fn damage_to_the_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        drop(super::super::open_writer(&path, 1 << 20).unwrap());
        Connection::open(&path).unwrap().execute_batch(include_str!("healthy.sql")).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 512].fill(0x5A);
        std::fs::write(&path, bytes).unwrap();
        let found = check_file(&path);
        assert!(found.is_err() || found.is_ok_and(|report| report.problem_count > 0));
    }
}
