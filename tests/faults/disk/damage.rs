//! P8: a damaged, foreign, newer or locked database is refused with a message that says what to do, and it is not changed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use sagad::store::sqlite::{
    migrate::{MIGRATIONS, migrate},
    open_error::FoundDatabase,
};

use super::requests::{create, killed_store};
use crate::support::{self, Launch, run};

/// A store that was closed cleanly, so that one file has all of it.
async fn closed_store(directory: &Path) -> PathBuf {
    let data = directory.join("data");
    killed_store(&data, 60).await;
    let mut daemon = Launch::on(&data).start();
    daemon.terminate().await;
    // Moves the log into the database, as another program might.
    let connection = Connection::open(data.join("sagad.db")).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    data
}

/// All files of a directory except the lock.
fn contents(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(data).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "sagad.lock");
    // The index of the log is rebuilt by any reader.
    let files = files.filter(|entry| !entry.file_name().to_string_lossy().ends_with("-shm"));
    files.map(|e| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).unwrap())).collect()
}

/// Asserts that the daemon refuses a directory with these words and does not change it.
fn refused(data: &Path, words: &[&str]) {
    let before = contents(data);
    let (status, log) = Launch::on(data).refused();
    assert_eq!(status.code(), Some(1), "{log}");
    for word in words {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
    let mut after = contents(data);
    // An empty log does not count as a change.
    after.retain(|name, bytes| before.contains_key(name) || !bytes.is_empty());
    assert!(before == after, "it was changed: {:?} {:?}", before.keys(), after.keys());
}

#[tokio::test]
async fn p8_a_damaged_header_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let file = data.join("sagad.db");
    let whole = fs::read(&file).unwrap();
    // The magic bytes, the page size, the format, and the schema's first page.
    for (place, length) in [(0, 16), (16, 2), (18, 2), (20, 4), (100, 8), (0, 4096)] {
        let mut bytes = whole.clone();
        for byte in &mut bytes[place..place + length] {
            *byte ^= 0x5A;
        }
        fs::write(&file, bytes).unwrap();
        refused(&data, &["damaged", "backup"]);
    }
    fs::write(&file, whole).unwrap();
    support::check(&data);
}

#[tokio::test]
async fn p8_a_truncated_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let file = data.join("sagad.db");
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, 50, 100, 4095, 4096, 8192, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        refused(&data, &["damaged", "backup"]);
    }
    fs::write(&file, whole).unwrap();
    support::check(&data);
}

/// `sagad check` and `sagad restore` find a damaged page anywhere. The daemon finds it when it reads the page, and then ends or
/// refuses that row.
#[tokio::test]
async fn p8_a_damaged_page_is_found_by_check() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let file = data.join("sagad.db");
    let whole = fs::read(&file).unwrap();
    let (mut found, mut refusals, mut pages) = (0, 0, 0);
    for page in 1..whole.len() / 4096 {
        let start = page * 4096;
        // The header of a tree page: its kind, and the number and position of its cells.
        if !matches!(whole[start], 2 | 5 | 10 | 13) {
            continue;
        }
        pages += 1;
        let mut bytes = whole.clone();
        for byte in &mut bytes[start..start + 64] {
            *byte ^= 0x5A;
        }
        fs::write(&file, bytes).unwrap();
        let before = contents(&data);
        let check = run(&["check", "--data", data.to_str().unwrap()]);
        found += u32::from(check.status.code() == Some(1));
        assert!(contents(&data)["sagad.db"] == before["sagad.db"], "check changed the file");
        let restored =
            run(&["restore", file.to_str().unwrap(), "--data", directory.path().join("r").to_str().unwrap()]);
        assert!(!restored.status.success(), "a damaged copy was restored (page {page}): {restored:?}");
        if page % 5 == 0 {
            let mut daemon = Launch::on(&data).spawn();
            if daemon.address().is_none() {
                let (_, log) = daemon.end().await;
                assert!(log.contains("damaged") || log.contains("malformed"), "{log}");
                refusals += 1;
            }
        }
    }
    eprintln!("{pages} pages damaged one by one: check found {found}; the daemon refused {refusals} of each fifth");
    assert_eq!(found, pages, "check misses damage");
}

#[tokio::test]
async fn p8_foreign_and_newer_files_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let connection = Connection::open(data.join("sagad.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    refused(&data, &["newer", "schema 99", "install that version"]);
    let connection = Connection::open(data.join("sagad.db")).unwrap();
    connection.pragma_update(None, "application_id", 7).unwrap();
    drop(connection);
    refused(&data, &["another program", "0x7", "--data"]);

    let other = directory.path().join("text");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("sagad.db"), "this is a letter, and long enough to be looked at as a database might be")
        .unwrap();
    refused(&other, &["damaged", "backup"]);
}

#[tokio::test]
async fn p8_a_second_daemon_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut first = Launch::on(&data).start();
    let address = first.address();
    let mut sagas = support::sagas(address).await;
    create(&mut sagas, "one", 10).await.unwrap();
    let (status, log) = Launch::on(&data).refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("in use by another sagad") && log.contains("stop that one first"), "{log}");
    for operation in [vec!["check", "--data"], vec!["restore", "/dev/null", "--data"]] {
        let output = run(&[operation, vec![data.to_str().unwrap()]].concat());
        assert!(!output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    }
    create(&mut sagas, "two", 10).await.expect("the first daemon still works");
    first.terminate().await;
    support::check(&data);
}

/// If the database is missing or empty but its log exists, no new store is created, because that would discard the log.
#[tokio::test]
async fn p8_a_log_without_its_database_is_refused() {
    for empty in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        killed_store(&data, 10).await;
        if empty {
            fs::write(data.join("sagad.db"), "").unwrap();
        } else {
            fs::remove_file(data.join("sagad.db")).unwrap();
        }
        refused(&data, &["sagad.db", "backup"]);
    }
}

/// A schema object that somebody added to a copy would run inside the daemon, so every program that opens a store refuses it by
/// name.
#[tokio::test]
async fn p8_a_foreign_schema_object_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let copy = directory.path().join("copy.db");
    for (planted, name) in [
        (
            "CREATE TRIGGER evil AFTER INSERT ON event BEGIN UPDATE work SET lease_owner = 'me' WHERE state = 3; END",
            "the trigger \"evil\", which sagad does not make",
        ),
        ("CREATE VIEW seen AS SELECT * FROM saga", "the view \"seen\", which sagad does not make"),
        ("CREATE TABLE more (x)", "the table \"more\""),
        ("DROP INDEX work_ready", "its index \"work_ready\" is missing"),
        (
            "DROP TABLE gap; CREATE TABLE gap (after_revision INTEGER PRIMARY KEY, through)",
            "its table \"gap\" is not as",
        ),
        // SQLite also runs a definition that is not text.
        (
            "CREATE INDEX zz ON event (revision) WHERE revision > 5; PRAGMA writable_schema = ON; \
             UPDATE sqlite_schema SET name = 'sqlite_autoindex_zz', \
             sql = CAST(replace(sql, ' zz ', ' sqlite_autoindex_zz ') AS BLOB) WHERE name = 'zz'",
            "the index \"sqlite_autoindex_zz\", which sagad does not make",
        ),
    ] {
        support::copy_data(&data, &directory.path().join("planted"));
        let planted_in = directory.path().join("planted");
        Connection::open(planted_in.join("sagad.db")).unwrap().execute_batch(planted).unwrap();
        refused(&planted_in, &["damaged", name, "backup"]);
        let offline = |arguments: &[&str]| {
            let output = run(arguments);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(1) && told.contains(name), "{arguments:?}: {told}");
        };
        offline(&["check", "--data", planted_in.to_str().unwrap()]);
        offline(&["vacuum", "--data", planted_in.to_str().unwrap()]);
        fs::copy(planted_in.join("sagad.db"), &copy).unwrap();
        let restored = directory.path().join("restored");
        offline(&["restore", copy.to_str().unwrap(), "--data", restored.to_str().unwrap()]);
        assert!(!restored.join("sagad.db").exists() && !restored.join("sagad.db.partial").exists());
        fs::remove_dir_all(&planted_in).unwrap();
    }
    support::check(&data);
}

/// A store of an earlier version is migrated only if its schema is complete.
#[tokio::test]
async fn p8_an_earlier_schema_is_verified_before_it_is_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let begun = |data: &Path, planted: &str| {
        fs::create_dir(data).unwrap();
        let mut connection = Connection::open(data.join("sagad.db")).unwrap();
        migrate(&mut connection, FoundDatabase::Nothing, &MIGRATIONS[..1]).unwrap();
        connection.execute_batch(planted).unwrap();
    };
    let data = directory.path().join("planted");
    begun(&data, "CREATE TRIGGER evil AFTER INSERT ON meta BEGIN DELETE FROM saga; END");
    refused(&data, &["the trigger \"evil\", which sagad does not make"]);
    let data = directory.path().join("later");
    begun(&data, "PRAGMA user_version = 2");
    refused(&data, &["damaged", "its index \"work_terminal\" is not as sagad makes it"]);
    let data = directory.path().join("whole");
    begun(&data, "ANALYZE");
    let mut daemon = Launch::on(&data).start();
    let address = daemon.address();
    create(&mut support::sagas(address).await, "t", 10).await.unwrap();
    daemon.terminate().await;
    support::check(&data);
    // A migrated schema is accepted at the next start.
    Launch::on(&data).start().terminate().await;
}

/// A rollback journal of SQLite's (<https://www.sqlite.org/fileformat.html>, section 3) that puts these pages in the place of
/// a database's.
fn journal_of(database: &[u8]) -> Vec<u8> {
    const PAGE: usize = 4096;
    let pages: Vec<_> = database.chunks(PAGE).collect();
    let number = |value: usize| u32::try_from(value).unwrap().to_be_bytes();
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for field in [pages.len(), 0, pages.len(), 512, PAGE] {
        journal.extend(number(field));
    }
    journal.resize(512, 0);
    for (page, place) in pages.iter().zip(1..) {
        let sum = (1..PAGE.div_ceil(200)).map(|step| usize::from(page[PAGE - 200 * step])).sum();
        journal.extend([&number(place)[..], page, &number(sum)].concat());
    }
    journal
}

/// A journal beside the database is applied by the first program that opens it for writing, after a check that only read.
#[tokio::test]
async fn p8_a_schema_object_from_a_rollback_journal_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let planted = directory.path().join("planted.db");
    fs::copy(data.join("sagad.db"), &planted).unwrap();
    let connection = Connection::open(&planted).unwrap();
    connection.execute_batch("CREATE TRIGGER evil AFTER INSERT ON event BEGIN DELETE FROM gap; END").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    for file in ["sagad.db-wal", "sagad.db-shm"] {
        let _ = fs::remove_file(data.join(file));
    }
    let clean = fs::read(data.join("sagad.db")).unwrap();
    for tool in ["serve", "vacuum"] {
        fs::write(data.join("sagad.db"), &clean).unwrap();
        fs::write(data.join("sagad.db-journal"), journal_of(&fs::read(&planted).unwrap())).unwrap();
        let told = if tool == "serve" {
            Launch::on(&data).refused().1
        } else {
            let output = run(&[tool, "--data", data.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        assert!(told.contains("the trigger \"evil\", which sagad does not make"), "{tool}: {told}");
    }
}
