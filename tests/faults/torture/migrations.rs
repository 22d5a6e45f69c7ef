//! Kills while a store is migrated to a newer schema, at each system call that writes. The newer version is invented here, so that
//! it changes much. The test program itself migrates the store and is killed.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

use rusqlite::Connection;
use sagad::store::sqlite::{
    check::check_file,
    migrate::{MIGRATIONS, migrate},
    open_checks::inspect,
    open_error::FoundDatabase,
    open_writer,
};

use super::kills_at_writes::{calls, kill_at, make_one};
use crate::support::{self, Launch, check, copy_data, needs};

/// The current schema version.
const NOW: i64 = MIGRATIONS.len() as i64;
/// The invented next version.
const NEXT: i64 = NOW + 1;
/// A migration that adds a row for every saga, more than fits into one page.
const CHANGE: &str = "CREATE TABLE second (saga INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
                      INSERT INTO second SELECT id, hex(zeroblob(3000)) FROM saga;
                      UPDATE meta SET value = value + 1000 WHERE key = 'revision_floor';";
const STORE: &str = "SAGAD_TEST_STORE_TO_MIGRATE";
/// The store's schema version, if it is an earlier one.
const VERSION: &str = "SAGAD_TEST_VERSION_TO_MIGRATE";
/// A store of a daemon with schema version 2.
const OF_VERSION_2: &str = include_str!("../../../src/store/sqlite/store_2.sql");

/// All migrations and the invented one.
fn with_next() -> Vec<&'static str> {
    MIGRATIONS.iter().copied().chain([CHANGE]).collect()
}

/// A database as the daemon opens it.
fn open(store: &Path) -> Connection {
    let connection = Connection::open(store).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection
}

/// The schema version, the number of sagas with the added row, and the floor of revisions.
fn state(store: &Path) -> (i64, i64, i64) {
    let connection = open(store);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let version = number("PRAGMA user_version");
    let there = number("SELECT count(*) FROM sqlite_schema WHERE name = 'second'") == 1;
    assert_eq!(there, version == NEXT, "a table of version {NEXT} in version {version}");
    let rows = if there { number("SELECT count(*) FROM second JOIN saga ON saga = id") } else { 0 };
    assert_eq!(connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    (version, rows, number("SELECT value FROM meta WHERE key = 'revision_floor'"))
}

/// Runs in the killed process; not a test by itself.
#[test]
#[ignore = "no test: the process that p1_a_killed_migration_is_completed_by_the_next_attempt starts and kills"]
fn migrates_the_store_named_in_the_environment() {
    let Some(store) = env::var_os(STORE) else { return };
    let mut connection = open(store.as_ref());
    let migrated = match env::var(VERSION) {
        Ok(version) => migrate(&mut connection, FoundDatabase::Ours(version.parse().unwrap()), MIGRATIONS),
        Err(_) => migrate(&mut connection, FoundDatabase::Ours(NOW as i32), &with_next()),
    };
    migrated.expect("the store is migrated");
}

#[tokio::test]
async fn p1_a_killed_migration_is_completed_by_the_next_attempt() {
    needs!("strace");
    const SAGAS: i64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let begun = directory.path().join("begun");
    let mut daemon = Launch::on(&begun).start();
    let address = daemon.address();
    for _ in 0..SAGAS {
        make_one(address, 5000).await;
    }
    // A part of the store is only in the log.
    daemon.kill().await;
    let (_, _, floor) = state(&copied(&begun, &directory.path().join("looked-at")));
    let (mut before, mut after) = (0, 0);
    for call in calls(4) {
        let store = copied(&begun, &directory.path().join(format!("data-{call}")));
        let ended = killed_while_migrating(&store, call, &[]);
        match state(&store) {
            (NOW, 0, same) if same == floor => before += 1,
            (NEXT, SAGAS, raised) if raised == floor + 1000 => after += 1,
            other => panic!("half a migration, killed at call {call}: {other:?}"),
        }
        let version = state(&store).0;
        if version == NOW {
            // A store that was not migrated works as before.
            let copy = copied(store.parent().unwrap(), &directory.path().join(format!("copy-{call}")));
            assert_eq!(inspect(&copy).unwrap(), FoundDatabase::Ours(NOW as i32));
            check(copy.parent().unwrap());
        }
        migrate(&mut open(&store), FoundDatabase::Ours(version as i32), &with_next()).unwrap();
        assert_eq!(state(&store), (NEXT, SAGAS, floor + 1000), "killed at call {call}");
        // The daemon refuses the newer version.
        let data = store.parent().unwrap();
        fs::remove_file(data.join("sagad.lock")).ok();
        let (status, log) = Launch::on(data).refused();
        assert!(status.code() == Some(1) && log.contains("newer"), "{log}");
        if ended.status.success() {
            break;
        }
    }
    eprintln!(
        "killed while migrating: {before} times it had not happened, {after} times it had (the last one was not killed)"
    );
    assert!(before > 5 && after > 0, "too few calls were hit: {before}, {after}");
    support::check(&begun);
}

/// Runs a process that migrates a store and is killed at this system call.
fn killed_while_migrating(store: &Path, call: usize, settings: &[(&str, &str)]) -> Output {
    let (_binary, module) = module_path!().split_once("::").unwrap();
    Command::new("strace")
        .args(["-f", "-q", "-o", "/dev/null"])
        .args(kill_at(call))
        .arg("--")
        .arg(env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("{module}::migrates_the_store_named_in_the_environment")])
        .env(STORE, store)
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

/// The real migration from version 2 to 3, which moves sagas in flight and renames tables.
#[test]
fn p1_a_killed_migration_from_version_2_is_completed_by_the_next_start() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let begun = directory.path().join("begun");
    fs::create_dir(&begun).unwrap();
    open(&begun.join("sagad.db")).execute_batch(OF_VERSION_2).unwrap();
    let (mut before, mut after) = (0, 0);
    for call in calls(2) {
        let store = copied(&begun, &directory.path().join(format!("data-{call}")));
        let ended = killed_while_migrating(&store, call, &[(VERSION, "2")]);
        match open(&store).pragma_query_value(None, "user_version", |row| row.get(0)).unwrap() {
            2 => before += 1,
            NOW => after += 1,
            other => panic!("version {other}, killed at call {call}"),
        }
        // As it was left, and after the next start.
        for _ in 0..2 {
            let report = check_file(&store).unwrap();
            assert_eq!((report.problems, report.sagas, report.events), (Vec::new(), 13, 33), "killed at call {call}");
            open_writer(&store, 1 << 20).map(drop).unwrap();
        }
        if ended.status.success() {
            break;
        }
    }
    eprintln!(
        "killed while migrating: {before} times it had not happened, {after} times it had (the last one was not killed)"
    );
    assert!(before > 5 && after > 0, "too few calls were hit: {before}, {after}");
}

fn copied(from: &Path, to: &Path) -> std::path::PathBuf {
    copy_data(from, to);
    to.join("sagad.db")
}
