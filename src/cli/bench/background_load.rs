//! [`BackgroundLoad`]: further load during the measurement: clients that list, clients that follow events, leases that
//! expire, and clients that claim what is due at once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinSet};
use tonic::{Request, Status, client::Grpc};
use tonic_prost::ProstCodec;

use super::{
    args::Plan,
    claim_next::{CLAIMED_AT_ONCE, claim_next},
    due_at_once, load,
    load_client::RunState,
    totals::Times,
};
use crate::{
    cli::errors::CliError,
    client::{Client, convert::to_utc, time},
    domain::bounds::PAGE_MAX,
    proto::{GetServerInfoRequest, ListSagasRequest, WatchEventsRequest, WatchStaleRequest, watch_stale_response},
};

/// How often leases that are to expire are taken.
const TICK: Duration = Duration::from_millis(10);
/// How long they last.
const ENDING: Duration = Duration::from_secs(1);

/// What the background load saw, before and during the measurement.
#[derive(Default)]
pub struct BackgroundResults {
    /// Pages that were listed.
    pub pages: u64,
    /// Sagas on them.
    pub listed: u64,
    /// Events received by watchers.
    pub events: u64,
    /// Those received during the measurement.
    pub events_measured: u64,
    /// From the end of a lease to its arrival at the watcher, within the window.
    pub late: Times,
}

/// The queues of the background load.
#[derive(Clone, Debug, Default)]
pub struct BackgroundQueues {
    /// The queue of sagas whose leases are to expire.
    pub ending: String,
    /// Those that the claimers claim from.
    pub due: Vec<String>,
}

/// The running background load.
pub struct BackgroundLoad {
    ended: oneshot::Receiver<Result<BackgroundResults, CliError>>,
}

impl BackgroundLoad {
    /// Starts what the plan asks for.
    pub fn start(shared: &Arc<RunState>, queues: BackgroundQueues) -> Result<Self, CliError> {
        Ok(BackgroundLoad { ended: load::on_a_thread("bench-beside".to_owned(), all(shared.clone(), queues))? })
    }

    /// How many clients report that they are ready.
    pub fn parties(plan: &Plan) -> u32 {
        plan.args.readers + plan.args.watchers + plan.args.claimers + u32::from(plan.args.expiring > 0)
    }

    /// How many leases expire in a run.
    pub fn ending(plan: &Plan) -> u64 {
        // Three seconds more: from the start of the load to the end of its last call.
        u64::from(plan.args.expiring) * (plan.seconds() + 3)
    }

    /// The results, once it has ended.
    pub async fn end(self) -> Result<BackgroundResults, CliError> {
        load::ended(self.ended).await
    }
}

type SharedResults = Arc<Mutex<BackgroundResults>>;

async fn all(shared: Arc<RunState>, queues: BackgroundQueues) -> Result<BackgroundResults, CliError> {
    let seen = SharedResults::default();
    let client = || Client::connect(&shared.options).map_err(|error| CliError::Usage(error.to_string()));
    let mut tasks: JoinSet<Result<(), Status>> = JoinSet::new();
    for _ in 0..shared.plan.args.readers {
        tasks.spawn(list(client()?, shared.clone(), seen.clone()));
    }
    for _ in 0..shared.plan.args.watchers {
        tasks.spawn(follow(client()?, shared.clone(), seen.clone()));
    }
    if shared.plan.args.expiring > 0 {
        tasks.spawn(measure_expiry(client()?, shared.clone(), queues.ending.clone(), seen.clone()));
        tasks.spawn(take(client()?, shared.clone(), queues.ending));
    }
    for number in 0..shared.plan.args.claimers {
        let (client, shared, queues) = (client()?, shared.clone(), queues.due.clone());
        tasks.spawn(async move { due_at_once::claim_on(client, number, queues, &shared).await });
    }
    let first = tokio::select! {
        Some(first) = tasks.join_next() => Some(first),
        () = shared.window.over.cancelled() => None,
    };
    match first {
        None | Some(Ok(Ok(()))) => {}
        Some(Ok(Err(status))) => return Err(status.into()),
        Some(Err(error)) => return Err(CliError::Failed(format!("the background load ended early: {error}"))),
    }
    tasks.shutdown().await;
    let seen = std::mem::take(&mut *seen.lock());
    Ok(seen)
}

/// Lists all sagas, page by page, repeatedly.
async fn list(client: Client, shared: Arc<RunState>, seen: SharedResults) -> Result<(), Status> {
    shared.window.ready();
    let mut page_token = String::new();
    loop {
        let request = ListSagasRequest { page_size: PAGE_MAX as i32, page_token, ..Default::default() };
        let answer = client.sagas().list_sagas(client.unary(request)).await?.into_inner();
        let mut seen = seen.lock();
        seen.pages += 1;
        seen.listed += answer.sagas.len() as u64;
        page_token = answer.next_page_token;
    }
}

/// An item of `WatchEvents`, decoded just far enough to tell events from bookmarks. Decoding all that a hundred
/// watchers receive would cost more than sending it, and it is the daemon that is measured.
#[derive(Clone, PartialEq, prost::Message)]
struct EventOrBookmark {
    #[prost(bytes = "bytes", optional, tag = "2")]
    event: Option<Bytes>,
}

/// Follows all events, and counts them.
async fn follow(client: Client, shared: Arc<RunState>, seen: SharedResults) -> Result<(), Status> {
    let mut sagas = Grpc::new(client.channel());
    sagas.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::from_static("/sagad.v1.SagaService/WatchEvents");
    let request = Request::new(WatchEventsRequest::default());
    let mut events =
        sagas.server_streaming(request, path, ProstCodec::<_, EventOrBookmark>::default()).await?.into_inner();
    shared.window.ready();
    while let Some(answer) = events.message().await? {
        if answer.event.is_some() {
            let mut seen = seen.lock();
            seen.events += 1;
            seen.events_measured += u64::from(shared.window.has_begun());
        }
    }
    Ok(())
}

/// Takes leases and lets them expire.
async fn take(client: Client, shared: Arc<RunState>, queue: String) -> Result<(), Status> {
    let (window, a_second) = (&shared.window, u128::from(shared.plan.args.expiring));
    let begun = window.now();
    let mut taken = 0;
    let mut calls: JoinSet<Result<(), Status>> = JoinSet::new();
    let mut timer = tokio::time::interval(TICK);
    loop {
        timer.tick().await;
        let due = u64::try_from(u128::from(window.now() - begun) * a_second / 1_000_000_000).unwrap_or(0);
        while taken < due {
            let count = (due - taken).min(CLAIMED_AT_ONCE);
            taken += count;
            let (mut sagas, request) = (client.sagas(), claim_next(&queue, "bench-gone", ENDING, count));
            calls.spawn(async move { sagas.claim_next(request).await.map(drop) });
        }
        while let Some(ended) = calls.try_join_next() {
            ended.map_err(|error| Status::internal(error.to_string()))??;
        }
    }
}

/// Measures how late a watcher learns of expired leases. Only meaningful if both clocks are those of this machine.
async fn measure_expiry(
    client: Client,
    shared: Arc<RunState>,
    queue: String,
    seen: SharedResults,
) -> Result<(), Status> {
    let info = client.admin().get_server_info(client.unary(GetServerInfoRequest {})).await?.into_inner();
    let ahead = info.clock_offset.map_or(0, |offset| offset.seconds * 1_000_000_000 + i64::from(offset.nanos));
    let ahead = chrono::TimeDelta::nanoseconds(ahead);
    let request = WatchStaleRequest { queues: vec![queue], ..Default::default() };
    let mut stale = client.sagas().watch_stale(request).await?.into_inner();
    shared.window.ready();
    while let Some(answer) = stale.message().await? {
        let (now, at) = (shared.window.now(), time::utc_now());
        let Some(watch_stale_response::Item::Stale(told)) = answer.item else { continue };
        let Some(end) = told.expire_time.as_ref().and_then(to_utc) else { continue };
        let late = (at + ahead - end).to_std().unwrap_or_default();
        if shared.window.covers(now, now) {
            seen.lock().late.record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}
