//! P3: a store whose files are removed or replaced while the daemon runs: nothing is acknowledged that the next start would
//! not find, and the daemon ends and says why.

use std::{fs, path::Path};

use super::small::create;
use crate::support::{self, Launch, copy_data, reason};

/// What happens to a data directory, with another beside it to put things aside.
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
    // A second daemon could start.
    ("without its lock", |data, _| fs::remove_file(data.join("sagad.lock")).unwrap(), "sagad.lock was removed"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_store_that_is_gone_acknowledges_nothing_and_ends_the_daemon() {
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
                // Whoever asks when it has been noticed already meets a daemon that ends, or none.
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
