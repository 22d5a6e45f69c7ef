//! P3: if files of the store are removed or replaced while the daemon runs, no further change is acknowledged, and the daemon
//! ends with a message.

use std::{fs, path::Path};

use super::requests::create;
use crate::support::{self, Launch, copy_data, reason};

/// Removes or replaces files of a data directory; the other directory is for what is moved away.
type Loss = fn(&Path, &Path);

const LOSSES: &[(&str, Loss, &str)] = &[
    ("removed", |data, _| fs::remove_dir_all(data).unwrap(), "was removed or renamed"),
    ("renamed", |data, aside| fs::rename(data, aside).unwrap(), "was removed or renamed"),
    (
        "replaced by a copy",
        |data, aside| {
            fs::rename(data, aside).unwrap();
            copy_data(aside, data);
        },
        "was replaced by another file",
    ),
    ("without its log", |data, _| fs::remove_file(data.join("sagad.db-wal")).unwrap(), "sagad.db-wal was removed"),
    // Without the lock a second daemon could start.
    ("without its lock", |data, _| fs::remove_file(data.join("sagad.lock")).unwrap(), "sagad.lock was removed"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_removed_or_replaced_store_files_end_the_daemon() {
    for (what, lose, said) in LOSSES {
        for asked in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let (data, aside) = (directory.path().join("data"), directory.path().join("aside"));
            let mut daemon = Launch::on(&data).start();
            let address = daemon.address();
            let mut sagas = support::sagas(address).await;
            create(&mut sagas, "before", 10).await.unwrap();
            lose(&data, &aside);
            if asked {
                let status = create(&mut sagas, "after", 10).await.expect_err(what);
                // If the daemon has noticed the loss before the call, it is ending or has ended.
                let reason = reason(&status);
                assert!(
                    ["OUTCOME_UNKNOWN", "STORE_UNAVAILABLE", "SHUTTING_DOWN", ""].contains(&&*reason),
                    "{what}: {status:?}"
                );
            }
            let (ended, log) = daemon.process().end().await;
            assert_eq!(ended.code(), Some(1), "{what}: {log}");
            let message =
                log.lines().find(|line| line.starts_with("sagad: ")).unwrap_or_else(|| panic!("{what}: {log}"));
            assert!(message.contains(said) && message.contains("sagad restore"), "{what}: {message}");
        }
    }
}
