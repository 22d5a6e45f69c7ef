//! Clients with streams: leases kept by `KeepAlive`, and watchers of both kinds. On SIGTERM the daemon ends each stream with
//! `UNAVAILABLE`, and all clients resume.

use std::{fmt::Debug, time::Duration};

use futures::{FutureExt, StreamExt};
use sagad::proto::*;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    TTL_MS,
    plain_client::PlainClient,
    retrying_caller::{Backoff, RetryingCaller, may_be_repeated},
};
use crate::support::{Problem, daemon::ShutdownSignal};

/// Leases on one stream.
const KEPT: usize = 4;

/// Checks the status that ended an open stream.
fn assert_ended(caller: &RetryingCaller, how: ShutdownSignal, status: &Status) {
    caller.figures.stream_ended(status);
    assert!(may_be_repeated(status), "a stream is refused: {status:?}");
    if how == ShutdownSignal::Term {
        assert_eq!(Problem::of(status).reason, "SHUTTING_DOWN", "{status:?}");
        assert_eq!(status.code(), Code::Unavailable);
    }
}

/// Keeps leases until it is stopped; none may be lost.
pub async fn keep_alive(client: PlainClient, how: ShutdownSignal) {
    let mut leases = Vec::new();
    for _ in 0..KEPT {
        let request = CreateSagaRequest { queue: "kept".into(), ..Default::default() };
        let task_id = client.create(request).await;
        leases.push(client.claim(&task_id, LeasePurpose::Execute, TTL_MS).await);
    }
    let mut pauses = Backoff::new();
    while !client.stop.is_cancelled() {
        let (items, sent) = mpsc::channel(KEPT);
        let opened = client.caller.api.sagas.clone().keep_alive(ReceiverStream::new(sent)).await;
        let mut answers = match opened {
            Ok(answers) => answers.into_inner(),
            Err(status) => {
                assert!(may_be_repeated(&status), "a stream is refused: {status:?}");
                pauses.wait(&status).await;
                continue;
            }
        };
        let mut answered = 0_u64;
        let ended = loop {
            if client.stop.is_cancelled() {
                break None;
            }
            for lease in &leases {
                // An ended stream accepts no item; its answers have the reason.
                let _ = items.send(lease.keep_alive()).await;
            }
            match kept(&mut answers, &leases[0].task_id).await {
                Ok(()) => answered += 1,
                Err(status) => break Some(status),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        if let Some(status) = ended {
            if answered > 0 {
                pauses = Backoff::new();
                assert_ended(&client.caller, how, &status);
            }
            pauses.wait(&status).await;
        }
    }
    for lease in &leases {
        client.complete(lease).await;
    }
}

/// Reads the answers to one round of heartbeats: all are accepted, unless the coordinator is shutting down.
async fn kept(answers: &mut Streaming<KeepAliveResponse>, first: &str) -> Result<(), Status> {
    for n in 0..KEPT {
        let silent = Status::deadline_exceeded("no answer in time");
        let answer = tokio::time::timeout(Duration::from_secs(10), answers.message()).await.unwrap_or(Err(silent))?;
        let answer = answer.ok_or_else(|| Status::unknown("the stream ended without a word"))?;
        assert!(n > 0 || answer.task_id == first, "answers come in the order of the items: {answer:?}");
        let passing = answer.code == Code::Unavailable as i32 || answer.code == Code::ResourceExhausted as i32;
        assert!(answer.code == 0 || passing, "a lease is lost: {answer:?}");
    }
    Ok(())
}

/// The items that a watcher received, in order.
pub type WatchRecord<T> = Vec<(i64, T)>;

/// Follows all events until `head` is set and reached.
pub async fn events(caller: RetryingCaller, how: ShutdownSignal, head: watch::Receiver<i64>) -> WatchRecord<SagaEvent> {
    let open = |api: crate::support::Api, after| {
        async move { api.watch_events(WatchEventsRequest { after_revision: Some(after), ..Default::default() }).await }
            .boxed()
    };
    follow(caller, how, head, open, |answer| {
        use watch_events_response::Item;
        match answer.item.expect("an answer has an item") {
            Item::Event(event) => (answer.revision, Some(event)),
            Item::Bookmark(_) => (answer.revision, None),
        }
    })
    .await
}

/// An item of a watch of stale sagas: the saga, its lease, and its resolution.
pub type StaleItem = (String, i64, Option<Resolution>);

/// Follows stale sagas until `head` is set and reached.
pub async fn stale(caller: RetryingCaller, how: ShutdownSignal, head: watch::Receiver<i64>) -> WatchRecord<StaleItem> {
    let open = |api: crate::support::Api, after| {
        async move { api.watch_stale(WatchStaleRequest { after_revision: Some(after), ..Default::default() }).await }
            .boxed()
    };
    follow(caller, how, head, open, |answer| {
        use watch_stale_response::Item;
        let told = match answer.item.expect("an answer has an item") {
            Item::Stale(stale) => Some((stale.task_id, stale.fencing_token, None)),
            Item::Resolved(resolved) => {
                let resolution = resolved.resolution();
                Some((resolved.task_id, 0, Some(resolution)))
            }
            Item::Bookmark(_) => None,
        };
        (answer.revision, told)
    })
    .await
}

type Opening<A> = futures::future::BoxFuture<'static, Result<Streaming<A>, Status>>;

async fn follow<A: Debug, T>(
    caller: RetryingCaller,
    how: ShutdownSignal,
    mut head: watch::Receiver<i64>,
    open: impl Fn(crate::support::Api, i64) -> Opening<A>,
    read: impl Fn(A) -> (i64, Option<T>),
) -> WatchRecord<T> {
    let (mut record, mut position, mut pauses) = (WatchRecord::new(), 0, Backoff::new());
    while position < *head.borrow() {
        let mut answers = match open(caller.api.clone(), position).await {
            Ok(answers) => answers,
            Err(status) => {
                assert!(may_be_repeated(&status), "{position} was received but can't be resumed from: {status:?}");
                pauses.wait(&status).await;
                continue;
            }
        };
        let mut any = false;
        while position < *head.borrow() {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                _ = head.changed() => continue,
            };
            match answer.unwrap_or_else(|| Err(Status::unknown("the stream ended without a word"))) {
                Ok(answer) => {
                    any = true;
                    let (revision, item) = read(answer);
                    assert!(revision >= position, "{revision} came after {position}");
                    position = revision;
                    record.extend(item.map(|item| (revision, item)));
                }
                Err(status) => {
                    if any {
                        pauses = Backoff::new();
                        assert_ended(&caller, how, &status);
                    }
                    pauses.wait(&status).await;
                    break;
                }
            }
        }
    }
    record
}
