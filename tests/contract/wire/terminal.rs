//! A terminal saga does not change.

use std::pin::Pin;

use futures::Future;
use prost::Message;
use sagad::proto::*;
use tonic::Status;

use crate::support::*;

/// A call that was not sent yet, and the reason of its refusal.
type PendingCall = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Ends a new saga in each way; returns its last lease.
async fn ended(api: &Api, state: SagaState) -> Key {
    let task_id = state.as_str_name();
    api.create_saga(held(task_id, &["a", "b"])).await.unwrap();
    let saga = api.claim(claim(task_id, "w", 60_000)).await.unwrap();
    match state {
        SagaState::Completed => api.complete(key(&saga).complete()).await.unwrap(),
        SagaState::Failed => api.fail(key(&saga).fail("broke")).await.unwrap(),
        SagaState::Quarantined => api.quarantine(key(&saga).quarantine("odd")).await.unwrap(),
        SagaState::Compensated => compensated(api, &saga).await,
        _ => unreachable!("{state:?} is not terminal"),
    };
    let saga = api.get(task_id).await;
    assert_eq!(saga.state(), state);
    assert!(saga.end_time.is_some() && !saga.terminal_reason.is_empty());
    key(&saga)
}

async fn compensated(api: &Api, saga: &Saga) -> Saga {
    api.release(key(saga).release()).await.unwrap();
    let purpose = LeasePurpose::Compensate.into();
    let undoing = api.claim(ClaimRequest { purpose, ..claim(&saga.task_id, "u", 60_000) }).await.unwrap();
    for position in [2, 1] {
        api.record_compensation(key(&undoing).record(position, CompensationOutcome::Done)).await.unwrap();
    }
    api.compensate(key(&undoing).compensate()).await.unwrap()
}

fn call<F>(name: &str, future: F) -> (String, PendingCall)
where
    F: Future<Output = Result<Saga, Status>> + Send + 'static,
{
    (name.to_owned(), Box::pin(async { future.await.map(drop).map_err(|status| Problem::of(&status).reason) }))
}

macro_rules! calls {
    ($api:expr, $($name:literal => $rpc:ident($request:expr),)*) => {
        vec![$({
            let (api, request) = ($api.clone(), $request);
            call($name, async move { api.$rpc(request).await })
        },)*]
    };
}

/// Every changing rpc of its last holder, except repeats of the call that ended it.
fn by_the_holder(api: &Api, key: &Key, state: SagaState) -> Vec<(String, PendingCall)> {
    let done = CompensationOutcome::Done;
    let failed = CompensationOutcome::Failed;
    let mut calls = calls!(api,
        "Release" => release(key.release()),
        "RegisterCompensation" => register_compensation(key.register(&["new"])),
        "Complete" => complete(CompleteRequest { result: "other".into(), ..key.complete() }),
        "RecordCompensation" => record_compensation(key.record(1, failed)),
    );
    if state != SagaState::Failed {
        calls.extend(calls!(api, "Fail" => fail(FailRequest { retryable: true, ..key.fail("late") }),));
    }
    if state != SagaState::Compensated {
        calls.extend(calls!(api,
            "Compensate" => compensate(key.compensate()),
            "RecordCompensation" => record_compensation(key.record(2, done)),
        ));
    }
    if state != SagaState::Quarantined {
        calls.extend(calls!(api, "Quarantine" => quarantine(key.quarantine("late")),));
    }
    let (heartbeat, stream) = (api.clone(), api.clone());
    let (one, two) = (key.heartbeat(), key.keep_alive());
    calls.push(("Heartbeat".into(), Box::pin(async move { Err(heartbeat.heartbeat(one).await.reason()) })));
    calls.push(("KeepAlive".into(), Box::pin(async move { keep_alive(&stream, two).await })));
    calls
}

/// Every changing rpc without a lease.
fn by_others(api: &Api, task_id: &str) -> Vec<(String, PendingCall)> {
    let (task_id, actor, reason) = (task_id.to_owned(), "ada".to_owned(), "why".to_owned());
    let decide = |decision: RecoveryDecision, validate_only| RecoverRequest {
        task_id: task_id.clone(),
        decision: decision.into(),
        actor: actor.clone(),
        reason: reason.clone(),
        validate_only,
        ..Default::default()
    };
    let park = |revoke_lease| QuarantineRequest {
        task_id: task_id.clone(),
        actor: actor.clone(),
        reason: reason.clone(),
        revoke_lease,
        ..Default::default()
    };
    let cancel = |revoke_lease| RequestCancelRequest {
        task_id: task_id.clone(),
        actor: actor.clone(),
        reason: reason.clone(),
        revoke_lease,
        ..Default::default()
    };
    let waive = WaiveCompensationRequest {
        task_id: task_id.clone(),
        position: 1,
        actor: actor.clone(),
        reason: reason.clone(),
        ..Default::default()
    };
    let dispatch =
        DispatchRequest { task_id: task_id.clone(), assignee: "w".into(), actor: actor.clone(), ..Default::default() };
    let undo = claim_undo(&task_id, "w", 1000);
    calls!(api,
        "Claim EXECUTE" => claim(claim(&task_id, "w", 1000)),
        "Claim COMPENSATE" => claim(undo),
        "Dispatch" => dispatch(dispatch),
        "Recover REQUEUE" => recover(decide(RecoveryDecision::Requeue, false)),
        "Recover COMPENSATE" => recover(decide(RecoveryDecision::Compensate, false)),
        "Recover QUARANTINE" => recover(decide(RecoveryDecision::Quarantine, true)),
        "Quarantine by a person" => quarantine(park(false)),
        "Quarantine, revoking" => quarantine(park(true)),
        "RequestCancel" => request_cancel(cancel(false)),
        "RequestCancel, revoking" => request_cancel(cancel(true)),
        "WaiveCompensation" => waive_compensation(waive),
    )
}

/// One item on a stream of its own.
async fn keep_alive(api: &Api, item: KeepAliveRequest) -> Result<(), String> {
    let mut answers = api.sagas.clone().keep_alive(futures::stream::iter([item])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(answers.message().await.unwrap().is_none());
    if answer.code == 0 {
        return Ok(());
    }
    assert!(answer.lease.is_none() && answer.code == tonic::Code::FailedPrecondition as i32);
    Err(answer.reason)
}

#[tokio::test]
async fn m6_a_terminal_saga_refuses_every_change_by_every_path() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for state in [SagaState::Completed, SagaState::Failed, SagaState::Compensated, SagaState::Quarantined] {
        let key = ended(&api, state).await;
        let before = api.get(&key.task_id).await.encode_to_vec();
        let history = api.history(&key.task_id).await;
        let calls = by_the_holder(&api, &key, state).into_iter().chain(by_others(&api, &key.task_id));
        for (name, call) in calls {
            assert_eq!(call.await, Err("SAGA_TERMINAL".into()), "{name} of a saga that is {state:?}");
            assert_eq!(api.get(&key.task_id).await.encode_to_vec(), before, "{name} changed it");
        }
        assert_eq!(api.create_saga(create(&key.task_id)).await.reason(), "SAGA_EXISTS");
        for purpose in [LeasePurpose::Execute, LeasePurpose::Compensate] {
            let request = ClaimNextRequest {
                queues: vec!["default".into()],
                owner_id: "w".into(),
                purpose: purpose.into(),
                max_sagas: 100,
                ..Default::default()
            };
            assert_eq!(api.claim_next(request).await.unwrap(), [], "ClaimNext returns it");
        }
        assert_eq!(api.get(&key.task_id).await.encode_to_vec(), before);
        assert_eq!(api.history(&key.task_id).await, history, "the history is unchanged");
    }
}

#[tokio::test]
async fn m6_repeating_the_call_that_ended_a_saga_is_accepted_and_changes_nothing() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for state in [SagaState::Completed, SagaState::Failed, SagaState::Compensated, SagaState::Quarantined] {
        let key = ended(&api, state).await;
        let before = api.get(&key.task_id).await;
        let again = match state {
            SagaState::Completed => api.complete(CompleteRequest { reason: "other".into(), ..key.complete() }).await,
            SagaState::Failed => api.fail(key.fail("another reason")).await,
            SagaState::Compensated => api.compensate(key.compensate()).await,
            _ => api.quarantine(key.quarantine("another reason")).await,
        };
        assert_eq!(again.unwrap(), before);
        assert_eq!(api.get(&key.task_id).await, before);

        // Another lease or another owner can't repeat it.
        let earlier = Key { fencing_token: key.fencing_token - 1, ..key.clone() };
        assert_eq!(api.complete(earlier.complete()).await.reason(), "LEASE_SUPERSEDED");
        let other_owner = Key { owner_id: "other".into(), ..key.clone() };
        assert_eq!(api.complete(other_owner.complete()).await.reason(), "NOT_OWNER");
    }
}

#[tokio::test]
async fn m6_a_repeated_claim_of_a_terminal_saga_is_refused() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let request = ClaimRequest { request_id: named("claim"), ..claim("t", "w", 60_000) };
    let saga = api.claim(request.clone()).await.unwrap();
    let done = api.complete(key(&saga).complete()).await.unwrap();
    assert_eq!(api.claim(request).await.reason(), "SAGA_TERMINAL");
    assert_eq!(api.get("t").await, done);
}
