//! A restart changes nothing that is stored.

use std::{collections::BTreeMap, time::Duration};

use sagad::proto::*;

use crate::support::{daemon::ShutdownSignal, *};

fn by(task_id: &str) -> RequestCancelRequest {
    RequestCancelRequest { task_id: task_id.into(), actor: "ada".into(), reason: "why".into(), ..Default::default() }
}

/// Creates sagas in every state, with every field set.
async fn one_of_each(api: &Api) {
    let full = CreateSagaRequest {
        saga_id: "another id".replace(' ', "-"),
        queue: "builds".into(),
        priority: i32::MIN,
        issue: Some(i64::MAX),
        branch: "b".into(),
        worktree: "w".into(),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        payload: (0..=255).collect::<Vec<u8>>().into(),
        policy: Some(Policy {
            on_stale: StaleAction::Requeue.into(),
            max_expirations: 7,
            on_failure: FailureAction::Compensate.into(),
            max_attempts: 4,
            retry_backoff: secs(2),
            retry_backoff_max: secs(3),
            execution_timeout: secs(4000),
            progress_timeout: secs(5000),
            settle: secs(6),
            compensation_timeout: secs(7000),
        }),
        delay: secs(3600),
        retry_of: "older".into(),
        ..held("planned", &["a", "b"])
    };
    api.create_saga(full).await.unwrap();
    api.create_saga(create("dispatched")).await.unwrap();
    let dispatch = DispatchRequest {
        task_id: "dispatched".into(),
        assignee: "chosen".into(),
        ttl: secs(3600),
        actor: "ada".into(),
        reason: "knows it".into(),
        ..Default::default()
    };
    api.dispatch(dispatch).await.unwrap();
    let running = api.running("running", "w").await;
    let told = HeartbeatRequest { ttl: secs(7200), progress: Some("half".into()), ..key(&running).heartbeat() };
    api.heartbeat(told).await.unwrap();
    api.running("cancelled", "w").await;
    api.request_cancel(by("cancelled")).await.unwrap();
    let released = api.running("released", "w").await;
    api.release(ReleaseRequest { delay: secs(3600), ..key(&released).release() }).await.unwrap();

    api.create_saga(held("compensating", &["a", "b", "c"])).await.unwrap();
    let lease = key(&api.claim(claim_undo("compensating", "u", 3_600_000)).await.unwrap());
    api.record_compensation(lease.record(3, CompensationOutcome::Done)).await.unwrap();
    let failed = RecordCompensationRequest { detail: "broke".into(), ..lease.record(2, CompensationOutcome::Failed) };
    api.record_compensation(failed).await.unwrap();
    api.create_saga(held("to-compensate", &["a"])).await.unwrap();
    let lease = key(&api.claim(claim_undo("to-compensate", "u", 60_000)).await.unwrap());
    api.release(lease.release()).await.unwrap();
    ended(api).await;
    api.stale(held("stale", &["a"]), "w").await;
}

async fn ended(api: &Api) {
    let done = api.running("completed", "w").await;
    let result = CompleteRequest { result: "result".into(), reason: "done".into(), ..key(&done).complete() };
    api.complete(result).await.unwrap();
    api.create_saga(held("failed", &["a"])).await.unwrap();
    let saga = api.claim(claim("failed", "w", 60_000)).await.unwrap();
    api.fail(key(&saga).fail("broke")).await.unwrap();
    api.create_saga(held("compensated", &["a"])).await.unwrap();
    api.request_cancel(by("compensated")).await.unwrap();
    let saga = api.running("quarantined", "w").await;
    api.quarantine(key(&saga).quarantine("odd")).await.unwrap();
    let note = AnnotateRequest {
        task_id: "quarantined".into(),
        actor: "ada".into(),
        terminal_reason: "very odd".into(),
        ..Default::default()
    };
    api.annotate(note).await.unwrap();
}

/// Everything that reads return, except what depends on the time of the read.
#[derive(Debug, PartialEq)]
struct StoreView {
    sagas: BTreeMap<String, (Saga, Vec<SagaEvent>)>,
    stats: GetStatsResponse,
    queues: Vec<Queue>,
}

async fn look(api: &Api) -> StoreView {
    let mut sagas = BTreeMap::new();
    for listed in api.list_sagas(ListSagasRequest::default()).await.unwrap().sagas {
        let mut whole = api.get(&listed.task_id).await;
        // After a start, live leases have a grace, which reads show.
        if let Some(lease) = &mut whole.lease {
            lease.effective_expire_time = None;
        }
        sagas.insert(listed.task_id.clone(), (whole, api.history(&listed.task_id).await));
    }
    let mut stats = api.stats().await;
    stats.oldest_ready_age = None;
    for queue in &mut stats.queues {
        queue.oldest_ready_age = None;
    }
    let queues = api.admin.clone().list_queues(ListQueuesRequest::default()).await.unwrap().into_inner().queues;
    StoreView { sagas, stats, queues }
}

#[tokio::test]
async fn m10_a_restart_preserves_everything_exactly() {
    let mut daemon = Daemon::start();
    let api = daemon.api().await;
    one_of_each(&api).await;
    let pause =
        PauseQueueRequest { queue: "builds".into(), actor: "ada".into(), reason: "full".into(), ..Default::default() };
    api.admin.clone().pause_queue(pause).await.unwrap();
    let before = look(&api).await;
    let states: std::collections::BTreeSet<_> = before.sagas.values().map(|(saga, _)| saga.state()).collect();
    assert_eq!(states.len(), 8, "a saga in each state");
    for how in [ShutdownSignal::Term, ShutdownSignal::Kill, ShutdownSignal::Kill, ShutdownSignal::Term] {
        daemon.restart(how).await;
        let after = look(&daemon.api().await).await;
        for (task_id, saga) in &before.sagas {
            assert_eq!(after.sagas.get(task_id), Some(saga), "{how:?}");
        }
        assert_eq!(after, before, "{how:?}");
    }
    // New changes follow the old ones.
    let api = daemon.api().await;
    let newest = before.stats.revision;
    let running = &before.sagas["running"].0;
    api.complete(key(running).complete()).await.unwrap();
    let next = api.create_saga(create("next")).await.unwrap();
    assert!(next.revision > newest, "revisions only grow");
    let claimed = api.claim(claim("stale", "other", 60_000)).await.unwrap();
    assert!(key(&claimed).fencing_token > newest, "tokens only grow");
}

#[tokio::test]
async fn m10_leases_survive_and_can_be_heartbeaten_within_the_grace() {
    for how in [ShutdownSignal::Term, ShutdownSignal::Kill] {
        let mut daemon = Daemon::start_with(&["--restart-grace", "60s"]);
        let api = daemon.api().await;
        api.create_saga(create("t")).await.unwrap();
        let saga = api.claim(claim("t", "w", 300)).await.unwrap();
        daemon.end(how).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        daemon.start_again();
        let api = daemon.api().await;
        let mut graced = api.get("t").await;
        let lease = graced.lease.as_mut().unwrap();
        assert_eq!(lease.standing(), LeaseStanding::Held, "past its expiry, but in the grace");
        let longer = micros(lease.effective_expire_time.as_ref()) - micros(lease.expire_time.as_ref());
        assert!(longer > 20_000_000, "the answer has the end of the grace: {lease:?}");
        lease.effective_expire_time = lease.expire_time;
        assert_eq!(graced, saga, "it is not stale, and the stored saga is unchanged");
        let problem = api.claim(claim("t", "other", 1000)).await.refused();
        assert_eq!(problem.reason, "LEASE_HELD");
        assert!(problem.retry.unwrap() > Duration::from_secs(20), "{problem:?}");
        let beat = HeartbeatRequest { ttl: secs(60), ..key(&saga).heartbeat() };
        let lease = api.heartbeat(beat).await.unwrap().lease.unwrap();
        assert_eq!(lease.fencing_token, key(&saga).fencing_token);
        assert_eq!(api.get("t").await.lease, Some(lease));
    }
}

#[tokio::test]
async fn m10_after_the_grace_a_lease_without_a_heartbeat_is_stale() {
    let mut daemon = Daemon::start_with(&["--restart-grace", "0s"]);
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let saga = api.claim(claim("t", "w", 300)).await.unwrap();
    daemon.kill().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    daemon.start_again();
    let api = daemon.api().await;
    api.until_stale("t").await;
    assert_eq!(api.heartbeat(key(&saga).heartbeat()).await.reason(), "LEASE_EXPIRED");
}

#[tokio::test]
async fn m11_times_are_utc_on_one_clock_that_never_goes_back() {
    let utc = || since_1970().as_micros() as i64;
    let mut daemon = Daemon::start();
    let began = utc();
    let mut last = 0;
    for round in 0..6 {
        let api = daemon.api().await;
        let saga = api.running(&format!("t-{round}"), "w").await;
        for event in api.history(&saga.task_id).await {
            let time = micros(event.time.as_ref());
            assert!(time >= last, "the clock went back");
            last = time;
        }
        let info = api.admin.clone().get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
        let (told, clock) = (micros(info.current_time.as_ref()), utc());
        assert!((told - clock).abs() < 10_000_000, "{told} is not UTC, which is {clock}");
        assert!(micros(info.start_time.as_ref()) <= told && told >= last);
        assert!(info.clock_offset.unwrap().seconds.abs() < 10);
        daemon.restart(if round % 2 == 0 { ShutdownSignal::Term } else { ShutdownSignal::Kill }).await;
    }
    assert!(last >= began - 1_000_000);
}
