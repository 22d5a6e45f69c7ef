//! Files that change under a running daemon, and streams that outlive who opened them.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::*;
use tonic::{Code, Status, Streaming};

use crate::support::{
    Daemon, Problem, eventually,
    people::{Client, House, entry, everyone, hash, token},
};

async fn info(client: &Client) -> Result<(), Status> {
    client.clone().admin.get_server_info(GetServerInfoRequest {}).await.map(drop)
}

async fn until(client: &Client, code: Option<Code>) {
    eventually(&format!("{code:?}"), || async {
        let answer = info(client).await.err().map(|status| status.code());
        (answer == code).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_file_is_in_force_soon_and_a_broken_one_never() {
    let mut house = House::start(&entry("old", "['reader']", ""));
    let (old, new) = (house.client("old").await, house.client("new").await);
    until(&new, Some(Code::Unauthenticated)).await;
    house.rewrite(&[entry("old", "['reader']", ""), entry("new", "['reader']", "")].concat());
    until(&new, None).await;
    info(&old).await.unwrap();
    for broken in ["", "[[principal]]\nname = 'x'\n", "sagad~oops~a-token-that-was-pasted = 1"] {
        house.rewrite(broken);
        house.daemon.process().signal(Signal::HUP);
        eventually("the error is told", || async {
            let log = house.daemon.log();
            let told = log.matches("ERROR").count();
            (told >= 1 && log.contains("principals.toml line ")).then_some(())
        })
        .await;
        info(&old).await.unwrap();
        info(&new).await.unwrap();
    }
    std::fs::remove_file(&house.file).unwrap();
    house.daemon.process().signal(Signal::HUP);
    eventually("it is missed", || async { house.daemon.log().contains("can't be read").then_some(()) }).await;
    info(&new).await.unwrap();
    house.rewrite(&entry("new", "['reader']", ""));
    until(&old, Some(Code::Unauthenticated)).await;
    info(&new).await.unwrap();
    let log = house.daemon.terminate().await;
    assert!(!log.contains("pasted"), "{log}");
}

#[tokio::test]
async fn a_token_is_rotated_without_a_gap() {
    let first = token("w");
    let second = format!("{}2", &first[..first.len() - 1]);
    let both = entry("w", "['reader']", "");
    let both =
        both.replace(&format!("[\"{}\"]", hash(&first)), &format!("[\"{}\", \"{}\"]", hash(&first), hash(&second)));
    let only = entry("w", "['reader']", "").replace(&hash(&first), &hash(&second));
    let house = House::start(&entry("w", "['reader']", ""));
    let channel = house.daemon.channel().await;
    let (old, new) = (Client::new(channel.clone(), Some(&first)), Client::new(channel, Some(&second)));
    info(&old).await.unwrap();
    house.rewrite(&both);
    until(&new, None).await;
    info(&old).await.unwrap();
    let mut stays = new.clone().sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut ends = old.clone().sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    stays.message().await.unwrap();
    house.rewrite(&only);
    assert_eq!(end_of(&mut ends).await.code(), Code::Unauthenticated);
    until(&old, Some(Code::Unauthenticated)).await;
    info(&new).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(300), stays.message()).await;
    assert!(!matches!(more, Ok(Err(_))), "the stream of the token that stayed goes on: {more:?}");
}

/// What a stream ends with.
async fn end_of<T>(stream: &mut Streaming<T>) -> Status {
    let until_end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, until_end).await.expect("it ends soon")
}

#[tokio::test]
async fn streams_end_with_their_principal() {
    let house = House::start(&everyone());
    let mut worker = house.client("a").await;
    let mut reader = house.client("reader").await;
    let mut stale = reader.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    let mut events = worker.sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let (items, stream) = futures::channel::mpsc::channel::<KeepAliveRequest>(1);
    let mut kept = worker.sagas.keep_alive(stream).await.unwrap().into_inner();
    let mut other = house.client("operator").await;
    let mut stays = other.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    // The reader is removed, the worker gets another queue.
    let rest = [entry("operator", "['operator']", ""), entry("a", "['worker']", "['qz']")].concat();
    house.rewrite(&rest);
    for status in [end_of(&mut stale).await, end_of(&mut events).await, end_of(&mut kept).await] {
        assert_eq!(Problem::of(&status).reason, "UNAUTHENTICATED");
    }
    drop(items);
    let mut go_on = 0;
    while let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), stays.message()).await {
        answer.expect("who is unchanged goes on");
        go_on += 1;
    }
    assert_eq!(go_on, 1, "the end of its snapshot, and nothing else");
    // Who runs out is ended, too.
    let soon = chrono::DateTime::from(std::time::SystemTime::UNIX_EPOCH + since_1970() + Duration::from_secs(4));
    let soon: chrono::DateTime<chrono::Utc> = soon;
    let ending = format!(
        "{}not_after = {}\n",
        entry("operator", "['operator']", ""),
        soon.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    );
    house.rewrite(&ending);
    assert_eq!(Problem::of(&end_of(&mut stays).await).reason, "UNAUTHENTICATED");
}

#[allow(clippy::disallowed_methods, reason = "a test says when somebody's time is over")]
fn since_1970() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap()
}

#[tokio::test]
async fn sighup_ends_nothing() {
    let mut daemon = Daemon::start();
    for _ in 0..3 {
        daemon.process().signal(Signal::HUP);
    }
    eventually("it is told", || async { daemon.log().contains("nothing to read anew").then_some(()) }).await;
    daemon.api().await.stats().await;
    daemon.terminate().await;
}
