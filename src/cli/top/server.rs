//! The calls of `sagad top` to the coordinator: fetches snapshots, counts events, and sends confirmed actions.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::{mpsc, watch};
use tonic::{Code, Status, Streaming};

use super::{
    action_dialog::ActionResult,
    model::Message,
    operator_action::ActionRequest,
    query::{PAGE_SIZE, Query, SEARCH_ANSWERS},
    rates::{self, CountsInterval, EventCounts},
    snapshot::{Detail, ServerClock, Snapshot},
};
use crate::{
    cli::{errors::CliError, paused::who_paused, tables, text::printable},
    client::{CallEffect, Client, StatusDetails, retry::Backoff, time},
    proto::{
        GetSagaRequest, GetServerInfoRequest, GetServerInfoResponse, GetStatsRequest, GetStatsResponse,
        GetVitalsRequest, GetVitalsResponse, ListEventsRequest, ListSagasResponse, Queue, Saga, WatchEventsRequest,
        WatchEventsResponse, watch_events_response::Item,
    },
};

/// Events kept of a history, and how many pages are read to reach its end.
const EVENTS_KEPT: usize = 500;
const EVENT_ANSWERS: usize = 5;
/// Pages of queues that are read for each snapshot to find who paused them.
const QUEUE_ANSWERS: usize = 4;
/// The length of an interval of counts.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Most queues with rates, in case a coordinator has ever new ones.
const QUEUES_MAX: usize = 1_000;

/// Fetches one snapshot.
pub async fn fetch_snapshot(client: &Client, query: &Query) -> Result<Snapshot, Status> {
    let ((info, clock), (stats, queues), vitals, page, detail) = tokio::try_join!(
        server(client),
        counts(client),
        vitals(client),
        page(client, query),
        detail(client, query.detail.as_deref()),
    )?;
    Ok(Snapshot { number: query.number, info, stats, queues, vitals, page, detail, clock, seen: time::now() })
}

/// The counts, and who paused the paused queues.
async fn counts(client: &Client) -> Result<(GetStatsResponse, Vec<Queue>), Status> {
    let stats = client.sagas().get_stats(client.unary(GetStatsRequest {})).await?.into_inner();
    let paused = stats.queues.iter().filter(|queue| queue.paused).map(|queue| queue.queue.clone()).collect();
    let queues = who_paused(client, paused, QUEUE_ANSWERS).await?;
    Ok((stats, queues))
}

async fn server(client: &Client) -> Result<(GetServerInfoResponse, ServerClock), Status> {
    let asked = time::now();
    let info = client.admin().get_server_info(client.unary(GetServerInfoRequest {})).await?.into_inner();
    let told = info.current_time.unwrap_or_default();
    Ok((info, ServerClock::from_answer(&told, asked, time::now())))
}

/// None if the daemon doesn't know the rpc, or doesn't permit it to this caller.
async fn vitals(client: &Client) -> Result<Option<GetVitalsResponse>, Status> {
    match client.admin().get_vitals(client.unary(GetVitalsRequest::default())).await {
        Ok(vitals) => Ok(Some(vitals.into_inner())),
        Err(status) if matches!(status.code(), Code::Unimplemented | Code::PermissionDenied) => Ok(None),
        Err(status) => Err(status),
    }
}

/// A page of sagas. With a search text, sagas that don't contain it are skipped, within a bound; then the page ends
/// early and the next one continues.
async fn page(client: &Client, query: &Query) -> Result<ListSagasResponse, Status> {
    let mut page = ListSagasResponse { sagas: Vec::new(), next_page_token: query.page_token.clone() };
    for _ in 0..SEARCH_ANSWERS {
        let request = client.unary(query.request(page.next_page_token));
        let answer = client.sagas().list_sagas(request).await?.into_inner();
        page.sagas.extend(answer.sagas.into_iter().filter(|saga| query.matches(saga)));
        page.next_page_token = answer.next_page_token;
        if page.sagas.len() >= PAGE_SIZE || page.next_page_token.is_empty() {
            break;
        }
    }
    Ok(page)
}

async fn detail(client: &Client, task_id: Option<&str>) -> Result<Option<Detail>, Status> {
    let Some(task_id) = task_id else { return Ok(None) };
    let request = GetSagaRequest { task_id: task_id.to_owned(), ..GetSagaRequest::default() };
    let saga: Saga = match client.sagas().get_saga(client.unary(request)).await {
        Ok(answer) => answer.into_inner().saga.unwrap_or_default(),
        Err(status) if StatusDetails::from(&status).is("SAGA_NOT_FOUND") => {
            return Ok(Some(Detail { saga: None, events: Vec::new(), cut: false }));
        }
        Err(status) => return Err(status),
    };
    let mut request = ListEventsRequest { task_id: task_id.to_owned(), page_size: 1000, page_token: String::new() };
    let mut events = Vec::new();
    for _ in 0..EVENT_ANSWERS {
        let answer = client.sagas().list_events(client.unary(request.clone())).await?.into_inner();
        events.extend(answer.events);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    // A longer history is shown from its start: its end can't be reached in bounded time.
    let cut = !request.page_token.is_empty() || events.len() > EVENTS_KEPT;
    let begin = events.len().saturating_sub(EVENTS_KEPT);
    Ok(Some(Detail { saga: Some(saga), events: events.split_off(begin), cut }))
}

/// Fetches snapshots repeatedly: after `interval`, or at once when the query changes. Ends when the receiver is
/// dropped.
pub async fn poll_snapshots(
    client: Client,
    mut queries: watch::Receiver<Query>,
    interval: Duration,
    messages: mpsc::Sender<Message>,
) {
    loop {
        let query = queries.borrow_and_update().clone();
        let looked = tokio::select! {
            looked = fetch_snapshot(&client, &query) => looked,
            // A snapshot for an old query is not waited for.
            changed = queries.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let message = match looked {
            Ok(snapshot) => Message::Fetched(Box::new(snapshot)),
            Err(status) => Message::FetchFailed(why(&StatusDetails::from(&status))),
        };
        if messages.send(message).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            changed = queries.changed() => if changed.is_err() { return },
        }
    }
}

/// The error in one line.
fn why(refusal: &StatusDetails) -> String {
    if refusal.message.is_empty() { refusal.reason.clone() } else { printable(&refusal.message) }
}

/// Counts events from now on, and again from then on when the stream ends: a rate is about the present. Ends when the
/// receiver is dropped.
pub async fn count_events(client: Client, queues: Vec<String>, messages: mpsc::Sender<Message>) {
    let mut backoff = Backoff::default();
    while !messages.is_closed() {
        let request = WatchEventsRequest { queues: queues.clone(), ..WatchEventsRequest::default() };
        if let Ok(events) = client.sagas().watch_events(request).await {
            backoff.reset();
            // However the stream ends, it is opened again.
            count_stream(events.into_inner(), &messages).await;
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

async fn count_stream(mut events: Streaming<WatchEventsResponse>, messages: &mpsc::Sender<Message>) -> Option<()> {
    let mut ticks = tokio::time::interval(COUNT_INTERVAL);
    let mut begun = time::now();
    let mut counts: BTreeMap<String, EventCounts> = BTreeMap::new();
    loop {
        tokio::select! {
            event = events.message() => {
                let Some(Item::Event(event)) = event.ok()??.item else { continue };
                let Some(place) = rates::place(event.r#type()) else { continue };
                if counts.len() < QUEUES_MAX || counts.contains_key(&event.queue) {
                    counts.entry(event.queue).or_default()[place] += 1;
                }
            }
            _ = ticks.tick() => {
                let end = time::now();
                let length = end.since(begun);
                begun = end;
                let counts = std::mem::take(&mut counts);
                messages.send(Message::Counted(CountsInterval { end, length, counts })).await.ok()?;
            }
        }
    }
}

/// Sends an action once; it is never repeated without being asked.
pub async fn send_action(client: &Client, action: ActionRequest) -> ActionResult {
    let (mut sagas, mut admin) = (client.sagas(), client.admin());
    let saga = |saga: Option<Saga>| {
        let saga = saga.unwrap_or_default();
        format!("done: {} is {}", printable(&saga.task_id), tables::state_text(&saga))
    };
    let queue = |queue: Option<Queue>| {
        let queue = queue.unwrap_or_default();
        format!("done: {} is {}", printable(&queue.queue), if queue.paused { "paused" } else { "open" })
    };
    let answer = match action {
        ActionRequest::Recover(r) => sagas.recover(client.unary(r)).await.map(|a| saga(a.into_inner().saga)),
        ActionRequest::Cancel(r) => sagas.request_cancel(client.unary(r)).await.map(|a| saga(a.into_inner().saga)),
        ActionRequest::Quarantine(r) => sagas.quarantine(client.unary(r)).await.map(|a| saga(a.into_inner().saga)),
        ActionRequest::Waive(r) => sagas.waive_compensation(client.unary(r)).await.map(|a| saga(a.into_inner().saga)),
        ActionRequest::Annotate(r) => sagas.annotate(client.unary(r)).await.map(|a| saga(a.into_inner().saga)),
        ActionRequest::Pause(r) => admin.pause_queue(client.unary(r)).await.map(|a| queue(a.into_inner().queue)),
        ActionRequest::Resume(r) => admin.resume_queue(client.unary(r)).await.map(|a| queue(a.into_inner().queue)),
    };
    match answer {
        Ok(done) => ActionResult::Done(done),
        Err(status) => {
            let StatusDetails { happened, unsent, .. } = StatusDetails::from(&status);
            let told = CliError::from(status).text(client.server()).unwrap_or_default();
            let told = told.strip_prefix("sagad: ").unwrap_or(&told).to_owned();
            match happened {
                CallEffect::Refused | CallEffect::NotNow => ActionResult::Refused(told),
                CallEffect::Unknown if unsent => ActionResult::Refused(told),
                CallEffect::Unknown => ActionResult::Unknown(told),
            }
        }
    }
}
