//! Kills while the log is copied into the database, and while the log is restarted. Random kills seldom hit these few
//! milliseconds, so `strace` kills the daemon at its N-th write or sync of one of the files.

use std::path::Path;

use rand::random_range;
use sagad::proto::*;

use super::verify;
use crate::support::{self, Launch, Sagas, check, needs};

/// Enough sagas for three logs of the smallest size.
const SAGAS_MAX: usize = 600;
const PAYLOAD_BYTES: usize = 5000;

/// A file, system calls, and the numbers of the calls at which the daemon is killed.
struct KillPoints {
    file: &'static str,
    calls: &'static str,
    at: Vec<usize>,
}

/// Every `stride`-th number, from a random one; `TORTURE_EVERY=1` takes all.
fn every(stride: usize, most: usize) -> Vec<usize> {
    let stride = support::number("TORTURE_EVERY").map_or(stride, |every: usize| every.max(1));
    (random_range(1..=stride)..=most).step_by(stride).collect()
}

fn payload(number: usize) -> Vec<u8> {
    vec![number as u8; PAYLOAD_BYTES]
}

/// Creates sagas until the daemon has ended; returns how many were acknowledged.
async fn make_until_gone(sagas: &mut Sagas) -> usize {
    for number in 0..SAGAS_MAX {
        let request = CreateSagaRequest {
            task_id: format!("task-{number}"),
            payload: payload(number).into(),
            ..CreateSagaRequest::default()
        };
        if sagas.create_saga(request).await.is_err() {
            return number;
        }
    }
    SAGAS_MAX
}

/// Runs a daemon that is killed at this call; returns true if that happened while it served.
async fn killed_at(directory: &Path, aim: &KillPoints, call: usize) -> bool {
    // With the file's name: two entries may have the same calls and numbers.
    let data = directory.join(format!("{}-{}-{call}", aim.file, aim.calls));
    // On an existing store, so that its creation is not hit.
    Launch::on(&data).start().terminate().await;
    let file = data.join(aim.file);
    let (trace, inject) = (format!("trace={}", aim.calls), format!("inject={}:signal=KILL:when={call}", aim.calls));
    let options = ["-P", file.to_str().unwrap(), "-e", &trace, "-e", &inject];
    let launch = Launch::on(&data).arg("--max-wal-bytes=1MiB").arg("--log=warn");
    let mut daemon = launch.traced(&directory.join("trace"), &options).spawn();
    let Some(address) = daemon.address() else {
        daemon.end().await;
        return false;
    };
    let Ok(channel) = support::channel(address).await else {
        daemon.end().await;
        return false;
    };
    let acknowledged = make_until_gone(&mut Sagas::new(channel)).await;
    let was_killed = acknowledged < SAGAS_MAX;
    daemon.kill().await;
    check(&data);
    let mut daemon = Launch::on(&data).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    for number in 0..acknowledged {
        let saga = verify::get(&mut sagas, &format!("task-{number}")).await;
        let saga = saga.unwrap_or_else(|| panic!("task-{number} of {acknowledged} is lost: {} {call}", aim.calls));
        assert!(saga.payload == payload(number), "task-{number} has wrong contents");
    }
    // The last creation may have happened without an answer.
    assert!(verify::list(&mut sagas).await.len() - acknowledged <= 1);
    daemon.terminate().await;
    check(&data);
    was_killed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_killed_checkpoint_loses_nothing() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let aims = [
        // During the first and the second checkpoint.
        KillPoints { file: "sagad.db", calls: "pwrite64", at: every(120, 500) },
        // After all is copied, before and after the sync.
        KillPoints { file: "sagad.db", calls: "fsync,fdatasync", at: every(2, 6) },
        // Around the restart of the log, with its new header.
        KillPoints { file: "sagad.db-wal", calls: "pwrite64", at: every(170, 700) },
        KillPoints { file: "sagad.db-wal", calls: "fsync,fdatasync", at: every(130, 400) },
    ];
    for aim in aims {
        let mut killed = 0;
        for call in &aim.at {
            killed += u32::from(killed_at(directory.path(), &aim, *call).await);
        }
        eprintln!("{} of {}: killed at {killed} of {} calls, while serving", aim.calls, aim.file, aim.at.len());
        assert!(killed > 0, "none of these calls was met: {:?}", aim.at);
    }
}
