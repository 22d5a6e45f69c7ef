//! `sagad work` and `sagad compensate` with a scripted coordinator.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use sagad::proto::*;
use tokio::process::Child;
use tonic::{Code, Status};

use crate::support::fake_coordinator::{
    FakeCoordinator, ReceivedCall, binary::*, lease, refusal, refusal_for_now, saga, unscripted,
};

const TTL_MS: i64 = 600;

/// A coordinator that returns one saga to the first claim and accepts all calls of its worker.
fn one_saga(saga: Saga) -> FakeCoordinator {
    let ended = |saga: &Saga, state: SagaState| Some(Saga { state: state.into(), ..saga.clone() });
    let (completed, failed, parked, released) = (saga.clone(), saga.clone(), saga.clone(), saga.clone());
    FakeCoordinator {
        claim_next: Box::new(move |number, _| {
            let sagas = if number == 0 { vec![saga.clone()] } else { Vec::new() };
            Ok(ClaimNextResponse { sagas, ..Default::default() })
        }),
        heartbeat: Box::new(|number, _| {
            let lease = Some(lease(200 * (number as i64 + 1), TTL_MS));
            Ok(HeartbeatResponse { lease, ..HeartbeatResponse::default() })
        }),
        complete: Box::new(move |_, _| Ok(CompleteResponse { saga: ended(&completed, SagaState::Completed) })),
        fail: Box::new(move |_, _| Ok(FailResponse { saga: ended(&failed, SagaState::Failed) })),
        quarantine: Box::new(move |_, _| Ok(QuarantineResponse { saga: ended(&parked, SagaState::Quarantined) })),
        release: Box::new(move |_, _| Ok(ReleaseResponse { saga: ended(&released, SagaState::Planned) })),
        list_sagas: Box::new(|_, _| Ok(ListSagasResponse::default())),
        ..FakeCoordinator::default()
    }
}

async fn work(fake: FakeCoordinator, script: &str) -> (Arc<FakeCoordinator>, (i32, String, String)) {
    let (client, fake) = fake.start().await;
    let line = ["work", "--queue", "q", "--ttl", "600ms", "--drain", "--kill-after", "5s", "--", "sh", "-c", script];
    let ran = run(client.server(), &line).await;
    (fake, ran)
}

/// The calls that report an outcome.
fn outcomes(fake: &FakeCoordinator) -> Vec<ReceivedCall> {
    let seen = fake.calls_received();
    let others = |seen: &&ReceivedCall| {
        !matches!(
            seen,
            ReceivedCall::heartbeat(_)
                | ReceivedCall::claim_next(_)
                | ReceivedCall::claim(_)
                | ReceivedCall::list_sagas(_)
        )
    };
    seen.iter().filter(others).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_0_completes_the_saga_and_the_command_gets_its_environment() {
    let mut given = saga(TTL_MS);
    given.payload = "the payload".into();
    given.issue = Some(7);
    given.branch = "fix-7".to_owned();
    let script = "echo $SAGAD_TASK_ID $SAGAD_ISSUE $SAGAD_BRANCH $SAGAD_OWNER $SAGAD_TOKEN $(cat $SAGAD_PAYLOAD_FILE)";
    let (fake, (code, stdout, stderr)) = work(one_saga(given), script).await;
    assert_eq!((code, stdout.trim()), (0, "t-1 7 fix-7 w 7 the payload"), "{stderr}");
    assert!(stderr.contains("claimed t-1") && stderr.contains("completed t-1"), "{stderr}");
    assert!(matches!(outcomes(&fake).as_slice(), [ReceivedCall::complete(request)] if request.fencing_token == 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_sends_heartbeats_while_the_command_runs() {
    let (fake, (code, _, stderr)) = work(one_saga(saga(TTL_MS)), "sleep 1.5").await;
    assert_eq!(code, 0, "{stderr}");
    let beats = fake.calls_received().iter().filter(|seen| matches!(seen, ReceivedCall::heartbeat(_))).count();
    assert!((4..=9).contains(&beats), "{beats} heartbeats in 1.5 s, one each 200 ms");
}

/// The lease is for 6 s, and the claim took 3.2 s. Counted from the sending of the claim, less than half of the lease would be
/// left, and a heartbeat would have to confirm it.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_held_claim_counts_from_the_end_of_its_wait() {
    for (waited, beats) in [(Some(prost_types::Duration { seconds: 3, nanos: 200_000_000 }), 0), (None, 1)] {
        let mut fake = one_saga(saga(6_000));
        fake.delay = Duration::from_millis(3_200);
        let claim = std::mem::replace(&mut fake.claim_next, Box::new(|_, _| unscripted()));
        fake.claim_next = Box::new(move |number, request| Ok(ClaimNextResponse { waited, ..claim(number, request)? }));
        let (client, fake) = fake.start().await;
        let child = spawn(client.server(), &["work", "--queue", "q", "--ttl", "12s", "--", "sleep", "9"]);
        let begun = async {
            while !fake.calls_received().iter().any(|seen| matches!(seen, ReceivedCall::claim_next(_))) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), begun).await.expect("it claims");
        // Long enough for a confirmation, which would come at once, and too short for the first heartbeat, which comes after 2 s.
        tokio::time::sleep(Duration::from_millis(4_300)).await;
        let seen = fake.calls_received().iter().filter(|seen| matches!(seen, ReceivedCall::heartbeat(_))).count();
        assert_eq!(seen, beats, "{waited:?}");
        drop(child);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_75_reports_a_retryable_failure() {
    let (fake, _) = work(one_saga(saga(TTL_MS)), "exit 75").await;
    assert!(matches!(outcomes(&fake).as_slice(), [ReceivedCall::fail(request)] if request.retryable));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_without_a_compensation_is_quarantined_with_its_exit_code() {
    let mut fake = one_saga(saga(TTL_MS));
    fake.fail = Box::new(|_, _| Err(refusal(Code::FailedPrecondition, "COMPENSATION_REQUIRED", &[])));
    let (fake, (code, _, stderr)) = work(fake, "exit 3").await;
    assert_eq!(code, 0);
    assert!(stderr.contains("quarantined t-1: exit code 3"), "{stderr}");
    match outcomes(&fake).as_slice() {
        [ReceivedCall::fail(failed), ReceivedCall::quarantine(parked)] => {
            assert!(!failed.retryable);
            assert_eq!((parked.reason.as_str(), parked.owner_id.as_str()), ("exit code 3", "w"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_kills_the_command_and_reports_nothing() {
    let mut fake = one_saga(saga(TTL_MS));
    fake.heartbeat = Box::new(|_, _| Err(refusal(Code::Aborted, "LEASE_SUPERSEDED", &[])));
    let soon = Duration::from_secs(10);
    let ran = tokio::time::timeout(soon, work(fake, "trap '' TERM; sleep 30 & wait; sleep 30; echo survived")).await;
    let (fake, (code, stdout, stderr)) = ran.expect("the command is killed at the lease's deadline");
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.contains("lost t-1: LEASE_SUPERSEDED"), "{stderr}");
    assert!(outcomes(&fake).is_empty(), "{:?}", outcomes(&fake));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_command_and_reports_a_failure() {
    let mut fake = one_saga(saga(TTL_MS));
    fake.heartbeat = Box::new(|number, _| {
        let lease = Some(lease(200 * (number as i64 + 1), TTL_MS));
        let cancel_reason = "not needed".to_owned();
        Ok(HeartbeatResponse { lease, directive: Directive::Cancel.into(), cancel_reason })
    });
    let (fake, (_, stdout, _)) = work(fake, "trap 'echo term; exit 0' TERM; sleep 30 & wait").await;
    assert_eq!(stdout, "term\n");
    assert!(
        matches!(outcomes(&fake).as_slice(), [ReceivedCall::fail(request)] if request.reason == "cancelled: not needed")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_reported_again_with_the_same_request_id() {
    let mut fake = one_saga(saga(TTL_MS));
    fake.complete = Box::new(|number, _| match number {
        0 => Err(Status::unavailable("restarting")),
        1 => Err(refusal(Code::Unknown, "OUTCOME_UNKNOWN", &[])),
        _ => Ok(CompleteResponse { saga: Some(Saga { state: SagaState::Completed.into(), ..saga(TTL_MS) }) }),
    });
    let (fake, (_, _, stderr)) = work(fake, "true").await;
    assert!(stderr.contains("completed t-1"), "{stderr}");
    match outcomes(&fake).as_slice() {
        [ReceivedCall::complete(first), ReceivedCall::complete(second), ReceivedCall::complete(third)] => {
            assert!(!first.request_id.is_empty());
            assert_eq!(first, second);
            assert_eq!(first, third);
        }
        other => panic!("{other:?}"),
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)).expect("it runs");
    rustix::process::kill_process(pid, signal).expect("it is ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_term_lets_the_command_end_and_a_second_releases_the_saga() {
    for (terms, expected) in [(1, "completed t-1"), (2, "planned t-1: the worker was told to end")] {
        let (client, _fake) = one_saga(saga(TTL_MS)).start().await;
        let line = ["work", "--queue", "q", "--ttl", "600ms", "--", "sh", "-c", "sleep 2"];
        let child = spawn(client.server(), &line);
        for _ in 0..terms {
            tokio::time::sleep(Duration::from_millis(600)).await;
            signal(&child, rustix::process::Signal::TERM);
        }
        let (code, _, stderr) = finish(child).await;
        assert_eq!(code, 0);
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_answered_after_shutdown_is_released() {
    let mut fake = one_saga(saga(TTL_MS));
    fake.delay = Duration::from_millis(800);
    fake.claim_next = Box::new(|_, _| Ok(ClaimNextResponse { sagas: vec![saga(TTL_MS)], ..Default::default() }));
    let (client, fake) = fake.start().await;
    let child = spawn(client.server(), &["work", "--queue", "q", "--", "true"]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    signal(&child, rustix::process::Signal::INT);
    finish(child).await;
    let claims: Vec<String> = fake
        .calls_received()
        .iter()
        .filter_map(|seen| match seen {
            ReceivedCall::claim_next(request) => Some(request.request_id.clone()),
            _ => None,
        })
        .collect();
    assert!(claims.len() == 2 && claims[0] == claims[1], "{claims:?}");
    assert!(matches!(outcomes(&fake).as_slice(), [ReceivedCall::release(_)]));
}

/// A coordinator with a compensating saga that records the outcomes.
fn compensating(kinds: &[&str]) -> (FakeCoordinator, Arc<Mutex<Saga>>) {
    let mut given = saga(TTL_MS);
    given.state = SagaState::Compensating.into();
    given.compensations = kinds
        .iter()
        .zip(1..)
        .map(|(kind, position)| Compensation {
            position,
            kind: (*kind).to_owned(),
            target: format!("target-{position}"),
            state: CompensationState::Pending.into(),
            ..Compensation::default()
        })
        .collect();
    let kept = Arc::new(Mutex::new(given.clone()));
    let mut fake = one_saga(given);
    let saga = Arc::clone(&kept);
    fake.record_compensation = Box::new(move |_, request| {
        let mut saga = saga.lock().expect("not poisoned");
        let at = saga.compensations.iter_mut().find(|at| at.position == request.position).expect("there is one");
        if request.outcome() == CompensationOutcome::Done {
            at.state = CompensationState::Done.into();
        } else {
            at.state = CompensationState::Failed.into();
            at.attempts += 1;
            at.last_error = request.detail.clone();
        }
        Ok(RecordCompensationResponse { saga: Some(saga.clone()) })
    });
    let saga = Arc::clone(&kept);
    fake.compensate = Box::new(move |_, _| {
        let saga = saga.lock().expect("not poisoned").clone();
        Ok(CompensateResponse { saga: Some(Saga { state: SagaState::Compensated.into(), ..saga }) })
    });
    (fake, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn compensations_are_undone_from_the_last_to_the_first() {
    let (fake, _) = compensating(&["branch", "dir", "branch"]);
    let (client, fake) = fake.start().await;
    let handlers = ["branch=echo branch $SAGAD_TARGET $SAGAD_TASK_ID", "dir=echo dir $SAGAD_TARGET"];
    let line = ["compensate", "--queue", "q", "--drain", "--handler", handlers[0], "--handler", handlers[1]];
    let (code, stdout, stderr) = run(client.server(), &line).await;
    assert_eq!((code, stdout.as_str()), (0, "branch target-3 t-1\ndir target-2\nbranch target-1 t-1\n"), "{stderr}");
    assert!(stderr.contains("compensated t-1"), "{stderr}");
    let outcomes = outcomes(&fake);
    assert_eq!(outcomes.len(), 4);
    assert!(matches!(outcomes.last(), Some(ReceivedCall::compensate(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_without_a_handler_is_quarantined_by_name() {
    let (fake, _) = compensating(&["unheard-of", "branch"]);
    let (client, fake) = fake.start().await;
    let line = ["compensate", "--queue", "q", "--drain", "--handler", "branch=true"];
    run(client.server(), &line).await;
    match outcomes(&fake).as_slice() {
        [ReceivedCall::record_compensation(done), ReceivedCall::quarantine(parked)] => {
            assert_eq!(done.position, 2);
            assert!(parked.reason.contains("`unheard-of`"), "{}", parked.reason);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compensation_that_keeps_failing_is_quarantined_after_its_attempts() {
    let (fake, _) = compensating(&["branch"]);
    let (client, fake) = fake.start().await;
    let line = ["compensate", "--queue", "q", "--drain", "--attempts", "2", "--handler", "branch=exit 4"];
    let (code, _, stderr) = run(client.server(), &line).await;
    assert_eq!(code, 0);
    match outcomes(&fake).as_slice() {
        [
            ReceivedCall::record_compensation(first),
            ReceivedCall::record_compensation(second),
            ReceivedCall::quarantine(parked),
        ] => {
            assert_ne!(first.request_id, second.request_id, "each attempt counts");
            assert!(parked.reason.contains("`branch` failed 2 times"), "{}", parked.reason);
            assert!(parked.reason.contains("exit code 4"), "{}", parked.reason);
        }
        other => panic!("{other:?}\n{stderr}"),
    }
}

/// A coordinator with a stale saga that is settling until the third claim.
fn settling() -> FakeCoordinator {
    let (mut fake, kept) = compensating(&["branch"]);
    let claimed = kept.lock().expect("not poisoned").clone();
    fake.claim_next = Box::new(|_, _| Ok(ClaimNextResponse::default()));
    fake.claim = Box::new(move |number, request| {
        assert_eq!(request.purpose(), LeasePurpose::Compensate);
        match number {
            0 | 1 => Err(refusal_for_now(Code::FailedPrecondition, "SETTLING", Duration::from_millis(300))),
            2 => Ok(ClaimResponse { saga: Some(claimed.clone()) }),
            _ => Err(refusal(Code::FailedPrecondition, "SAGA_TERMINAL", &[])),
        }
    });
    fake.watch_stale = Box::new(|_, request| {
        let saga = Saga { stale: true, ..saga(TTL_MS) };
        let stale = StaleSaga { task_id: saga.task_id.clone(), saga: Some(saga), ..StaleSaga::default() };
        let item = |item| WatchStaleResponse { revision: 9, item: Some(item) };
        let end = item(watch_stale_response::Item::Bookmark(Bookmark { snapshot_end: true }));
        let resumed = request.after_revision.is_some();
        Ok(if resumed { vec![end] } else { vec![item(watch_stale_response::Item::Stale(stale)), end] })
    });
    fake
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_saga_is_claimed_once_it_has_settled() {
    let (client, fake) = settling().start().await;
    let line = ["compensate", "--queue", "q", "--stale", "--handler", "branch=true"];
    let child = spawn(client.server(), &line);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    signal(&child, rustix::process::Signal::TERM);
    let (_, _, stderr) = finish(child).await;
    assert!(stderr.contains("compensated t-1"), "{stderr}");
    assert!(matches!(outcomes(&fake).last(), Some(ReceivedCall::compensate(_))));
    let watches = fake.watches.lock().expect("not poisoned");
    assert_eq!(watches[0].after_revision, None);
    assert!(watches.len() > 1 && watches[1..].iter().all(|watch| watch.after_revision == Some(9)), "{watches:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_for_settling_sagas() {
    let (client, fake) = settling().start().await;
    let line = ["compensate", "--queue", "q", "--stale", "--drain", "--handler", "branch=true"];
    let (code, _, stderr) = run(client.server(), &line).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(matches!(outcomes(&fake).last(), Some(ReceivedCall::compensate(_))), "{stderr}");
    assert!(fake.watches.lock().expect("not poisoned").iter().all(|watch| watch.snapshot_only));
}
