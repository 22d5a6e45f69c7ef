//! The mode `watch`: clients that follow the creation of sagas.

use std::time::Duration;

use super::{load_client::LoadClient, totals::Rpc, unary_client::AFTER_AN_ERROR};
use crate::{
    cli::errors::CliError,
    proto::{CreateSagaRequest, WatchEventsRequest, watch_events_response::Item},
};

/// The shortest interval that a timer takes.
const SHORTEST_INTERVAL: Duration = Duration::from_micros(1);

/// Runs one client that watches what [`create`] makes, and records the time from its sending to its event.
///
/// # Errors
/// The stream can't be opened, or broke.
pub async fn watch(load_client: LoadClient) -> Result<(), CliError> {
    let shared = load_client.shared.clone();
    let window = &shared.window;
    let request = WatchEventsRequest { queues: vec![shared.pool.queue()], ..Default::default() };
    let mut events = load_client.client.sagas().watch_events(request).await?.into_inner();
    let mut begun = false;
    loop {
        let answer = tokio::select! {
            answer = events.message() => answer?.ok_or_else(ended)?,
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

/// Creates sagas for the watchers: one after the other, or at the connection's share of the rate. An id contains the time at
/// which it was sent.
pub async fn create(load_client: LoadClient) {
    let (shared, mut sagas) = (load_client.shared.clone(), load_client.client.sagas());
    let window = &shared.window;
    let interval = shared.plan.args.rate.map(|rate| 1e9 * f64::from(shared.plan.connections) / f64::from(rate));
    let mut pace =
        interval.map(|nanos| tokio::time::interval(Duration::from_nanos(nanos as u64).max(SHORTEST_INTERVAL)));
    while !window.is_over(window.now()) {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let task_id = format!("w{}-{}", load_client.number, window.now());
        let request = CreateSagaRequest { task_id, queue: shared.pool.queue(), ..Default::default() };
        if let Err(status) = sagas.create_saga(request).await {
            load_client.totals.lock().failed(&status);
            tokio::time::sleep(AFTER_AN_ERROR).await;
        }
    }
}

fn ended() -> CliError {
    CliError::Failed("a stream ended early".to_owned())
}
