//! A watcher: follows the stale sagas of its queues, and decides what becomes of each.

use std::{fs, io, path::PathBuf, process::ExitCode, time::Duration};

use sagad::client::{
    CallEffect, Client, StatusDetails,
    follow::{Follow, FollowItem},
    retry::{Backoff, RetryOn},
    time,
};
use sagad::proto::{
    RecoverRequest, RecoveryDecision, Resolution, SagaState, StaleCause, StaleSaga, WatchStaleRequest,
    watch_stale_response::Item,
};
use sagad_example::{Settings, emit, emit_of, shutdown};
use serde_json::json;
use tonic::Status;
use uuid::Uuid;

/// What is not decided within this time, the coordinator being away, is left to the next start.
const DECISION_PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::read();
    let place = match Place::read(settings.revision_file.as_deref()) {
        Ok(place) => place,
        Err(error) => {
            eprintln!("SAGAD_REVISION_FILE: {error}");
            return ExitCode::from(2);
        }
    };
    let stop = shutdown().drain;
    let watched = tokio::select! {
        watched = watch(&settings, place) => watched,
        () = stop.cancelled() => Ok(()),
    };
    match watched {
        Ok(()) => {
            emit("drained", json!({}));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("it ends: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Follows and decides, for ever. Dropped in the middle it loses nothing: what was not finished comes again.
async fn watch(settings: &Settings, mut place: Place) -> Result<(), Box<dyn std::error::Error>> {
    let request = |after_revision| WatchStaleRequest {
        queues: settings.queues.clone(),
        after_revision,
        ..WatchStaleRequest::default()
    };
    let mut ready = false;
    let mut resumed = place.revision.is_some();
    let mut stream = Follow::stale(&settings.client, request(place.revision));
    let mut backoff = Backoff::default();
    loop {
        let item = match stream.next().await {
            Ok(FollowItem::Item(item)) => {
                settings.outage.over();
                item
            }
            Ok(FollowItem::Broken(why)) => {
                settings.outage.waiting(&why);
                emit("reconnecting", json!({"revision": place.revision}));
                continue;
            }
            Ok(FollowItem::End) => return Ok(()),
            Err(status) => match StatusDetails::from(&status) {
                // The place is gone: a snapshot tells all that is stale now.
                refusal if refusal.is("REVISION_COMPACTED") || refusal.is("REVISION_UNKNOWN") => {
                    (place.revision, resumed) = (None, false);
                    stream = Follow::stale(&settings.client, request(None));
                    continue;
                }
                refusal if refusal.happened == CallEffect::Refused => return Err(status.into()),
                refusal => {
                    settings.outage.waiting(&refusal.message);
                    tokio::time::sleep(backoff.delay().max(refusal.retry_after.unwrap_or_default())).await;
                    continue;
                }
            },
        };
        let revision = item.revision;
        let ends_snapshot = matches!(&item.item, Some(Item::Bookmark(bookmark)) if bookmark.snapshot_end);
        if !ready && (resumed || ends_snapshot) {
            ready = true;
            emit("ready", json!({"revision": revision}));
        }
        match item.item {
            Some(Item::Stale(stale)) => {
                let cause = StaleCause::try_from(stale.cause).unwrap_or_default().as_str_name();
                let token = stale.fencing_token;
                let fields = json!({"revision": revision, "fencing_token": token, "cause": cause});
                emit_of("stale", &stale.task_id, fields);
                decide(&settings.client, &settings.owner_id, stale).await?;
            }
            Some(Item::Resolved(resolved)) => {
                let resolution = Resolution::try_from(resolved.resolution).unwrap_or_default().as_str_name();
                emit_of("resolved", &resolved.task_id, json!({"revision": revision, "resolution": resolution}));
            }
            Some(Item::Bookmark(_)) | None => {}
        }
        // Only now: a crash before it brings the item again.
        place.keep(revision)?;
    }
}

/// Decides about one stale saga, unless it has moved on.
async fn decide(client: &Client, actor: &str, stale: StaleSaga) -> Result<(), Status> {
    let Some(saga) = stale.saga else { return Ok(()) };
    let still = saga.stale && saga.lease.as_ref().is_some_and(|lease| lease.fencing_token == stale.fencing_token);
    // A compensating one is claimed by the compensators themselves.
    if !still || saga.state() != SagaState::Running {
        return Ok(());
    }
    let (decision, word) = if saga.compensations.is_empty() {
        (RecoveryDecision::Requeue, "REQUEUE")
    } else {
        (RecoveryDecision::Compensate, "COMPENSATE")
    };
    let request = RecoverRequest {
        task_id: stale.task_id.clone(),
        decision: decision.into(),
        actor: actor.to_owned(),
        reason: "the worker's lease ran out".to_owned(),
        fencing_token: stale.fencing_token,
        request_id: Uuid::new_v4().to_string(),
        ..RecoverRequest::default()
    };
    let give_up = time::now() + DECISION_PATIENCE;
    let send = |mut sagas: sagad::proto::saga_service_client::SagaServiceClient<_>, request| async move {
        sagas.recover(request).await
    };
    match client.call(request, RetryOn::Unknown, || give_up, send).await {
        Ok(_) => emit_of("decided", &stale.task_id, json!({"decision": word})),
        Err(status) => match StatusDetails::from(&status).reason.as_str() {
            // Somebody was first, or the worker came back.
            "NOT_STALE" | "SAGA_TERMINAL" | "SAGA_NOT_FOUND" | "WRONG_STATE" => {
                emit_of("not_stale", &stale.task_id, json!({}));
            }
            _ => return Err(status),
        },
    }
    Ok(())
}

/// The place in the stream, kept over restarts when there is a file for it.
struct Place {
    file: Option<PathBuf>,
    revision: Option<i64>,
}

impl Place {
    fn read(file: Option<&str>) -> Result<Self, Box<dyn std::error::Error>> {
        let file = file.map(PathBuf::from);
        let revision = match file.as_ref().map(fs::read_to_string) {
            Some(Ok(text)) => Some(text.trim().parse()?),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Some(Err(_)) | None => None,
        };
        Ok(Place { file, revision })
    }

    /// Replaces it atomically: a crash leaves the old place or the new one.
    fn keep(&mut self, revision: i64) -> io::Result<()> {
        if revision == 0 {
            return Ok(());
        }
        self.revision = Some(revision);
        let Some(file) = &self.file else { return Ok(()) };
        let draft = file.with_extension("new");
        fs::write(&draft, format!("{revision}\n"))?;
        fs::rename(draft, file)
    }
}
