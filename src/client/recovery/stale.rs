//! The second source: running sagas whose lease expired, claimed by id. Also implements `--drain`, since only a claim
//! by id tells that a saga must settle first.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use tonic::Status;
use uuid::Uuid;

use super::{
    options::{CompensationHandler, Recovery},
    pool::{Pool, claim_next},
};
use crate::{
    client::{
        CallEffect, Note, StatusDetails, convert,
        follow::{Follow, FollowItem},
        retry::{Backoff, RetryOn, retry},
        time::{self, Moment},
        worker::DRAIN_PATIENCE,
    },
    proto::{
        ClaimRequest, LeasePurpose, ListSagasRequest, Saga, SagaState, WatchStaleRequest, WatchStaleResponse,
        watch_stale_response::Item,
    },
};

/// How often a settling saga is claimed again if the coordinator doesn't say when.
const SETTLING_MAX: Duration = Duration::from_secs(5);

/// The result of a claim by id.
enum ClaimByIdResult {
    Ours(Box<Saga>, Moment),
    /// It must settle: try again after this.
    Later(Duration),
    /// Somebody else has it, or it needs no recovery any more.
    Gone(String),
}

/// Follows the stale sagas of our queues until told to stop.
pub(super) async fn follow<H: CompensationHandler>(recovery: &Arc<Recovery<H>>) -> Result<(), Status> {
    if !recovery.options.stale {
        return Ok(());
    }
    let request = || WatchStaleRequest { queues: recovery.options.queues.clone(), ..WatchStaleRequest::default() };
    let mut watch = Follow::stale(&recovery.client, request());
    let mut pool = Pool::new(recovery);
    // Stale sagas, and from when on to claim them.
    let mut waiting: BTreeMap<String, Moment> = BTreeMap::new();
    let mut first_tries = Backoff::default();
    let stop = recovery.shutdown.drain.clone();
    let result = loop {
        let due = waiting.values().min().copied();
        tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(()),
            followed = watch.next() => match followed {
                Ok(FollowItem::Item(item)) => { take_in(item, &mut waiting); first_tries.reset(); }
                Ok(FollowItem::Broken(_) | FollowItem::End) => {}
                Err(status) => match StatusDetails::from(&status) {
                    // The revision to resume from is gone: a new snapshot shows all that is stale now.
                    refusal if refusal.is("REVISION_COMPACTED") || refusal.is("REVISION_UNKNOWN") => {
                        watch = Follow::stale(&recovery.client, request());
                    }
                    refusal if refusal.happened == CallEffect::Refused => break Err(status),
                    refusal => wait_or_stop(first_tries.delay().max(refusal.retry_after.unwrap_or_default()), &stop).await,
                },
            },
            () = at(due) => {
                let Some(task_id) = next_due(&waiting) else { continue };
                let Some(slot) = pool.free_slot().await else { break Ok(()) };
                recovery.failed_starts.pause().await;
                match claim(recovery, &task_id).await {
                    Ok(ClaimByIdResult::Ours(saga, asked)) => { waiting.remove(&task_id); pool.start(*saga, asked, slot); }
                    Ok(ClaimByIdResult::Later(delay)) => { waiting.insert(task_id, time::now() + delay); }
                    Ok(ClaimByIdResult::Gone(reason)) => {
                        waiting.remove(&task_id);
                        (recovery.notes)(Note::Skipped { task_id, reason });
                    }
                    Err(status) if StatusDetails::from(&status).happened == CallEffect::Refused => break Err(status),
                    Err(_) => { waiting.insert(task_id, time::now() + SETTLING_MAX); }
                }
            }
        }
    };
    pool.finish().await;
    result
}

async fn wait_or_stop(delay: Duration, stop: &tokio_util::sync::CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = stop.cancelled() => {}
    }
}

/// Sleeps until the moment; for ever without one.
async fn at(moment: Option<Moment>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => pending().await,
    }
}

fn next_due(waiting: &BTreeMap<String, Moment>) -> Option<String> {
    waiting.iter().min_by_key(|(_, due)| **due).map(|(task_id, _)| task_id.clone())
}

/// Only running sagas are claimed by id: a compensating one whose lease expired comes by `ClaimNext`.
fn take_in(item: WatchStaleResponse, waiting: &mut BTreeMap<String, Moment>) {
    match item.item {
        Some(Item::Stale(stale)) => {
            if stale.saga.is_some_and(|saga| saga.state() == SagaState::Running && saga.stale) {
                waiting.insert(stale.task_id, time::now());
            }
        }
        Some(Item::Resolved(resolved)) => {
            waiting.remove(&resolved.task_id);
        }
        Some(Item::Bookmark(_)) | None => {}
    }
}

async fn claim<H>(recovery: &Recovery<H>, task_id: &str) -> Result<ClaimByIdResult, Status> {
    let request = ClaimRequest {
        task_id: task_id.to_owned(),
        owner_id: recovery.options.owner_id.clone(),
        ttl: Some(convert::to_proto(recovery.options.ttl)),
        purpose: LeasePurpose::Compensate.into(),
        reason: "recovery of a stale saga".to_owned(),
        request_id: Uuid::new_v4().to_string(),
    };
    let asked = time::now();
    // A worker that follows gets the saga again later; one that drains doesn't.
    let patience = if recovery.options.drain { DRAIN_PATIENCE } else { recovery.client.timeout() };
    let give_up = || asked + patience;
    let status = match recovery.client.ask_again(request, RetryOn::Unknown, give_up).await {
        Ok(answer) => {
            let saga = answer.saga.ok_or_else(|| Status::internal("an answer without a saga"))?;
            return Ok(ClaimByIdResult::Ours(Box::new(saga), asked));
        }
        Err(status) => status,
    };
    let refusal = StatusDetails::from(&status);
    match refusal.reason.as_str() {
        "SETTLING" => Ok(ClaimByIdResult::Later(refusal.retry_after.unwrap_or(SETTLING_MAX).min(SETTLING_MAX))),
        "LEASE_HELD" | "SAGA_TERMINAL" | "SAGA_NOT_FOUND" | "WRONG_STATE" | "DISPATCHED_ELSEWHERE" | "NOT_READY" => {
            Ok(ClaimByIdResult::Gone(refusal.message))
        }
        _ => Err(status),
    }
}

/// Compensates everything there is and ends: all that `ClaimNext` returns, then by id what is stale, and what is
/// compensating without a holder but must settle.
pub(super) async fn drain<H: CompensationHandler>(recovery: &Arc<Recovery<H>>) -> Result<(), Status> {
    let stop = &recovery.shutdown.drain;
    while !stop.is_cancelled() {
        claim_next(recovery).await?;
        let mut pool = Pool::new(recovery);
        let mut again_in = None;
        for task_id in left_over(recovery).await? {
            let Some(slot) = pool.free_slot().await else { break };
            recovery.failed_starts.pause().await;
            match claim(recovery, &task_id).await? {
                ClaimByIdResult::Ours(saga, asked) => {
                    pool.start(*saga, asked, slot);
                    again_in = Some(Duration::ZERO);
                }
                ClaimByIdResult::Later(delay) => {
                    again_in = Some(again_in.map_or(delay, |other: Duration| other.min(delay)))
                }
                ClaimByIdResult::Gone(_) => {}
            }
        }
        pool.finish().await;
        if recovery.failed_starts.look_again() {
            again_in = Some(Duration::ZERO);
        }
        match again_in {
            Some(delay) => wait_or_stop(delay, stop).await,
            None => break,
        }
    }
    Ok(())
}

/// The sagas of our queues for which only a claim by id tells whether they can be compensated.
async fn left_over<H>(recovery: &Recovery<H>) -> Result<Vec<String>, Status> {
    let mut found = Vec::new();
    let started = time::now();
    let mut request = ListSagasRequest {
        states: vec![SagaState::Compensating.into()],
        queues: recovery.options.queues.clone(),
        ..ListSagasRequest::default()
    };
    loop {
        let give_up = || started + DRAIN_PATIENCE;
        let call = recovery
            .client
            .call(request.clone(), RetryOn::Unknown, give_up, |mut c, r| async move { c.list_sagas(r).await });
        let page = call.await?;
        found.extend(page.sagas.into_iter().map(|saga| saga.task_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if recovery.options.stale {
        let snapshot = WatchStaleRequest {
            queues: recovery.options.queues.clone(),
            snapshot_only: true,
            ..WatchStaleRequest::default()
        };
        let look = || async {
            let mut watch = Follow::stale(&recovery.client, snapshot.clone());
            let mut waiting = BTreeMap::new();
            while let FollowItem::Item(item) = watch.next().await? {
                take_in(item, &mut waiting);
            }
            Ok(waiting)
        };
        // Half a snapshot can't be resumed, so it starts again.
        let waiting = retry(RetryOn::Unknown, || started + DRAIN_PATIENCE, look).await?;
        found.extend(waiting.into_keys());
    }
    Ok(found)
}
