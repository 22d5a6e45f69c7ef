//! A load with some of everything that is counted.

use sagad::proto::*;

use super::watched_daemon::WatchedDaemon;
use crate::support::{Api, claim, claim_undo, compensation, create, eventually, held, key, ms};

/// Makes calls after which each kind of metric has values. Streams stay open until the result is dropped.
pub async fn some_of_everything(watched: &WatchedDaemon) -> impl Sized {
    let api = watched.daemon.api().await;
    let of = |task_id: &str, queue: &str| CreateSagaRequest { queue: queue.into(), ..create(task_id) };
    api.create_saga(of("secret-ready", "builds")).await.unwrap();
    assert!(api.create_saga(of("secret-ready", "builds")).await.is_err());
    api.create_saga(of("secret-done", "builds")).await.unwrap();
    let done = api.claim(claim("secret-done", "secret-owner", 60_000)).await.unwrap();
    api.complete(key(&done).complete()).await.unwrap();
    api.stale(of("secret-stale", "builds"), "secret-owner").await;
    let undo = CreateSagaRequest { queue: "undo".into(), ..held("secret-undo", &["branch"]) };
    api.create_saga(undo).await.unwrap();
    let claim_undo = claim_undo("secret-undo", "secret-owner", 100);
    api.claim(claim_undo).await.unwrap();
    eventually("the lease for compensation expires", || async { api.get("secret-undo").await.stale.then_some(()) })
        .await;
    let next = ClaimNextRequest {
        queues: vec!["undo".into()],
        owner_id: "secret-owner".into(),
        purpose: LeasePurpose::Compensate.into(),
        compensation_kinds: vec![compensation("tree").kind],
        ..Default::default()
    };
    assert!(api.claim_next(next).await.unwrap().is_empty());
    park(&api).await;
    let stale =
        api.watch_stale(WatchStaleRequest { queues: vec!["builds".into()], ..Default::default() }).await.unwrap();
    let events = api.watch_events(WatchEventsRequest::default()).await.unwrap();
    drop(
        api.watch_stale(WatchStaleRequest { snapshot_only: true, ..Default::default() }).await.unwrap().message().await,
    );
    (api, stale, events, held_claim(watched).await)
}

async fn park(api: &Api) {
    api.create_saga(create("secret-parked")).await.unwrap();
    let park = QuarantineRequest {
        task_id: "secret-parked".into(),
        actor: "operator".into(),
        reason: "for the test".into(),
        ..Default::default()
    };
    api.quarantine(park).await.unwrap();
}

/// Starts a ClaimNext that waits.
async fn held_claim(watched: &WatchedDaemon) -> tokio::task::JoinHandle<()> {
    let api = watched.daemon.api().await;
    let waiting = tokio::spawn({
        let api = api.clone();
        async move {
            let next = ClaimNextRequest {
                queues: vec!["empty".into()],
                owner_id: "secret-owner".into(),
                wait: ms(60_000),
                ..Default::default()
            };
            let _ = api.claim_next(next).await;
        }
    });
    eventually("it waits", || async { (api.stats().await.waiting > 0).then_some(()) }).await;
    waiting
}
