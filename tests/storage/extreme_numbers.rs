//! Extreme numbers in a store: `check` reports them, or they cause no failure.

use std::{fs, path::Path, sync::Arc, time::Duration};

use rusqlite::{Connection, params};
use sagad::{
    clock::{Clock, ManualClock},
    domain::{
        command::{Command, Request},
        ids::{Revision, TaskId},
        saga::Saga,
        time::Timestamp,
    },
    store::{
        EventQuery, Filter, ListQuery, PageBounds, SagaKey, Store, StoreError, WriterThread,
        sqlite::{check::check_file, restore::restore},
    },
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

use super::{
    builders::*,
    sqlite::{open_small, populate},
    test_store::{START, TestStore},
};

const ENDS: [i64; 5] = [i64::MIN, -1, 1 << 32, 1 << 53, i64::MAX];
/// The longest time for the calls on one store.
const WAIT_MAX: Duration = Duration::from_secs(3);
const HUGE: Revision = Revision(i64::MAX);

/// A closed store with a row in each table and a value in each column.
fn whole() -> Vec<u8> {
    let store = TestStore::sqlite();
    populate(&store);
    store.submit_as(7, create([creation("purged")])).unwrap();
    let purged = store.saga(claim("purged", "w"));
    store.saga(complete(&purged));
    store.sagas(create(["fresh", "left"].map(creation)));
    let left = store.saga(claim("left", "w"));
    store.saga(release(&left, secs(500)));
    store.advance(secs(20));
    store.purged(purge(secs(10), 1));
    let held = store.keep();
    store.close();
    let connection = Connection::open(held.path().join("sagad.db")).unwrap();
    connection.execute_batch("INSERT INTO gap SELECT value - 1, value FROM meta WHERE key = 'compacted'").unwrap();
    // The first event as an earlier version of the schema stored it.
    connection
        .execute_batch(
            "INSERT INTO old_event SELECT revision, saga, time, kind, from_state, to_state, token, 0, NULL, NULL, NULL, actor, \
             coalesce(reason, ''), coalesce(details, '{}') FROM event ORDER BY revision LIMIT 1; \
             DELETE FROM event WHERE revision = (SELECT min(revision) FROM event);",
        )
        .unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    fs::read(held.path().join("sagad.db")).unwrap()
}

/// The places of numbers: each numeric column, and each row of the tables whose rows have a meaning of their own.
fn places(connection: &Connection) -> Vec<(String, String, String)> {
    let mut tables = connection
        .prepare("SELECT t.name, c.name FROM pragma_table_list t JOIN pragma_table_info(t.name) c WHERE t.schema = 'main' AND t.type = 'table' AND c.type = 'INTEGER' AND t.name NOT LIKE 'sqlite%'")
        .unwrap();
    let found = tables.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let mut places = Vec::new();
    for (table, column) in found.map(Result::unwrap) {
        if table == "meta" {
            for key in ["revision_floor", "row_floor", "compacted", "last_time", "counted"] {
                places.push((table.clone(), column.clone(), format!("key = '{key}'")));
            }
        } else {
            let there: i64 = connection
                .query_row(&format!("SELECT count(*) FROM {table} WHERE {column} IS NOT NULL"), [], |row| row.get(0))
                .unwrap();
            let rows = if there > 0 { format!("{column} IS NOT NULL") } else { "TRUE".to_owned() };
            places.push((table, column, rows));
        }
    }
    places
}

/// Sets a column to a number; in one row only if its values must be unique.
fn set(path: &Path, (table, column, rows): &(String, String, String), value: i64) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch("PRAGMA ignore_check_constraints = 1; PRAGMA foreign_keys = 0; PRAGMA synchronous = 0")
        .unwrap();
    let all = format!("UPDATE {table} SET {column} = ?1 WHERE {rows}");
    let one = format!("UPDATE {table} SET {column} = ?1 WHERE {column} = (SELECT max({column}) FROM {table})");
    let changed = connection.execute(&all, [value]).or_else(|_| connection.execute(&one, params![value]));
    assert!(changed.unwrap() > 0, "{table}.{column}: no row");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

struct StoreAndWriter {
    store: Store,
    writer: WriterThread,
    clock: Arc<ManualClock>,
}

fn open(dir: &TempDir) -> Result<StoreAndWriter, String> {
    let clock = Arc::new(ManualClock::at(START));
    let as_clock: Arc<dyn Clock> = clock.clone();
    let (store, writer) = open_small(dir.path(), as_clock).map_err(|error| error.to_string())?;
    Ok(StoreAndWriter { store, writer, clock })
}

/// Makes reads and changes of all kinds. Any answer is accepted, except that the writer has ended.
async fn used(opened: &StoreAndWriter) -> Vec<StoreError> {
    let store = &opened.store;
    let mut failed = Vec::new();
    let mut tasks: Vec<TaskId> = Vec::new();
    for newest_first in [false, true] {
        let query = ListQuery {
            filter: Filter::default(),
            newest_first,
            after: None,
            limit: 100,
            read_time: store.read_time(),
        };
        match store.list(query).await {
            Ok(page) => tasks.extend(page.sagas.iter().map(|(_, saga): &(_, Saga)| saga.task_id().clone())),
            Err(error) => failed.push(error),
        }
    }
    let all = EventQuery { through: HUGE, limit: 1000, whole: true, ..EventQuery::default() };
    failed.extend(store.events(all).await.err());
    failed.extend(store.stale(Vec::new(), Revision::ZERO, HUGE, PageBounds::of_sagas(10)).await.err());
    failed.extend(store.queues(None, 100).await.err());
    failed.extend(store.stats().await.err());
    let submit = async |command: Command| store.submit(Request { command, key: None, by: None }).await;
    for id in tasks.iter().map(TaskId::as_str).chain(["rich", "undoing", "stale", "left"]) {
        if let Ok(Some(saga)) = store.get(SagaKey::Task(task(id))).await
            && saga.lease.is_some()
        {
            for command in [heartbeat(&saga), register(&saga, &["more"]), fail(&saga, true)] {
                failed.extend(submit(command).await.err());
            }
        }
        failed.extend(submit(claim(id, "v")).await.err());
    }
    failed.extend(submit(create([creation("new")])).await.err());
    for command in [next(&["q"], "w").command(), next_undo("w", &["x"]).command(), purge(secs(0), 10).command()] {
        failed.extend(submit(command).await.err());
    }
    for _ in 0..2 {
        opened.clock.advance(secs(3000));
        failed.extend(submit(annotate("new", "later")).await.err());
    }
    failed
}

#[test]
fn p8_extreme_numbers_are_reported_by_check_or_harmless() {
    let whole = whole();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = tempfile::tempdir().unwrap();
    fs::write(first.path().join("sagad.db"), &whole).unwrap();
    assert_eq!(check_file(&first.path().join("sagad.db")).unwrap().problems, Vec::<String>::new());
    let places = places(&Connection::open(first.path().join("sagad.db")).unwrap());
    assert!(places.len() > 70, "{places:?}");
    let mut wrong = Vec::new();
    let (mut named, mut harmless) = (0, 0);
    for place in &places {
        for value in ENDS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sagad.db");
            fs::write(&path, &whole).unwrap();
            set(&path, place, value);
            match tried(&runtime, &dir, place) {
                Ok(true) => named += 1,
                Ok(false) => harmless += 1,
                Err(what) => wrong.push(format!("{}.{} where {} = {value}: {what}", place.0, place.1, place.2)),
            }
        }
    }
    eprintln!("{named} named, {harmless} harmless, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(named > 300 && harmless > 50, "{named} named, {harmless} harmless");
}

/// True if `check` reports the number; an error says what failed.
fn tried(runtime: &Runtime, dir: &TempDir, place: &(String, String, String)) -> Result<bool, String> {
    let (table, column) = (place.0.as_str(), place.1.as_str());
    let path = dir.path().join("sagad.db");
    let caught = |what: &str, act: &mut dyn FnMut() -> Result<(), String>| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).map_err(|_| format!("{what} panics"))?
    };
    let mut told = None;
    caught("check", &mut || {
        told = match check_file(&path) {
            Ok(report) => (report.problem_count > 0).then(|| report.problems.join("; ")),
            Err(error) => Some(error.to_string()),
        };
        Ok(())
    })?;
    // A readable number that contradicts others is reported with its saga.
    if let Some(told) = &told
        && ![table, column, "saga "].iter().any(|place| told.contains(place))
    {
        return Err(format!("is told without its place: {told}"));
    }
    caught("restore", &mut || {
        let to = tempfile::tempdir().unwrap();
        match (restore(&path, to.path(), Timestamp::from_micros(START.micros() * 2)), &told) {
            (Ok(_), Some(told)) => Err(format!("was restored, though {told}")),
            (Err(error), None) => Err(format!("was not restored: {error}")),
            (Ok(_), None) => open(&to).map(|_| ()),
            (Err(_), Some(_)) => Ok(()),
        }
    })?;
    let mut opened = None;
    caught("opening", &mut || {
        match open(dir) {
            Ok(store) => opened = Some(store),
            Err(error) if told.is_none() => return Err(format!("is not opened: {error}")),
            Err(error) if error.contains("damaged") => {}
            Err(error) => return Err(format!("is refused, and not as damaged: {error}")),
        }
        Ok(())
    })?;
    let Some(mut opened) = opened else { return Ok(true) };
    let (failed, ended) = runtime.block_on(async {
        let failed = timeout(WAIT_MAX, used(&opened)).await;
        opened.store.close();
        (failed, timeout(WAIT_MAX, opened.writer.ended()).await)
    });
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(format!("the writer ended: {error}")),
        Err(_) => return Err("the writer does not end".to_owned()),
    }
    let failed = failed.map_err(|_| "calls are not answered".to_owned())?;
    drop(opened);
    let odd = failed.iter().find(|error| !matches!(error, StoreError::Refused(_) | StoreError::Corrupt(_)));
    if let Some(odd) = odd {
        return Err(format!("was answered: {odd:?}"));
    }
    if told.is_some() {
        return Ok(true);
    }
    if let Some(corrupt) = failed.iter().find(|error| matches!(error, StoreError::Corrupt(_))) {
        return Err(format!("passes, and is corrupt: {corrupt:?}"));
    }
    let again = check_file(&path).map_err(|error| error.to_string())?;
    if again.problem_count > 0 {
        return Err(format!("passes, and not after it was used: {:?}", again.problems));
    }
    open(dir).map(|_| false)
}
