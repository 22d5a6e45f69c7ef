//! Changes of the principals file of a running daemon, and the end of streams of removed principals.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::*;
use tonic::{Code, Status, Streaming};

use crate::support::{
    Daemon, Problem, eventually,
    principals::{AuthSetup, TokenClient, entry, everyone, hash, token},
    since_1970,
};

async fn info(client: &TokenClient) -> Result<(), Status> {
    client.clone().admin.get_server_info(GetServerInfoRequest {}).await.map(drop)
}

async fn until(client: &TokenClient, code: Option<Code>) {
    eventually(&format!("{code:?}"), || async {
        let answer = info(client).await.err().map(|status| status.code());
        (answer == code).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_principals_file_takes_effect_soon_and_an_invalid_one_never() {
    let mut setup = AuthSetup::start(&entry("old", "['reader']", ""));
    let (old, new) = (setup.client("old").await, setup.client("new").await);
    until(&new, Some(Code::Unauthenticated)).await;
    setup.rewrite(&[entry("old", "['reader']", ""), entry("new", "['reader']", "")].concat());
    until(&new, None).await;
    info(&old).await.unwrap();
    for broken in ["", "[[principal]]\nname = 'x'\n", "sagad~oops~a-token-that-was-pasted = 1"] {
        setup.rewrite(broken);
        setup.daemon.process().signal(Signal::HUP);
        eventually("the error is logged", || async {
            let log = setup.daemon.log();
            let told = log.matches("ERROR").count();
            (told >= 1 && log.contains("principals.toml line ")).then_some(())
        })
        .await;
        info(&old).await.unwrap();
        info(&new).await.unwrap();
    }
    std::fs::remove_file(&setup.file).unwrap();
    setup.daemon.process().signal(Signal::HUP);
    eventually("it is missed", || async { setup.daemon.log().contains("can't be read").then_some(()) }).await;
    info(&new).await.unwrap();
    setup.rewrite(&entry("new", "['reader']", ""));
    until(&old, Some(Code::Unauthenticated)).await;
    info(&new).await.unwrap();
    let log = setup.daemon.terminate().await;
    assert!(!log.contains("pasted"), "{log}");
}

#[tokio::test]
async fn a_token_is_rotated_without_a_refused_call() {
    let first = token("w");
    let second = format!("{}2", &first[..first.len() - 1]);
    let both = entry("w", "['reader']", "");
    let both =
        both.replace(&format!("[\"{}\"]", hash(&first)), &format!("[\"{}\", \"{}\"]", hash(&first), hash(&second)));
    let only = entry("w", "['reader']", "").replace(&hash(&first), &hash(&second));
    let setup = AuthSetup::start(&entry("w", "['reader']", ""));
    let channel = setup.daemon.channel().await;
    let (old, new) = (TokenClient::new(channel.clone(), Some(&first)), TokenClient::new(channel, Some(&second)));
    info(&old).await.unwrap();
    setup.rewrite(&both);
    until(&new, None).await;
    info(&old).await.unwrap();
    let mut stays = new.clone().sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut ends = old.clone().sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    stays.message().await.unwrap();
    setup.rewrite(&only);
    assert_eq!(end_of(&mut ends).await.code(), Code::Unauthenticated);
    until(&old, Some(Code::Unauthenticated)).await;
    info(&new).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(300), stays.message()).await;
    assert!(!matches!(more, Ok(Err(_))), "the stream of the remaining token stays open: {more:?}");
}

/// The error that ends a stream.
async fn end_of<T>(stream: &mut Streaming<T>) -> Status {
    let until_end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without an error"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(crate::support::WAIT_MAX, until_end).await.expect("it ends soon")
}

#[tokio::test]
async fn streams_end_when_their_principal_is_removed() {
    let setup = AuthSetup::start(&everyone());
    let mut worker = setup.client("a").await;
    let mut reader = setup.client("reader").await;
    let mut stale = reader.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    let mut events = worker.sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let (items, stream) = futures::channel::mpsc::channel::<KeepAliveRequest>(1);
    let mut kept = worker.sagas.keep_alive(stream).await.unwrap().into_inner();
    let mut other = setup.client("operator").await;
    let mut stays = other.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    // The reader is removed, and the worker's queues change.
    let rest = [entry("operator", "['operator']", ""), entry("a", "['worker']", "['qz']")].concat();
    setup.rewrite(&rest);
    for status in [end_of(&mut stale).await, end_of(&mut events).await, end_of(&mut kept).await] {
        assert_eq!(Problem::of(&status).reason, "UNAUTHENTICATED");
    }
    drop(items);
    let mut go_on = 0;
    while let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), stays.message()).await {
        answer.expect("an unchanged principal's stream stays open");
        go_on += 1;
    }
    assert_eq!(go_on, 1, "only the bookmark after its snapshot");
    // A stream also ends at its principal's not_after.
    let soon = chrono::DateTime::from(std::time::SystemTime::UNIX_EPOCH + since_1970() + Duration::from_secs(4));
    let soon: chrono::DateTime<chrono::Utc> = soon;
    let ending = format!(
        "{}not_after = {}\n",
        entry("operator", "['operator']", ""),
        soon.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    );
    setup.rewrite(&ending);
    assert_eq!(Problem::of(&end_of(&mut stays).await).reason, "UNAUTHENTICATED");
}

#[tokio::test]
async fn sighup_ends_no_call_and_no_stream() {
    let mut daemon = Daemon::start();
    for _ in 0..3 {
        daemon.process().signal(Signal::HUP);
    }
    eventually("it is logged", || async { daemon.log().contains("nothing to read anew").then_some(()) }).await;
    daemon.api().await.stats().await;
    daemon.terminate().await;
}
