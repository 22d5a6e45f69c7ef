//! Kills while a store is brought to a newer version of its schema: at each call to the kernel that writes. The newer
//! version is made up here, so that it changes much. It is this test's own program that migrates, and is killed.

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

use super::moments::{calls, kill_at, make_one};
use crate::support::{self, Launch, check, copy_data, needs};

/// The version that this program's stores have.
const NOW: i64 = MIGRATIONS.len() as i64;
/// The one that is made up.
const NEXT: i64 = NOW + 1;
/// Changes every saga, and more than fits into one page.
const CHANGE: &str = "CREATE TABLE second (saga INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
                      INSERT INTO second SELECT id, hex(zeroblob(3000)) FROM saga;
                      UPDATE meta SET value = value + 1000 WHERE key = 'revision_floor';";
const STORE: &str = "SAGAD_TEST_STORE_TO_MIGRATE";
/// What that store's version is, if it is one of before.
const VERSION: &str = "SAGAD_TEST_VERSION_TO_MIGRATE";
/// A store as a daemon of version 2 left it.
const OF_VERSION_2: &str = include_str!("../../../src/store/sqlite/store_2.sql");

/// All versions with the one that is made up.
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

/// The schema's version, how many sagas have their second row, and the floor of revisions.
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

/// What the killed process does; not a test of its own.
#[test]
#[ignore = "no test: the process that p1_a_migration_that_was_cut_off_is_done_by_the_next starts and kills"]
fn migrates_a_store_of_another_test() {
    let Some(store) = env::var_os(STORE) else { return };
    let mut connection = open(store.as_ref());
    let migrated = match env::var(VERSION) {
        Ok(version) => migrate(&mut connection, FoundDatabase::Ours(version.parse().unwrap()), MIGRATIONS),
        Err(_) => migrate(&mut connection, FoundDatabase::Ours(NOW as i32), &with_next()),
    };
    migrated.expect("it is brought up to date");
}

#[tokio::test]
async fn p1_a_migration_that_was_cut_off_is_done_by_the_next() {
    needs!("strace");
    const SAGAS: i64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let begun = directory.path().join("begun");
    let mut daemon = Launch::on(&begun).start();
    let address = daemon.address();
    for _ in 0..SAGAS {
        make_one(address, 5000).await;
    }
    // Some of it is in the log alone.
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
            // As it was, it is a store like any other.
            let copy = copied(store.parent().unwrap(), &directory.path().join(format!("copy-{call}")));
            assert_eq!(inspect(&copy).unwrap(), FoundDatabase::Ours(NOW as i32));
            check(copy.parent().unwrap());
        }
        migrate(&mut open(&store), FoundDatabase::Ours(version as i32), &with_next()).unwrap();
        assert_eq!(state(&store), (NEXT, SAGAS, floor + 1000), "killed at call {call}");
        // To this program it is a newer one's.
        let data = store.parent().unwrap();
        fs::remove_file(data.join("sagad.lock")).ok();
        let (status, log) = Launch::on(data).refused();
        assert!(status.code() == Some(1) && log.contains("newer"), "{log}");
        if ended.status.success() {
            break;
        }
    }
    eprintln!("killed while migrating: {before} times it had not happened, {after} times it had (the last one unhurt)");
    assert!(before > 5 && after > 0, "too few calls were hit: {before}, {after}");
    support::check(&begun);
}

/// A process that migrates a store, killed at its so manieth call to the system.
fn killed_while_migrating(store: &Path, call: usize, settings: &[(&str, &str)]) -> Output {
    let (_binary, module) = module_path!().split_once("::").unwrap();
    Command::new("strace")
        .args(["-f", "-q", "-o", "/dev/null"])
        .args(kill_at(call))
        .arg("--")
        .arg(env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("{module}::migrates_a_store_of_another_test")])
        .env(STORE, store)
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

/// The real step from the version before to this one, which moves what is in flight and renames tables.
#[test]
fn p1_the_step_from_version_2_that_was_cut_off_is_done_by_the_next_start() {
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
        // As it is, and as the next start makes it.
        for _ in 0..2 {
            let report = check_file(&store).unwrap();
            assert_eq!((report.problems, report.sagas, report.events), (Vec::new(), 13, 33), "killed at call {call}");
            open_writer(&store, 1 << 20).map(drop).unwrap();
        }
        if ended.status.success() {
            break;
        }
    }
    eprintln!("killed while migrating: {before} times it had not happened, {after} times it had (the last one unhurt)");
    assert!(before > 5 && after > 0, "too few calls were hit: {before}, {after}");
}

fn copied(from: &Path, to: &Path) -> std::path::PathBuf {
    copy_data(from, to);
    to.join("sagad.db")
}
