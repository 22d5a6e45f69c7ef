//! Backups while clients make changes.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sagad::proto::{BatchCreateSagasRequest, CreateSagaRequest, GetStatsRequest};

use super::requests::{annotate, claim, create, get};
use crate::support::{self, Launch, backup, binary, check, run};

const CLIENTS: usize = 4;

/// Makes changes until it is stopped; returns the time of each.
async fn change(address: SocketAddr, number: usize, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut sagas = support::sagas(address).await;
    let mut took = Vec::new();
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let task_id = format!("load-{number}-{made}");
        made += 1;
        let begun = support::now();
        create(&mut sagas, &task_id, 500).await.unwrap();
        took.push(begun.elapsed());
        let begun = support::now();
        claim(&mut sagas, &task_id, 60).await.unwrap();
        took.push(begun.elapsed());
        let begun = support::now();
        annotate(&mut sagas, &task_id, "noted").await.unwrap();
        took.push(begun.elapsed());
    }
    took
}

/// Runs something while all clients make changes; returns its result and the sorted times of the changes.
async fn under_load<T>(address: SocketAddr, first: usize, work: impl Future<Output = T>) -> (T, Vec<Duration>) {
    let stop = Arc::new(AtomicBool::new(false));
    let numbers = first..first + CLIENTS;
    let clients: Vec<_> = numbers.map(|number| tokio::spawn(change(address, number, stop.clone()))).collect();
    let result = work.await;
    stop.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    for client in clients {
        took.extend(client.await.unwrap());
    }
    took.sort();
    (result, took)
}

fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted[(sorted.len() - 1) * of / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_consistent() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Launch::on(&directory.path().join("data")).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    for batch in 0..16 {
        let one = |n: usize| CreateSagaRequest {
            task_id: format!("before-{}", batch * 30 + n),
            payload: vec![b'x'; 60 << 10].into(),
            ..CreateSagaRequest::default()
        };
        let request = BatchCreateSagasRequest { requests: (0..30).map(one).collect(), request_id: String::new() };
        sagas.batch_create_sagas(request).await.unwrap();
    }
    let ((), quiet) = under_load(address, 0, tokio::time::sleep(Duration::from_secs(2))).await;
    let before = sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().revision;
    let begun = support::now();
    let (copies, busy) = under_load(address, CLIENTS, async {
        let mut copies = Vec::new();
        for _ in 0..3 {
            copies.push(backup(address).await.expect("a backup"));
        }
        copies
    })
    .await;
    let took = begun.elapsed() / 3;
    eprintln!(
        "a backup of {} MiB took {took:?}; changes: p50 {:?}, p99 {:?} meanwhile ({} of them), p50 {:?}, p99 {:?} \
         without ({})",
        copies[0].len() >> 20,
        percentile(&busy, 50),
        percentile(&busy, 99),
        busy.len(),
        percentile(&quiet, 50),
        percentile(&quiet, 99),
        quiet.len(),
    );
    daemon.terminate().await;
    for (number, copy) in copies.iter().enumerate() {
        let file = directory.path().join(format!("copy-{number}.db"));
        fs::write(&file, copy).unwrap();
        let data = directory.path().join(format!("restored-{number}"));
        let restored = run(&["restore", file.to_str().unwrap(), "--data", data.to_str().unwrap()]);
        assert!(restored.status.success(), "{restored:?}");
        check(&data);
        let mut daemon = Launch::on(&data).start();
        let address = daemon.address();
        for file in [data.join("sagad.db"), data.join("sagad.db-wal"), directory.path().join("data/sagad.db")] {
            let mode = fs::metadata(&file).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o600, "{} is not readable by others", file.display());
        }
        let mut sagas = support::sagas(address).await;
        let revision = sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().revision;
        assert!(revision >= before, "the backup has everything acknowledged before it: {revision} {before}");
        assert_eq!(get(&mut sagas, "before-7").await.unwrap().payload.len(), 60 << 10);
        daemon.kill().await;
    }
}

/// The files in a directory whose names end so.
fn names_ending(directory: &Path, end: &str) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_backups_to_one_name_do_not_interfere() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Launch::on(&directory.path().join("data")).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    for number in 0..100 {
        create(&mut sagas, &format!("task-{number}"), 60 << 10).await.unwrap();
    }
    let copies = directory.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let copy = copies.join("copy.db");
    let server = format!("http://{address}");
    let arguments = ["backup", copy.to_str().unwrap(), "--server", &server];
    // The first backup is stopped while it writes.
    let first = binary::sagad().args(arguments).stderr(Stdio::piped()).spawn().unwrap();
    let begun = support::now();
    while names_ending(&copies, ".partial").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no backup has begun");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = Pid::from_child(&first);
    kill_process(pid, Signal::STOP).unwrap();
    let unfinished = names_ending(&copies, ".partial");
    assert_eq!(unfinished.len(), 1, "the first was too quick: {unfinished:?}");
    let second = run(&arguments);
    assert_eq!(names_ending(&copies, ".partial"), unfinished, "the second left the first's file alone");
    kill_process(pid, Signal::CONT).unwrap();
    let first = first.wait_with_output().unwrap();
    // The daemon made the second one wait, or the second one was done first, and its copy is kept.
    let told = String::from_utf8_lossy(&if second.status.success() { &first } else { &second }.stderr).into_owned();
    assert!(first.status.success() != second.status.success(), "{first:?} {second:?}");
    assert!(!second.status.success() || told.contains("exists already; --force replaces it"), "{told}");
    assert_eq!(names_ending(&copies, ".partial"), [""; 0]);
    assert_eq!(copy.metadata().unwrap().mode() & 0o777, 0o600, "only its owner can read it");
    let again = run(&["backup", copy.to_str().unwrap(), "--server", &server]);
    assert_eq!(again.status.code(), Some(1));
    daemon.kill().await;
    let restored = directory.path().join("restored");
    let output = run(&["restore", copy.to_str().unwrap(), "--data", restored.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    check(&restored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_not_written_through_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Launch::on(&directory.path().join("data")).start();
    let address = daemon.address();
    let target = directory.path().join("target");
    fs::write(&target, "mine").unwrap();
    let copies = directory.path().join("copies");
    fs::create_dir(&copies).unwrap();
    let copy = copies.join("copy.db");
    symlink(&target, copies.join("copy.db.partial")).unwrap();
    let server = format!("http://{address}");
    let output = run(&["backup", copy.to_str().unwrap(), "--server", &server]);
    assert!(output.status.success(), "{output:?}");
    // A link under the copy's name is replaced, not followed.
    fs::remove_file(&copy).unwrap();
    symlink(&target, &copy).unwrap();
    let refused = run(&["backup", copy.to_str().unwrap(), "--server", &server]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let output = run(&["backup", copy.to_str().unwrap(), "--force", "--server", &server]);
    assert!(output.status.success() && copy.symlink_metadata().unwrap().is_file(), "{output:?}");
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    daemon.kill().await;

    // A lock is not created through a link either.
    let data = directory.path().join("linked");
    fs::create_dir(&data).unwrap();
    symlink(directory.path().join("elsewhere"), data.join("sagad.lock")).unwrap();
    let (status, log) = Launch::on(&data).spawn().end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!directory.path().join("elsewhere").exists());
}
