//! [`LeaseKeeper`]: sends heartbeats from its own task, and knows the moment from which the work must stop.
//!
//! The deadline is on this machine's clock: a lease lasts from the moment the last *accepted* heartbeat was *sent*,
//! for the length that the coordinator granted. The coordinator counts from when it received the heartbeat, so our end
//! is never later than its end, whatever the two clocks show and however long the answer took.
//!
//! | answer to a heartbeat | meaning |
//! |---|---|
//! | accepted | the deadline moves on; a `CANCEL` directive is passed on |
//! | none, `UNAVAILABLE`, … | unknown: work on until the deadline, try again soon |
//! | `LEASE_NOT_EXTENDED`, `EXECUTION_TIMEOUT`, `PROGRESS_TIMEOUT` | the lease stands until the expiry it has |
//! | `ABORTED`, `SAGA_TERMINAL`, not found, by the coordinator's own word | the lease is lost: stop at once |

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use super::heartbeat::{DEADLINE, LeaseLost};
use super::{
    Client, LeaseKey,
    heartbeat::{HeartbeatAnswer, INTERVAL_MIN, LeaseGrant, RETRY_MAX, heartbeat_timeout, send_heartbeat},
    retry::Backoff,
    time::{self, Moment},
};
use crate::proto::Saga;

/// What the holder of a lease may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStatus {
    /// Continue working.
    Held,
    /// Somebody requested the saga's cancellation: stop and report a failure. The lease is still held and kept.
    Cancelled(String),
    /// Somebody else has the lease, or may have it from now on: stop at once, report nothing.
    Lost(LeaseLost),
}

/// The outcome of one heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatOutcome {
    /// It was accepted; the lease lasts until this moment.
    Accepted(Moment),
    /// It had no clear answer; holds the name of a gRPC code. The work continues.
    Unknown(&'static str),
}

/// Keeps one lease by heartbeats until it is dropped, which neither releases nor ends the lease.
///
/// ```no_run
/// # use sagad::client::{Client, LeaseKeeper, LeaseStatus, time};
/// # use sagad::proto::{ClaimRequest, Saga};
/// # async fn example(client: Client, request: ClaimRequest) -> Result<(), Box<dyn std::error::Error>> {
/// let asked = time::now();
/// let saga = client.sagas().claim(client.unary(request)).await?.into_inner().saga.ok_or("no saga")?;
/// let keeper = LeaseKeeper::start(&client, &saga, asked).await?;
/// let mut status = keeper.status();
/// tokio::select! {
///     () = async { /* the work */ } => {}
///     Ok(lost) = status.wait_for(|status| matches!(status, LeaseStatus::Lost(_))) => println!("stop: {:?}", *lost),
/// }
/// // Before each effect: the clock itself is asked, should this process have been suspended.
/// if keeper.check() == LeaseStatus::Held {
///     // the effect
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LeaseKeeper {
    key: LeaseKey,
    shared: Arc<Shared>,
    status: watch::Receiver<LeaseStatus>,
    heartbeats: watch::Receiver<Option<HeartbeatOutcome>>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    deadline: watch::Sender<Moment>,
    progress: Mutex<Option<Bytes>>,
}

impl LeaseKeeper {
    /// Starts to keep the lease of a saga that was just claimed. `asked` is the moment the claim was first sent, for
    /// `ClaimNext` plus the time that the answer says it waited: the lease did not begin before that.
    ///
    /// If the claim was repeated, it may have been sent long before the answer. Then one heartbeat is sent first to
    /// learn when the lease ends; this takes a round trip, or fails with the lease lost.
    pub async fn start(client: &Client, saga: &Saga, asked: Moment) -> Result<Self, LeaseLost> {
        let lost = || LeaseLost::deadline(format!("{} has no lease", saga.task_id));
        let key = LeaseKey::of(saga).ok_or_else(lost)?;
        let lease = saga.lease.clone().ok_or_else(lost)?;
        let mut grant = LeaseGrant::new(&lease, asked);
        let received = time::now();
        if grant.deadline.since(received) < grant.length / 2 {
            confirm(client, &key, &mut grant, received).await?;
        }
        let shared = Arc::new(Shared { deadline: watch::Sender::new(grant.deadline), progress: Mutex::new(None) });
        let (sender, status) = watch::channel(LeaseStatus::Held);
        let (beating, heartbeats) = watch::channel(None);
        let stop = CancellationToken::new();
        let task = HeartbeatTask {
            client: client.clone(),
            key: key.clone(),
            shared: Arc::clone(&shared),
            status: sender,
            heartbeats: beating,
            grant,
            backoff: Backoff::new(INTERVAL_MIN, RETRY_MAX),
        };
        tokio::spawn(task.run(stop.clone()));
        Ok(Self { key, shared, status, heartbeats, _stop: stop.drop_guard() })
    }

    /// The lease being kept.
    pub fn key(&self) -> &LeaseKey {
        &self.key
    }

    /// The status, to read or to wait for.
    pub fn status(&self) -> watch::Receiver<LeaseStatus> {
        self.status.clone()
    }

    /// The status right now, judged by the clock: a process that was suspended learns here that its deadline has
    /// passed before its heartbeat task notices. Call it before each effect.
    pub fn check(&self) -> LeaseStatus {
        let status = self.status.borrow().clone();
        match status {
            LeaseStatus::Held | LeaseStatus::Cancelled(_) if time::now() >= self.deadline() => {
                LeaseStatus::Lost(LeaseLost::deadline("the lease ran out"))
            }
            status => status,
        }
    }

    /// The outcome of the last heartbeat; `None` before the first. For showing to people, not for decisions.
    pub fn heartbeats(&self) -> watch::Receiver<Option<HeartbeatOutcome>> {
        self.heartbeats.clone()
    }

    /// When the lease ends unless another heartbeat is accepted before.
    pub fn deadline(&self) -> Moment {
        *self.shared.deadline.borrow()
    }

    /// The deadline, to wait for changes: it moves with each accepted heartbeat.
    pub fn deadlines(&self) -> watch::Receiver<Moment> {
        self.shared.deadline.subscribe()
    }

    /// Sends `progress` (at most 64 KiB) with the next heartbeat, or with the report if that comes first; under a
    /// `progress_timeout` only a change counts.
    pub fn set_progress(&self, progress: Bytes) {
        *self.shared.progress.lock() = Some(progress);
    }

    /// Progress from [`LeaseKeeper::set_progress`] that no heartbeat has delivered yet. It belongs into the report.
    pub fn unsent_progress(&self) -> Option<Bytes> {
        self.shared.progress.lock().clone()
    }
}

/// Sends heartbeats until the end of a lease, whose start is not known on our clock, is known.
async fn confirm(client: &Client, key: &LeaseKey, grant: &mut LeaseGrant, received: Moment) -> Result<(), LeaseLost> {
    let mut backoff = Backoff::new(INTERVAL_MIN, RETRY_MAX);
    let latest = received + grant.length;
    loop {
        match send_heartbeat(client, key, None, heartbeat_timeout(client, grant)).await {
            HeartbeatAnswer::Extended(extended, _) => {
                *grant = extended;
                return Ok(());
            }
            HeartbeatAnswer::Stands(expire_time, _) => {
                // The lease is held, but we have no time of ours for it. The wall clocks are the best estimate; the
                // next heartbeat, a third of the lease away, corrects it.
                let left = expire_time.or(grant.expire_time).map(|end| end - time::utc_now());
                let left = left.and_then(|left| left.to_std().ok()).unwrap_or_default();
                grant.deadline = time::now() + left.min(grant.length);
                return Ok(());
            }
            HeartbeatAnswer::Lost(lost) => return Err(lost),
            HeartbeatAnswer::Unknown(unknown) => {
                let delay = backoff.delay();
                if time::now() + delay >= latest {
                    let why = unknown.why;
                    return Err(LeaseLost::deadline(format!("no heartbeat was accepted in time: {why}")));
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
}

struct HeartbeatTask {
    client: Client,
    key: LeaseKey,
    shared: Arc<Shared>,
    status: watch::Sender<LeaseStatus>,
    heartbeats: watch::Sender<Option<HeartbeatOutcome>>,
    grant: LeaseGrant,
    backoff: Backoff,
}

impl HeartbeatTask {
    async fn run(mut self, stop: CancellationToken) {
        let mut next = time::now() + self.grant.interval;
        let mut trouble = None;
        loop {
            let timeout = heartbeat_timeout(&self.client, &self.grant);
            let (verdict, progress) = tokio::select! {
                // The deadline comes first: after it, even an answer that has already arrived must not prolong the
                // work.
                biased;
                () = stop.cancelled() => return,
                () = time::sleep_until(self.grant.deadline) => {
                    let reason = trouble.unwrap_or_else(|| "not extended".to_owned());
                    return self.lose(LeaseLost::deadline(format!("the lease ran out ({reason})")));
                }
                verdict = async {
                    time::sleep_until(next).await;
                    // The progress of now, not of when the last heartbeat was answered.
                    let progress = self.shared.progress.lock().clone();
                    (send_heartbeat(&self.client, &self.key, progress.clone(), timeout).await, progress)
                } => verdict,
            };
            match self.apply(verdict, progress, &mut trouble) {
                Some(pause) => next = time::now() + pause,
                None => return,
            }
        }
    }

    /// Applies an answer; returns the pause before the next heartbeat, or `None` if the lease is lost.
    fn apply(
        &mut self,
        verdict: HeartbeatAnswer,
        sent: Option<Bytes>,
        trouble: &mut Option<String>,
    ) -> Option<Duration> {
        let cancel = match verdict {
            HeartbeatAnswer::Extended(grant, cancel) => {
                self.heartbeats.send_replace(Some(HeartbeatOutcome::Accepted(grant.deadline)));
                self.grant = grant;
                *trouble = None;
                let mut progress = self.shared.progress.lock();
                if *progress == sent {
                    *progress = None;
                }
                cancel
            }
            HeartbeatAnswer::Stands(expire_time, cancel) => {
                if let Some(expire_time) = expire_time {
                    self.grant.extend_to(expire_time);
                }
                *trouble = Some("the coordinator extends it no further".to_owned());
                cancel
            }
            HeartbeatAnswer::Unknown(unknown) => {
                self.heartbeats.send_replace(Some(HeartbeatOutcome::Unknown(unknown.code)));
                *trouble = Some(unknown.why);
                return Some(self.backoff.delay().min(self.grant.interval));
            }
            HeartbeatAnswer::Lost(lost) => {
                self.lose(lost);
                return None;
            }
        };
        self.backoff.reset();
        self.shared.deadline.send_replace(self.grant.deadline);
        if let Some(reason) = cancel {
            self.status.send_if_modified(|status| {
                let first = *status == LeaseStatus::Held;
                if first {
                    *status = LeaseStatus::Cancelled(reason);
                }
                first
            });
        }
        Some(self.grant.interval)
    }

    fn lose(&self, lost: LeaseLost) {
        self.status.send_replace(LeaseStatus::Lost(lost));
    }
}
