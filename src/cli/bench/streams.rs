//! The modes `keepalive` and `watch`: many heartbeats in flight on one stream, and clients that watch.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{load_client::LoadClient, record::Rpc};
use crate::{
    cli::errors::CliError,
    client::{LeaseKey, convert::to_proto},
    proto::{ClaimNextRequest, CreateSagaRequest, KeepAliveRequest, WatchEventsRequest, watch_events_response::Item},
};

/// Most sagas of one `ClaimNext`.
const CLAIMED_AT_ONCE: usize = 100;

/// Runs one stream with this many leases and one heartbeat of each in flight.
///
/// # Errors
/// The leases can't be taken, or the stream can't be opened or broke.
pub async fn keep_alive(load_client: LoadClient, in_flight: usize) -> Result<(), CliError> {
    let (shared, mut sagas) = (load_client.shared.clone(), load_client.client.sagas());
    let mut leases: Vec<LeaseKey> = Vec::with_capacity(in_flight);
    while leases.len() < in_flight {
        let request = ClaimNextRequest {
            queues: vec![shared.pool.queue()],
            owner_id: load_client.owner(),
            ttl: Some(to_proto(shared.plan.ttl())),
            max_sagas: i32::try_from((in_flight - leases.len()).min(CLAIMED_AT_ONCE)).unwrap_or(1),
            ..Default::default()
        };
        let claimed = sagas.claim_next(request).await?.into_inner().sagas;
        if claimed.is_empty() {
            return Err(CliError::Failed("there are fewer sagas than heartbeats in flight".to_owned()));
        }
        leases.extend(claimed.iter().filter_map(LeaseKey::of));
    }
    let (beats, requests) = mpsc::channel(in_flight);
    let mut answers = sagas.keep_alive(ReceiverStream::new(requests)).await?.into_inner();
    let window = &shared.window;
    window.ready();
    let places: HashMap<String, usize> = leases.iter().map(|lease| lease.task_id.clone()).zip(0..).collect();
    let mut sent = vec![0; in_flight];
    for (place, lease) in leases.iter().enumerate() {
        sent[place] = window.now();
        beats.send(heartbeat(lease)).await.map_err(|_| broken())?;
    }
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?.ok_or_else(broken)?,
            () = window.over.cancelled() => return Ok(()),
        };
        let now = window.now();
        let Some(place) = places.get(&answer.task_id).copied() else { continue };
        if answer.code != 0 {
            load_client.totals.lock().failure(|| format!("{}: {}", answer.reason, answer.message));
        } else if window.covers(sent[place], now) {
            load_client.totals.lock().record(Rpc::KeepAlive, now - sent[place]);
        }
        if window.is_over(now) {
            return Ok(());
        }
        sent[place] = now;
        beats.send(heartbeat(&leases[place])).await.map_err(|_| broken())?;
    }
}

fn heartbeat(lease: &LeaseKey) -> KeepAliveRequest {
    KeepAliveRequest {
        task_id: lease.task_id.clone(),
        owner_id: lease.owner_id.clone(),
        fencing_token: lease.fencing_token,
        ..Default::default()
    }
}

fn broken() -> CliError {
    CliError::Failed("a stream ended before it was told to".to_owned())
}

/// One client that watches what [`create`] makes, and takes the time from its sending to its event.
///
/// # Errors
/// The stream can't be had, or broke.
pub async fn watch(load_client: LoadClient) -> Result<(), CliError> {
    let shared = load_client.shared.clone();
    let window = &shared.window;
    let request = WatchEventsRequest { queues: vec![shared.pool.queue()], ..Default::default() };
    let mut events = load_client.client.sagas().watch_events(request).await?.into_inner();
    let mut begun = false;
    loop {
        let answer = tokio::select! {
            answer = events.message() => answer?.ok_or_else(broken)?,
            () = window.over.cancelled() => return Ok(()),
        };
        let now = window.now();
        match answer.item {
            Some(Item::Event(event)) => {
                let sent = event.task_id.split('-').nth(1).and_then(|sent| sent.parse().ok());
                if let Some(sent) = sent
                    && window.covers(sent, now)
                {
                    load_client.totals.lock().record(Rpc::WatchEvents, now.saturating_sub(sent));
                }
            }
            // The stream begins with a bookmark.
            Some(Item::Bookmark(_)) if !begun => {
                begun = true;
                window.ready();
            }
            Some(Item::Bookmark(_)) | None => {}
        }
        if window.is_over(now) {
            return Ok(());
        }
    }
}

/// Creates sagas for the watchers, one after the other, or as many a second as were asked for of all its like. An id tells
/// when it was sent.
pub async fn create(load_client: LoadClient) {
    let (shared, mut sagas) = (load_client.shared.clone(), load_client.client.sagas());
    let window = &shared.window;
    let interval = shared.plan.rate.map(|rate| 1e9 * f64::from(shared.plan.connections) / f64::from(rate));
    let mut pace = interval.map(|nanos| tokio::time::interval(std::time::Duration::from_nanos(nanos as u64).max(MIN)));
    while !window.is_over(window.now()) {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let task_id = format!("w{}-{}", load_client.number, window.now());
        let request = CreateSagaRequest { task_id, queue: shared.pool.queue(), ..Default::default() };
        if let Err(status) = sagas.create_saga(request).await {
            load_client.totals.lock().failed(&status);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A timer that never rests is none.
const MIN: std::time::Duration = std::time::Duration::from_micros(1);
