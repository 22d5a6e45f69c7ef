//! Errors about leases.

use sagad::proto::*;

use crate::support::*;

pub async fn lease_held() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let own = api.claim(claim("t", "w", 1000)).await.refused();
    let problem = api.claim(claim("t", "other", 1000)).await.refused();
    assert_eq!(own.reason, problem.reason, "also for the holder itself");
    assert_eq!((problem.fact("owner_id"), problem.fact("task_id"), problem.fact("state")), ("w", "t", "RUNNING"));
    assert_eq!(problem.fact("fencing_token"), key(&saga).fencing_token.to_string());
    let until = chrono::DateTime::parse_from_rfc3339(problem.fact("expire_time")).unwrap();
    assert_eq!(until.timestamp_micros(), micros(saga.lease.unwrap().expire_time.as_ref()));
    let retry = problem.retry.unwrap();
    assert!(retry <= std::time::Duration::from_secs(60) && !retry.is_zero(), "{retry:?}");
    problem
}

/// A saga under a lease of a minute and this policy.
async fn limited(api: &Api, policy: Policy) -> Saga {
    api.create_saga(CreateSagaRequest { policy: Some(policy), ..create("t") }).await.unwrap();
    api.claim(claim("t", "w", 60_000)).await.unwrap()
}

/// Asserts that the lease is unchanged and that the error has its expiry and the directive.
async fn assert_stands(api: &Api, saga: &Saga, problem: &Problem, directive: &str) {
    assert_eq!(problem.fact("directive"), directive);
    let until = chrono::DateTime::parse_from_rfc3339(problem.fact("expire_time")).unwrap();
    let lease = saga.lease.as_ref().unwrap();
    assert_eq!(until.timestamp_micros(), micros(lease.expire_time.as_ref()));
    assert_eq!(api.get("t").await.lease.as_ref(), Some(lease));
}

pub async fn lease_not_extended() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let short = HeartbeatRequest { ttl: ms(100), progress: Some("p".into()), ..key(&saga).heartbeat() };
    let problem = api.heartbeat(short).await.refused();
    assert_stands(&api, &saga, &problem, "CONTINUE").await;
    assert!(api.get("t").await.progress.is_empty(), "nothing is stored");
    problem
}

pub async fn execution_timeout() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = limited(&api, Policy { execution_timeout: secs(30), ..Default::default() }).await;
    let lease = saga.lease.as_ref().unwrap();
    assert_eq!(micros(lease.expire_time.as_ref()) - micros(lease.acquire_time.as_ref()), 30_000_000, "clamped");
    let problem = api.heartbeat(key(&saga).heartbeat()).await.refused();
    assert_stands(&api, &saga, &problem, "CONTINUE").await;

    let cancel = RequestCancelRequest {
        task_id: "t".into(),
        actor: "ada".into(),
        reason: "enough".into(),
        ..Default::default()
    };
    api.request_cancel(cancel).await.unwrap();
    let problem = api.heartbeat(key(&saga).heartbeat()).await.refused();
    assert_stands(&api, &saga, &problem, "CANCEL").await;
    assert_eq!(problem.fact("cancel_reason"), "enough");
    problem
}

pub async fn progress_timeout() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = limited(&api, Policy { progress_timeout: secs(30), ..Default::default() }).await;
    let problem = api.heartbeat(key(&saga).heartbeat()).await.refused();
    assert_stands(&api, &saga, &problem, "CONTINUE").await;
    // Equal progress is no change; other progress is.
    let told = |progress: &'static str| HeartbeatRequest { progress: Some(progress.into()), ..key(&saga).heartbeat() };
    assert_eq!(api.heartbeat(told("")).await.reason(), "PROGRESS_TIMEOUT");
    api.heartbeat(told("1 %")).await.unwrap();
    problem
}

pub async fn lease_expired() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.stale(create("t"), "w").await;
    let problem = api.heartbeat(key(&saga).heartbeat()).await.refused();
    let until = chrono::DateTime::parse_from_rfc3339(problem.fact("expire_time")).unwrap();
    assert_eq!(until.timestamp_micros(), micros(saga.lease.unwrap().expire_time.as_ref()));
    problem
}

pub async fn lease_superseded() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    // By a later lease,
    let first = api.stale(create("t"), "w").await;
    api.claim(claim("t", "w", 60_000)).await.unwrap();
    let problem = api.heartbeat(key(&first).heartbeat()).await.refused();
    assert_eq!(api.release(key(&first).release()).await.reason(), "LEASE_SUPERSEDED");
    // by a decision,
    let stale = api.stale(create("decided"), "w").await;
    let decision = RecoverRequest {
        task_id: "decided".into(),
        decision: RecoveryDecision::Requeue.into(),
        actor: "ada".into(),
        reason: "why".into(),
        ..Default::default()
    };
    api.recover(decision).await.unwrap();
    assert_eq!(api.complete(key(&stale).complete()).await.reason(), "LEASE_SUPERSEDED");
    // and by a revocation.
    let live = api.running("revoked", "w").await;
    let park = QuarantineRequest {
        task_id: "revoked".into(),
        actor: "ada".into(),
        reason: "why".into(),
        revoke_lease: true,
        ..Default::default()
    };
    api.quarantine(park).await.unwrap();
    assert_eq!(api.heartbeat(key(&live).heartbeat()).await.reason(), "LEASE_SUPERSEDED");
    problem
}

pub async fn not_owner() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let other_owner = Key { owner_id: "other".into(), ..key(&saga) };
    assert_eq!(api.complete(other_owner.complete()).await.reason(), "NOT_OWNER");
    let problem = api.heartbeat(other_owner.heartbeat()).await.refused();
    assert_eq!((problem.fact("owner_id"), problem.fact("task_id")), ("w", "t"));
    problem
}

pub async fn no_lease() -> Problem {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    api.release(key(&saga).release()).await.unwrap();
    assert_eq!(api.heartbeat(key(&saga).heartbeat()).await.reason(), "NO_LEASE", "the lease was released");
    assert_eq!(api.complete(key(&saga).complete()).await.reason(), "NO_LEASE", "the lease was released");
    api.release(key(&saga).release()).await.expect("a repeat");
    let never = Key { fencing_token: key(&saga).fencing_token + 100, ..key(&saga) };
    api.heartbeat(never.heartbeat()).await.refused()
}
