//! P8: a damaged, foreign, newer or locked database is refused with a message that says what to do; it is not touched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use crate::{
    daemon::{self, Launch, run},
    small::{create, killed_store},
};

/// A store at rest that was closed well, so that all of it is in the one file.
async fn closed_store(directory: &Path) -> PathBuf {
    let data = directory.join("data");
    killed_store(&data, 60).await;
    let (mut daemon, _) = Launch::on(&data).start();
    daemon.terminate();
    // Into the database with what the log holds, as another program might.
    let connection = Connection::open(data.join("sagad.db")).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    data
}

/// All files of a directory but the lock.
fn contents(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(data).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "sagad.lock");
    // The index of the log is made anew by whoever looks.
    let files = files.filter(|entry| !entry.file_name().to_string_lossy().ends_with("-shm"));
    files.map(|e| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).unwrap())).collect()
}

/// The daemon refuses a directory, naming what it says of it, and leaves it as it was.
fn refused(data: &Path, words: &[&str]) {
    let before = contents(data);
    let (status, log) = Launch::on(data).refused();
    assert_eq!(status.code(), Some(1), "{log}");
    for word in words {
        assert!(log.contains(word), "{word:?} is not in: {log}");
    }
    let mut after = contents(data);
    // An empty log is no change.
    after.retain(|name, bytes| before.contains_key(name) || !bytes.is_empty());
    assert!(before == after, "it was touched: {:?} {:?}", before.keys(), after.keys());
}

#[tokio::test]
async fn p8_a_damaged_header_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let file = data.join("sagad.db");
    let whole = fs::read(&file).unwrap();
    // The magic, the page size, the format, the schema's first page.
    for (place, length) in [(0, 16), (16, 2), (18, 2), (20, 4), (100, 8), (0, 4096)] {
        let mut bytes = whole.clone();
        for byte in &mut bytes[place..place + length] {
            *byte ^= 0x5A;
        }
        fs::write(&file, bytes).unwrap();
        refused(&data, &["damaged", "backup"]);
    }
    fs::write(&file, whole).unwrap();
    daemon::check(&data);
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
    daemon::check(&data);
}

/// A damaged page is found by `sagad check` wherever it is, and by `sagad restore`; the daemon finds it when it comes to
/// it, and then ends or refuses that row.
#[tokio::test]
async fn p8_a_damaged_page_is_found_by_check() {
    let directory = tempfile::tempdir().unwrap();
    let data = closed_store(directory.path()).await;
    let file = data.join("sagad.db");
    let whole = fs::read(&file).unwrap();
    let (mut found, mut refusals, mut pages) = (0, 0, 0);
    for page in 1..whole.len() / 4096 {
        let start = page * 4096;
        // The head of a tree's page: its kind, its count of cells, where they are.
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
                let (_, log) = daemon.end();
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
    let (mut first, address) = Launch::on(&data).start();
    let mut sagas = daemon::sagas(address).await;
    create(&mut sagas, "one", 10).await.unwrap();
    let (status, log) = Launch::on(&data).refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("in use by another sagad") && log.contains("stop that one first"), "{log}");
    for verb in [vec!["check", "--data"], vec!["restore", "/dev/null", "--data"]] {
        let output = run(&[verb, vec![data.to_str().unwrap()]].concat());
        assert!(!output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("in use"), "{output:?}");
    }
    create(&mut sagas, "two", 10).await.expect("the first goes on");
    first.terminate();
    daemon::check(&data);
}

/// A database whose log is there and which itself is gone, or empty, is no place for a new store: making one would throw
/// the log away.
#[tokio::test]
async fn p8_a_lost_database_beside_its_log_is_refused() {
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
