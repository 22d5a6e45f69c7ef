//! P9: tokens never repeat, even after a restore from a backup or a log that lost its tail.

use std::{collections::BTreeSet, fs, path::Path};

use sagad::proto::*;
use tonic::Code;

use super::requests::{annotate, claim, create, killed_store};
use crate::support::{self, Launch, Sagas, backup, check, copy_data, reason, run};

/// Size of the log's header, and of a frame: its header and a page.
const LOG_HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

/// The reason why events can't be watched from a position; none if they can.
async fn refusal(sagas: &mut Sagas, after: i64) -> Option<String> {
    let request = WatchEventsRequest { after_revision: Some(after), ..WatchEventsRequest::default() };
    let first = match sagas.watch_events(request).await {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    let status = first.err()?;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    Some(reason(&status))
}

/// The same for stale sagas.
async fn stale_refusal(sagas: &mut Sagas, after: i64) -> Option<String> {
    let request = WatchStaleRequest { after_revision: Some(after), ..WatchStaleRequest::default() };
    match sagas.watch_stale(request).await {
        Ok(stream) => {
            let mut stream = stream.into_inner();
            let first = tokio::time::timeout(std::time::Duration::from_millis(300), stream.message()).await;
            match first {
                Ok(Err(status)) => Some(reason(&status)),
                _ => None,
            }
        }
        Err(status) => Some(reason(&status)),
    }
}

async fn head(sagas: &mut Sagas) -> i64 {
    sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().revision
}

/// Claims a new saga; returns the token.
async fn next_token(sagas: &mut Sagas, task_id: &str) -> i64 {
    create(sagas, task_id, 10).await.unwrap();
    claim(sagas, task_id, 60).await.unwrap().lease.unwrap().fencing_token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_after_a_restore_no_token_repeats() {
    let directory = tempfile::tempdir().unwrap();
    let first = directory.path().join("first");
    let mut daemon = Launch::on(&first).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    // A token is the revision of its claim, the last event so far. GetStats shows it a moment later.
    let mut in_copy = 0;
    for number in 0..10 {
        in_copy = next_token(&mut sagas, &format!("before-{number}")).await;
    }
    let copy = directory.path().join("copy.db");
    fs::write(&copy, backup(address).await.expect("a backup")).unwrap();
    let mut tokens = BTreeSet::new();
    for number in 0..50 {
        tokens.insert(next_token(&mut sagas, &format!("after-{number}")).await);
    }
    let lost = *tokens.last().unwrap();
    daemon.kill().await;

    // Restored twice from the same copy: tokens of the first restored store must not repeat either.
    for round in 0..2 {
        let data = directory.path().join(format!("restored-{round}"));
        let restored = run(&["restore", copy.to_str().unwrap(), "--data", data.to_str().unwrap()]);
        assert!(restored.status.success(), "{restored:?}");
        check(&data);
        let mut daemon = Launch::on(&data).start();
        let address = daemon.address();
        let mut sagas = support::sagas(address).await;
        for position in [0, 1, in_copy] {
            assert_eq!(refusal(&mut sagas, position).await, None, "the copy contains {position}");
        }
        for position in [in_copy + 1, in_copy + 20, lost] {
            assert_eq!(refusal(&mut sagas, position).await.as_deref(), Some("REVISION_UNKNOWN"), "{position}");
            assert_eq!(stale_refusal(&mut sagas, position).await.as_deref(), Some("REVISION_UNKNOWN"), "{position}");
        }
        let token = next_token(&mut sagas, "again").await;
        assert!(token > *tokens.last().unwrap(), "token {token} may have been assigned before");
        if round == 0 {
            assert!(tokens.insert(token));
        }
        // Lost positions stay unknown although the head is above them now.
        assert_eq!(refusal(&mut sagas, lost).await.as_deref(), Some("REVISION_UNKNOWN"));
        daemon.kill().await;
    }
}

/// Starts a daemon on a store with a changed log; returns how many revisions it lost.
async fn assert_tokens_grow(data: &Path, told: i64, what: &str) -> i64 {
    let mut daemon = Launch::on(data).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    let head = head(&mut sagas).await;
    assert!(head <= told, "{what}");
    assert_eq!(refusal(&mut sagas, head).await, None, "{what}: the head can be resumed from");
    if head < told {
        for position in [head + 1, told] {
            let reason = refusal(&mut sagas, position).await;
            assert_eq!(reason.as_deref(), Some("REVISION_UNKNOWN"), "{what}: {position} of {head}");
        }
    }
    let token = next_token(&mut sagas, "afterwards").await;
    assert!(token > told, "{what}: token {token}, although {told} was assigned");
    if head < told {
        assert_eq!(refusal(&mut sagas, told).await.as_deref(), Some("REVISION_UNKNOWN"), "{what}");
    }
    annotate(&mut sagas, "afterwards", "it goes on").await.unwrap();
    daemon.kill().await;
    check(data);
    told - head
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_no_token_repeats_after_a_log_lost_its_tail() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    let told = killed_store(&whole, 12).await;
    let log = fs::read(whole.join("sagad.db-wal")).unwrap();
    let frames = (log.len() - LOG_HEADER) / FRAME;
    let at_frames = (0..frames).step_by((frames / 8).max(1)).map(|frame| LOG_HEADER + frame * FRAME);
    let mut lengths: Vec<_> = at_frames.flat_map(|at| [at, at + 7, at + 24, at + FRAME / 2]).collect();
    lengths.extend([0, 5, LOG_HEADER - 1, log.len() - 1, log.len() - FRAME, log.len()]);
    let (mut lost, mut runs) = (0, 0);
    for length in lengths {
        let data = directory.path().join(format!("cut-{length}"));
        copy_data(&whole, &data);
        fs::write(data.join("sagad.db-wal"), &log[..length]).unwrap();
        lost += i64::from(assert_tokens_grow(&data, told, &format!("cut at {length} of {}", log.len())).await > 0);
        runs += 1;
        fs::remove_dir_all(&data).unwrap();
    }
    eprintln!("{runs} cuts of a log of {frames} frames: {lost} lost changes, none repeated a token");
    assert!(lost > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_no_token_repeats_after_bits_of_the_log_flipped() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    let told = killed_store(&whole, 12).await;
    let log = fs::read(whole.join("sagad.db-wal")).unwrap();
    let (mut lost, mut refused, mut runs) = (0, 0, 0);
    for place in (3..log.len()).step_by(log.len() / 24) {
        let data = directory.path().join(format!("flip-{place}"));
        copy_data(&whole, &data);
        let mut bytes = log.clone();
        bytes[place] ^= 0x10;
        fs::write(data.join("sagad.db-wal"), bytes).unwrap();
        runs += 1;
        if let Some(log) = refuses(&data).await {
            assert!(log.contains("damaged") && log.contains("backup"), "{log}");
            refused += 1;
        } else {
            lost += i64::from(assert_tokens_grow(&data, told, &format!("bit flipped at {place}")).await > 0);
        }
        fs::remove_dir_all(&data).unwrap();
    }
    eprintln!("{runs} flipped bits in the log: {refused} refused, {lost} lost changes, none repeated a token");
    assert!(lost + refused > 10, "too few flipped bits lost changes or were refused");
}

/// The message of a daemon that refuses a store; none if it serves.
async fn refuses(data: &Path) -> Option<String> {
    let copy = data.with_extension("tried");
    copy_data(data, &copy);
    let mut daemon = Launch::on(&copy).spawn();
    let refused = if daemon.address().is_none() { Some(daemon.end().await.1) } else { None };
    daemon.kill().await;
    fs::remove_dir_all(&copy).unwrap();
    refused
}
