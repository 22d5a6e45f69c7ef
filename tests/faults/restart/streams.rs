//! Clients with streams: leases kept by `KeepAlive`, and watchers of both kinds. A daemon that is told to end ends each
//! stream with `UNAVAILABLE`; all begin again where they were.

use std::{fmt::Debug, time::Duration};

use futures::{FutureExt, StreamExt};
use sagad::proto::*;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    TTL_MS,
    calls::{Caller, Pauses, may_be_repeated},
    roles::Hand,
};
use crate::support::{Problem, daemon::ShutdownSignal};

/// Leases on one stream.
const KEPT: usize = 4;

/// How a stream that had answered may end.
fn assert_ended(caller: &Caller, how: ShutdownSignal, status: &Status) {
    caller.figures.stream_ended(status);
    assert!(may_be_repeated(status), "a stream is refused: {status:?}");
    if how == ShutdownSignal::Term {
        assert_eq!(Problem::of(status).reason, "SHUTTING_DOWN", "{status:?}");
        assert_eq!(status.code(), Code::Unavailable);
    }
}

/// Keeps leases for as long as it goes on; none is lost.
pub async fn keep_alive(hand: Hand, how: ShutdownSignal) {
    let mut leases = Vec::new();
    for _ in 0..KEPT {
        let request = CreateSagaRequest { queue: "kept".into(), ..Default::default() };
        let task_id = hand.create(request).await;
        leases.push(hand.claim(&task_id, LeasePurpose::Execute, TTL_MS).await);
    }
    let mut pauses = Pauses::new();
    while !hand.stop.is_cancelled() {
        let (items, sent) = mpsc::channel(KEPT);
        let opened = hand.caller.api.sagas.clone().keep_alive(ReceiverStream::new(sent)).await;
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
            if hand.stop.is_cancelled() {
                break None;
            }
            for lease in &leases {
                // A stream that has ended takes none; its answers say why.
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
                pauses = Pauses::new();
                assert_ended(&hand.caller, how, &status);
            }
            pauses.wait(&status).await;
        }
    }
    for lease in &leases {
        hand.complete(lease).await;
    }
}

/// The answers to one round of heartbeats: all are accepted, unless the coordinator is about to end.
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

/// What a watcher received, in order.
pub type Record<T> = Vec<(i64, T)>;

/// Follows all events until `head` is set and reached.
pub async fn events(caller: Caller, how: ShutdownSignal, head: watch::Receiver<i64>) -> Record<SagaEvent> {
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

/// What a stale saga's watcher is told: which, its lease, and what became of it.
pub type Told = (String, i64, Option<Resolution>);

/// Follows stale sagas until `head` is set and reached.
pub async fn stale(caller: Caller, how: ShutdownSignal, head: watch::Receiver<i64>) -> Record<Told> {
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
    caller: Caller,
    how: ShutdownSignal,
    mut head: watch::Receiver<i64>,
    open: impl Fn(crate::support::Api, i64) -> Opening<A>,
    read: impl Fn(A) -> (i64, Option<T>),
) -> Record<T> {
    let (mut record, mut position, mut pauses) = (Record::new(), 0, Pauses::new());
    while position < *head.borrow() {
        let mut answers = match open(caller.api.clone(), position).await {
            Ok(answers) => answers,
            Err(status) => {
                assert!(may_be_repeated(&status), "{position} was received, and can't be resumed from: {status:?}");
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
                        pauses = Pauses::new();
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
