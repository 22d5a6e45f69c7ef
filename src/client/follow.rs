//! [`Follow`]: follows a server stream with revisions. When the stream breaks, it is opened again after the last
//! revision received, so that nothing comes twice and nothing is missed.

use std::{future::Future, pin::Pin, time::Duration};

use tonic::{Status, Streaming};

use super::{CallEffect, Client, StatusDetails, retry::Backoff};
use crate::proto::{WatchEventsRequest, WatchEventsResponse, WatchStaleRequest, WatchStaleResponse};

/// `WatchStale` sends a bookmark at least every ten seconds. After three times that without a message, the stream
/// counts as dead. `WatchEvents` has no such promise and relies on the channel's pings.
const STALE_SILENCE_MAX: Duration = Duration::from_secs(30);

/// An answer that carries a revision to resume after.
pub trait Revisioned {
    /// The revision; 0 when it carries none.
    fn revision(&self) -> i64;
}

impl Revisioned for WatchStaleResponse {
    fn revision(&self) -> i64 {
        self.revision
    }
}

impl Revisioned for WatchEventsResponse {
    fn revision(&self) -> i64 {
        self.revision
    }
}

/// An item of a followed stream.
#[derive(Clone, Debug, PartialEq)]
pub enum FollowItem<T> {
    /// An answer.
    Item(T),
    /// The stream broke; the next call opens it again, after a pause.
    Broken(String),
    /// The coordinator ended the stream: a snapshot is complete.
    End,
}

type OpenFuture<T> = Pin<Box<dyn Future<Output = Result<Streaming<T>, Status>> + Send>>;
type OpenFn<T> = Box<dyn FnMut(Option<i64>) -> OpenFuture<T> + Send>;

/// A stream being followed.
///
/// ```no_run
/// use sagad::client::{Client, follow::{Follow, FollowItem}};
/// use sagad::proto::{WatchStaleRequest, watch_stale_response::Item};
///
/// # async fn example(client: Client, kept: Option<i64>) -> Result<(), tonic::Status> {
/// // `kept` is the last revision of the run before; without one it begins with a snapshot.
/// let mut stale = Follow::stale(&client, WatchStaleRequest { after_revision: kept, ..Default::default() });
/// loop {
///     match stale.next().await? {
///         FollowItem::Item(item) => {
///             if let Some(Item::Stale(stale)) = item.item {
///                 println!("{} is stale under {}: decide", stale.task_id, stale.fencing_token);
///             }
///             // Keep `item.revision` now that the item is dealt with.
///         }
///         FollowItem::Broken(why) => eprintln!("{why}: it is opened again by the next call"),
///         FollowItem::End => return Ok(()),
///     }
/// }
/// # }
/// ```
pub struct Follow<T> {
    open: OpenFn<T>,
    /// Whether a stream that ends or breaks is opened again. A snapshot is not, since half of one can't be resumed.
    resume: bool,
    after: Option<i64>,
    silence_max: Option<Duration>,
    stream: Option<Streaming<T>>,
    connected_once: bool,
    pause: Option<Duration>,
    backoff: Backoff,
}

impl Follow<WatchStaleResponse> {
    /// `WatchStale`, from where the request says; with `snapshot_only` it ends after the snapshot.
    pub fn stale(client: &Client, request: WatchStaleRequest) -> Self {
        let (client, resume, after) = (client.clone(), !request.snapshot_only, request.after_revision);
        let open = move |after_revision| -> OpenFuture<WatchStaleResponse> {
            let request = WatchStaleRequest { after_revision, ..request.clone() };
            let mut sagas = client.sagas();
            Box::pin(async move { sagas.watch_stale(request).await.map(tonic::Response::into_inner) })
        };
        Self::new(Box::new(open), resume, after, Some(STALE_SILENCE_MAX))
    }
}

impl Follow<WatchEventsResponse> {
    /// `WatchEvents`, from where the request says.
    pub fn events(client: &Client, request: WatchEventsRequest) -> Self {
        let (client, after) = (client.clone(), request.after_revision);
        let open = move |after_revision| -> OpenFuture<WatchEventsResponse> {
            let request = WatchEventsRequest { after_revision, ..request.clone() };
            let mut sagas = client.sagas();
            Box::pin(async move { sagas.watch_events(request).await.map(tonic::Response::into_inner) })
        };
        Self::new(Box::new(open), true, after, None)
    }
}

impl<T: Revisioned> Follow<T> {
    fn new(open: OpenFn<T>, resume: bool, after: Option<i64>, silence_max: Option<Duration>) -> Self {
        Self {
            open,
            resume,
            after,
            silence_max,
            stream: None,
            connected_once: false,
            pause: None,
            backoff: Backoff::default(),
        }
    }

    /// The revision after which the stream would be opened again.
    pub fn after(&self) -> Option<i64> {
        self.after
    }

    /// The next item. Errors are the coordinator's refusals, and failing to reach it the first time. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Result<FollowItem<T>, Status> {
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause).await;
            self.pause = None;
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => match (self.open)(self.after).await {
                Ok(stream) => {
                    self.connected_once = true;
                    self.stream.insert(stream)
                }
                Err(status) => return self.broken(status),
            },
        };
        let message = match self.silence_max {
            Some(silence) => tokio::time::timeout(silence, stream.message())
                .await
                .unwrap_or_else(|_| Err(Status::unavailable("the stream fell silent"))),
            None => stream.message().await,
        };
        match message {
            Ok(Some(item)) => {
                self.backoff.reset();
                if item.revision() > 0 {
                    self.after = Some(item.revision());
                }
                Ok(FollowItem::Item(item))
            }
            Ok(None) if !self.resume => Ok(FollowItem::End),
            // A coordinator that shuts down may end its streams without an error.
            Ok(None) => self.broken(Status::unavailable("the coordinator ended the stream")),
            Err(status) => self.broken(status),
        }
    }

    fn broken(&mut self, status: Status) -> Result<FollowItem<T>, Status> {
        self.stream = None;
        let refusal = StatusDetails::from(&status);
        if refusal.happened == CallEffect::Refused || !self.resume || !self.connected_once {
            return Err(status);
        }
        self.pause = Some(self.backoff.delay().max(refusal.retry_after.unwrap_or_default()));
        Ok(FollowItem::Broken(refusal.message))
    }
}
