//! A backup while clients change things: consistent, and not in their way.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sagad::proto::{BatchCreateSagasRequest, CreateSagaRequest, GetStatsRequest};

use crate::{
    daemon::{self, Launch, backup, check, run},
    small::{annotate, claim, create, get},
};

const CLIENTS: usize = 4;

/// Changes sagas until told to stop; returns how long each change took.
async fn change(address: SocketAddr, number: usize, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let mut sagas = daemon::sagas(address).await;
    let mut took = Vec::new();
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let task_id = format!("load-{number}-{made}");
        made += 1;
        let begun = daemon::now();
        create(&mut sagas, &task_id, 500).await.unwrap();
        took.push(begun.elapsed());
        let begun = daemon::now();
        claim(&mut sagas, &task_id, 60).await.unwrap();
        took.push(begun.elapsed());
        let begun = daemon::now();
        annotate(&mut sagas, &task_id, "noted").await.unwrap();
        took.push(begun.elapsed());
    }
    took
}

/// Lets all clients work while something else is done; returns its result and how long their changes took, in order.
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
    let (mut daemon, address) = Launch::on(&directory.path().join("data")).start();
    let mut sagas = daemon::sagas(address).await;
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
    let begun = daemon::now();
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
    daemon.terminate();
    for (number, copy) in copies.iter().enumerate() {
        let file = directory.path().join(format!("copy-{number}.db"));
        fs::write(&file, copy).unwrap();
        let data = directory.path().join(format!("restored-{number}"));
        let restored = run(&["restore", file.to_str().unwrap(), "--data", data.to_str().unwrap()]);
        assert!(restored.status.success(), "{restored:?}");
        check(&data);
        let (mut daemon, address) = Launch::on(&data).start();
        for file in [data.join("sagad.db"), data.join("sagad.db-wal"), directory.path().join("data/sagad.db")] {
            let mode = fs::metadata(&file).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o600, "{} is nobody else's to read", file.display());
        }
        let mut sagas = daemon::sagas(address).await;
        let revision = sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().revision;
        assert!(revision >= before, "what was acknowledged before the backup is in it: {revision} {before}");
        assert_eq!(get(&mut sagas, "before-7").await.unwrap().payload.len(), 60 << 10);
        daemon.kill();
    }
}
