//! The mode `keepalive`: many heartbeats in flight on one stream.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    claim_next::{CLAIMED_AT_ONCE, claim_next},
    load_client::LoadClient,
    totals::Rpc,
};
use crate::{cli::errors::CliError, client::LeaseKey, proto::KeepAliveRequest};

/// Runs one stream with this many leases and one heartbeat of each in flight.
///
/// # Errors
/// The leases can't be taken, or the stream can't be opened or broke.
pub async fn heartbeats(load_client: LoadClient, in_flight: usize) -> Result<(), CliError> {
    let (shared, mut sagas) = (load_client.shared.clone(), load_client.client.sagas());
    let mut leases: Vec<LeaseKey> = Vec::with_capacity(in_flight);
    while leases.len() < in_flight {
        let missing = (in_flight - leases.len()) as u64;
        let (queue, owner, ttl) = (shared.pool.queue(), load_client.owner(), shared.plan.ttl());
        let request = claim_next(&queue, &owner, ttl, missing.min(CLAIMED_AT_ONCE));
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
    CliError::Failed("a stream ended early".to_owned())
}
