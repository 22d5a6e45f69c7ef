//! `request_id`: every changing call can be repeated.

use std::{pin::Pin, time::Duration};

use futures::Future;
use sagad::proto::*;
use tonic::Status;

use crate::support::{daemon::ShutdownSignal, process_usage::ProcessUsage, *};

type CallAnswer = Result<Vec<Saga>, Status>;
type RepeatableCall = Box<dyn Fn() -> Pin<Box<dyn Future<Output = CallAnswer> + Send>>>;

macro_rules! call {
    ($api:expr, $rpc:ident($request:expr)) => {{
        let (api, mut request) = ($api.clone(), $request);
        request.request_id = uuid::Uuid::new_v4().to_string();
        let call: RepeatableCall = Box::new(move || {
            let (api, request) = (api.clone(), request.clone());
            Box::pin(async move { api.$rpc(request).await.map(|saga| vec![saga]) })
        });
        call
    }};
}

/// Every changing rpc that takes a `request_id`, each for a saga of its own.
async fn every_call(api: &Api) -> Vec<(&'static str, &'static str, RepeatableCall)> {
    let lease = async |task_id| {
        api.create_saga(held(task_id, &["a"])).await.unwrap();
        key(&api.claim(claim(task_id, "w", 60_000)).await.unwrap())
    };
    let undoing = async |task_id| {
        api.create_saga(held(task_id, &["a"])).await.unwrap();
        key(&api.claim(claim_undo(task_id, "u", 60_000)).await.unwrap())
    };
    let [actor, reason] = ["ada", "why"].map(str::to_owned);
    for task_id in ["dispatch", "claim", "annotate"] {
        api.create_saga(create(task_id)).await.unwrap();
    }
    api.stale(create("recover"), "w").await;
    undoing("waive").await;
    let compensate = undoing("compensate").await;
    api.record_compensation(compensate.record(1, CompensationOutcome::Done)).await.unwrap();
    let decision = RecoverRequest {
        task_id: "recover".into(),
        decision: RecoveryDecision::Requeue.into(),
        actor: actor.clone(),
        reason: reason.clone(),
        ..Default::default()
    };
    let waive = WaiveCompensationRequest {
        task_id: "waive".into(),
        position: 1,
        actor: actor.clone(),
        reason: reason.clone(),
        ..Default::default()
    };
    let dispatch = DispatchRequest {
        task_id: "dispatch".into(),
        assignee: "x".into(),
        actor: actor.clone(),
        ..Default::default()
    };
    lease("cancel").await;
    let cancel = RequestCancelRequest { task_id: "cancel".into(), actor: actor.clone(), reason, ..Default::default() };
    let note = AnnotateRequest { task_id: "annotate".into(), actor, note: "n".into(), ..Default::default() };
    let failed = undoing("record").await.record(1, CompensationOutcome::Failed);
    vec![
        ("CreateSaga", "create", call!(api, create_saga(create("create")))),
        ("Dispatch", "dispatch", call!(api, dispatch(dispatch))),
        ("Claim", "claim", call!(api, claim(claim("claim", "w", 60_000)))),
        ("Release", "release", call!(api, release(lease("release").await.release()))),
        ("RegisterCompensation", "reg", call!(api, register_compensation(lease("reg").await.register(&["b"])))),
        ("Complete", "complete", call!(api, complete(lease("complete").await.complete()))),
        ("Fail", "fail", call!(api, fail(lease("fail").await.fail("broke")))),
        ("RecordCompensation", "record", call!(api, record_compensation(failed))),
        ("WaiveCompensation", "waive", call!(api, waive_compensation(waive))),
        ("Compensate", "compensate", call!(api, compensate(compensate.compensate()))),
        ("Quarantine", "quarantine", call!(api, quarantine(lease("quarantine").await.quarantine("odd")))),
        ("Recover", "recover", call!(api, recover(decision))),
        ("RequestCancel", "cancel", call!(api, request_cancel(cancel))),
        ("Annotate", "annotate", call!(api, annotate(note))),
    ]
}

#[tokio::test]
async fn every_changing_rpc_repeated_with_its_request_id_returns_the_same_answer_and_changes_nothing() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for (rpc, task_id, call) in every_call(&api).await {
        let first = call().await.unwrap_or_else(|refused| panic!("{rpc}: {refused:?}"));
        let history = api.history(task_id).await;
        for _ in 0..2 {
            assert_eq!(call().await.unwrap(), first, "{rpc}");
        }
        assert_eq!(api.history(task_id).await, history, "{rpc} was executed again");
        assert_eq!(first, [api.get(task_id).await], "{rpc}");
    }
}

#[tokio::test]
async fn a_repeated_batch_or_claim_next_returns_the_same_sagas() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let batch = BatchCreateSagasRequest { requests: vec![CreateSagaRequest::default(); 5], request_id: named("batch") };
    let made = api.batch_create_sagas(batch.clone()).await.unwrap();
    assert_eq!(api.batch_create_sagas(batch).await.unwrap(), made, "generated ids are the same, too");

    let next = ClaimNextRequest {
        queues: vec!["default".into()],
        owner_id: "w".into(),
        ttl: secs(60),
        max_sagas: 3,
        request_id: named("next"),
        ..Default::default()
    };
    let claimed = api.claim_next(next.clone()).await.unwrap();
    assert_eq!(claimed.len(), 3);
    // A repeat may have a shorter wait, which does not count as other content.
    let again = ClaimNextRequest { wait: secs(1), ..next.clone() };
    assert_eq!(api.claim_next(again).await.unwrap(), claimed);
    // The answer has the present sagas, without those whose leases are over.
    api.release(key(&claimed[0]).release()).await.unwrap();
    let left = api.claim_next(next.clone()).await.unwrap();
    assert_eq!(left, claimed[1..]);
    assert_eq!(api.claim_next(ClaimNextRequest { max_sagas: 4, ..next }).await.reason(), "REQUEST_ID_REUSED");

    // Empty answers are not stored: the same request is executed again.
    let none = ClaimNextRequest {
        queues: vec!["later".into()],
        owner_id: "w".into(),
        request_id: named("none"),
        ..Default::default()
    };
    assert_eq!(api.claim_next(none.clone()).await.unwrap(), []);
    api.create_saga(CreateSagaRequest { queue: "later".into(), ..create("t") }).await.unwrap();
    assert_eq!(api.claim_next(none).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_not_stored_under_its_request_id() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let saga = api.running("t", "w").await;
    let wanted = ClaimRequest { request_id: named("claim"), ..claim("t", "other", 60_000) };
    assert_eq!(api.claim(wanted.clone()).await.reason(), "LEASE_HELD");
    api.release(key(&saga).release()).await.unwrap();
    let claimed = api.claim(wanted.clone()).await.unwrap();
    assert_eq!(api.claim(wanted.clone()).await.unwrap(), claimed);
    // Once its lease is over, the repeated claim is refused accordingly.
    api.release(key(&claimed).release()).await.unwrap();
    assert_eq!(api.claim(wanted).await.reason(), "NO_LEASE");
}

/// Sends calls, kills the daemon before or after the answers, starts it again and repeats the calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_repeat_after_a_crash_has_exactly_one_effect() {
    const ROUNDS: u32 = 16;
    let mut daemon = Daemon::start();
    let (mut answered, mut lost) = (0, 0);
    for round in 0..ROUNDS {
        let api = daemon.api().await;
        let queue = format!("q-{round}");
        let stock = (0..3).map(|_| CreateSagaRequest { queue: queue.clone(), ..Default::default() }).collect();
        let stock = BatchCreateSagasRequest { requests: stock, ..Default::default() };
        let stock = api.batch_create_sagas(stock).await.unwrap();
        let request_id = |name: &str| named(&format!("{name} {round}"));
        let made = CreateSagaRequest {
            labels: [("round".to_owned(), round.to_string())].into(),
            request_id: request_id("create"),
            ..Default::default()
        };
        let note = AnnotateRequest {
            task_id: stock[2].task_id.clone(),
            actor: "ada".into(),
            note: "once".into(),
            request_id: request_id("note"),
            ..Default::default()
        };
        let next = ClaimNextRequest {
            queues: vec![queue],
            owner_id: "w".into(),
            ttl: secs(600),
            request_id: request_id("next"),
            ..Default::default()
        };
        let (first, calls) = (api.clone(), (made.clone(), note.clone(), next.clone()));
        let before = tokio::spawn(async move {
            let (made, note, next) = calls;
            tokio::join!(first.create_saga(made), first.annotate(note), first.claim_next(next))
        });
        // Some kills come at once, some after the answers, most in between.
        if round % 4 == 3 {
            eventually("the answers", || async { before.is_finished().then_some(()) }).await;
        } else if round > 4 {
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 500)).await;
        }
        daemon.restart(ShutdownSignal::Kill).await;
        let before = before.await.unwrap();

        let api = daemon.api().await;
        let created = api.create_saga(made).await.unwrap();
        let noted = api.annotate(note).await.unwrap();
        let claimed = api.claim_next(next).await.unwrap();
        for (before, after) in [(before.0, &created), (before.1, &noted)] {
            match before {
                Ok(saga) => {
                    answered += 1;
                    assert_eq!(&saga, after, "the repeat returns the acknowledged answer");
                }
                Err(_) => lost += 1,
            }
        }
        if let Ok(sagas) = before.2 {
            assert_eq!(sagas, claimed);
        }
        assert_one_effect(&api, round, &stock, &noted).await;
    }
    println!("{answered} answered before the crash, {lost} lost");
    assert!(answered > 0 && lost > 0, "kills fell before and after answers: {answered} answered, {lost} lost");
}

async fn assert_one_effect(api: &Api, round: u32, stock: &[Saga], noted: &Saga) {
    let labels = [("round".to_owned(), round.to_string())].into();
    let found = api.list_sagas(ListSagasRequest { labels, ..Default::default() }).await.unwrap().sagas;
    assert_eq!(found.len(), 1, "created once");
    let history = api.history(&noted.task_id).await;
    let notes = history.iter().filter(|event| event.r#type() == EventType::Annotated).count();
    assert_eq!(notes, 1, "annotated once");
    let mut claims = 0;
    for saga in stock {
        let history = api.history(&saga.task_id).await;
        claims += history.iter().filter(|event| event.r#type() == EventType::Claimed).count();
    }
    assert_eq!(claims, 1, "claimed once");
}

/// The largest batch, each saga with the largest result: 64 MiB, of which an answer holds 3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_many_concurrent_repeats_of_a_large_batch_take_little_memory_and_writer_time() {
    const SAGAS: usize = 1000;
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let requests = (0..SAGAS).map(|n| CreateSagaRequest { payload: "p".into(), ..create(&format!("t-{n}")) }).collect();
    let batch = BatchCreateSagasRequest { requests, request_id: named("the batch") };
    api.batch_create_sagas(batch.clone()).await.unwrap();
    for some in (0..SAGAS).collect::<Vec<_>>().chunks(50) {
        futures::future::join_all(some.iter().map(|n| {
            let (api, task_id) = (api.clone(), format!("t-{n}"));
            async move {
                let lease = key(&api.claim(claim(&task_id, "w", 60_000)).await.unwrap());
                let result = vec![7; 64 * 1024].into();
                api.complete(CompleteRequest { result, ..lease.complete() }).await.unwrap();
            }
        }))
        .await;
    }
    let usage = ProcessUsage::of(daemon.pid());
    let before = usage.status("VmHWM") / 1024;
    let lease = key(&api.running("mine", "w").await);
    let others = futures::future::join_all((0..4).map(|_| daemon.api())).await;
    let repeats: Vec<_> = (0..32)
        .map(|n| {
            let (api, batch) = (others[n % others.len()].clone(), batch.clone());
            tokio::spawn(async move { api.batch_create_sagas(batch).await.unwrap() })
        })
        .collect();
    let (mut longest, mut beats) = (Duration::ZERO, 0);
    while repeats.iter().any(|repeat| !repeat.is_finished()) {
        beats += 1;
        let asked = now();
        api.heartbeat(HeartbeatRequest { ttl: ms(60_000 + beats), ..lease.heartbeat() }).await.unwrap();
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for repeat in repeats {
        let sagas = repeat.await.unwrap();
        assert_eq!(sagas.len(), SAGAS);
        // The results don't fit into the answer; the payloads do.
        assert!(sagas.iter().all(|saga| saga.contents_omitted && saga.result.is_empty() && saga.payload == "p"));
        assert!(sagas.iter().all(|saga| saga.state() == SagaState::Completed));
    }
    let whole = api.get("t-0").await;
    assert!(!whole.contents_omitted && whole.result.len() == 64 * 1024);
    let grown = usage.status("VmHWM") / 1024 - before;
    println!("32 repeats: {grown} MiB more, and {longest:?} for the longest of {beats} heartbeats");
    assert!(grown < 400, "it took {grown} MiB more");
    // The heartbeats share this process with tasks that read 32,000 sagas, so the writer's time is read from its vitals.
    let vitals = api.admin.clone().get_vitals(GetVitalsRequest::default()).await.unwrap().into_inner();
    let batch = Duration::try_from(vitals.batches.unwrap().max.unwrap()).unwrap();
    assert!(batch < Duration::from_secs(1), "a batch took {batch:?}");
}
