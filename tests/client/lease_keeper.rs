//! `LeaseKeeper` with a scripted coordinator.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sagad::{
    client::{LeaseKeeper, LeaseStatus, time, worker},
    proto::{Directive, HeartbeatResponse},
};
use tonic::{Code, Status};

use crate::support::fake_coordinator::{FakeCoordinator, ReceivedCall, lease, refusal, saga};

const TTL_MS: i64 = 300;

fn accepted(number: usize) -> Result<HeartbeatResponse, Status> {
    let lease = lease(100 * (number as i64 + 1), TTL_MS);
    Ok(HeartbeatResponse { lease: Some(lease), directive: Directive::Continue.into(), cancel_reason: String::new() })
}

async fn keep(fake: FakeCoordinator) -> (LeaseKeeper, Arc<FakeCoordinator>, time::Moment) {
    let (client, fake) = fake.start().await;
    // Connects first, so that connecting does not delay the first heartbeat.
    client.sagas().get_stats(sagad::proto::GetStatsRequest {}).await.expect_err("not scripted");
    let asked = time::now();
    let keeper = LeaseKeeper::start(&client, &saga(TTL_MS), asked).await.expect("held");
    (keeper, fake, asked)
}

async fn lost(keeper: &LeaseKeeper) -> String {
    tokio::time::timeout(Duration::from_secs(10), worker::lost(keeper)).await.expect("it is lost in time").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_heartbeats_keep_the_lease() {
    let (keeper, fake, asked) =
        keep(FakeCoordinator { heartbeat: Box::new(|number, _| accepted(number)), ..FakeCoordinator::default() }).await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(*keeper.status().borrow(), LeaseStatus::Held);
    assert!(keeper.deadline() > asked + Duration::from_millis(1_000));
    let beats = fake.calls_received().len();
    assert!((5..=11).contains(&beats), "{beats} heartbeats in ten intervals");
    drop(keeper);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(fake.calls_received().len() <= beats + 2, "heartbeats end with their keeper");
}

/// An older coordinator without sessions: calls are unary, and a session is not opened for each call.
#[tokio::test(flavor = "multi_thread")]
async fn without_sessions_each_call_is_unary() {
    let (keeper, fake, _) =
        keep(FakeCoordinator { heartbeat: Box::new(|number, _| accepted(number)), ..FakeCoordinator::default() }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(keeper.check(), LeaseStatus::Held);
    assert!(fake.calls_received().len() >= 3, "{:?}", fake.calls_received());
    assert_eq!(fake.sessions.load(Ordering::Relaxed), 1);
}

/// On one thread, which the work blocks: the keeper could not notice that the deadline passed, as after a suspension.
#[tokio::test]
async fn a_check_compares_the_deadline_with_the_clock() {
    let (keeper, _fake, _) =
        keep(FakeCoordinator { heartbeat: Box::new(|number, _| accepted(number)), ..FakeCoordinator::default() }).await;
    assert_eq!(keeper.check(), LeaseStatus::Held);
    std::thread::sleep(Duration::from_millis(TTL_MS as u64 + 50));
    assert_eq!(*keeper.status().borrow(), LeaseStatus::Held, "no other task had a turn");
    match keeper.check() {
        LeaseStatus::Lost(lost) => assert_eq!(lost.reason, "DEADLINE"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_the_lease_is_held_until_its_deadline() {
    let silent = Box::new(|_, _: &_| Err(Status::unavailable("gone")));
    let (keeper, fake, asked) = keep(FakeCoordinator { heartbeat: silent, ..FakeCoordinator::default() }).await;
    assert_eq!(keeper.deadline(), asked + Duration::from_millis(TTL_MS as u64));
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(*keeper.status().borrow(), LeaseStatus::Held, "unknown is not lost");
    let reason = lost(&keeper).await;
    let held = time::now().since(asked);
    assert!(held >= Duration::from_millis(TTL_MS as u64), "{held:?}");
    assert!(held < Duration::from_millis(TTL_MS as u64 + 200), "{held:?}");
    assert!(reason.contains("ran out") && reason.contains("gone"), "{reason}");
    assert!(fake.calls_received().len() > 2, "it is tried again before the deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_counts_from_the_sending_of_the_last_accepted_heartbeat() {
    // Each answer takes 80 ms, which must not extend the deadline.
    let heartbeat =
        Box::new(|number, _: &_| if number == 0 { accepted(number) } else { Err(Status::unavailable("gone")) });
    let delay = Duration::from_millis(80);
    let (keeper, _fake, asked) = keep(FakeCoordinator { heartbeat, delay, ..FakeCoordinator::default() }).await;
    lost(&keeper).await;
    let deadline = keeper.deadline().since(asked);
    // Sent after the interval of 100 ms, valid for 300 ms.
    assert!(deadline >= Duration::from_millis(400), "{deadline:?}");
    assert!(deadline < Duration::from_millis(470), "{deadline:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_lease_is_lost_at_once() {
    for (code, reason) in [
        (Code::Aborted, "LEASE_SUPERSEDED"),
        (Code::Aborted, "LEASE_EXPIRED"),
        (Code::FailedPrecondition, "SAGA_TERMINAL"),
    ] {
        let heartbeat = Box::new(move |_, _: &_| Err(refusal(code, reason, &[])));
        let (keeper, fake, asked) = keep(FakeCoordinator { heartbeat, ..FakeCoordinator::default() }).await;
        assert!(lost(&keeper).await.contains(reason));
        assert!(time::now().since(asked) < Duration::from_millis(TTL_MS as u64 - 20), "before its deadline");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(fake.calls_received().len(), 1, "nothing is sent for a lease that is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_extended_is_held_until_the_expiry_in_the_error() {
    // The first heartbeat was accepted until 500 on the coordinator's clock, but its answer was lost.
    let heartbeat = Box::new(|number, _: &_| {
        if number == 0 {
            return Err(Status::unavailable("gone"));
        }
        let metadata = [("expire_time", "1970-01-01T00:00:00.500Z"), ("directive", "DIRECTIVE_CONTINUE")];
        Err(refusal(Code::FailedPrecondition, "EXECUTION_TIMEOUT", &metadata))
    });
    let (keeper, _fake, asked) = keep(FakeCoordinator { heartbeat, ..FakeCoordinator::default() }).await;
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(*keeper.status().borrow(), LeaseStatus::Held);
    lost(&keeper).await;
    assert_eq!(keeper.deadline().since(asked), Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_reported_once_and_the_lease_is_kept() {
    let heartbeat = Box::new(|number, _: &_| {
        let answer = accepted(number)?;
        Ok(HeartbeatResponse { directive: Directive::Cancel.into(), cancel_reason: "not needed".to_owned(), ..answer })
    });
    let (keeper, _fake, _) = keep(FakeCoordinator { heartbeat, ..FakeCoordinator::default() }).await;
    assert_eq!(worker::must_stop(&keeper).await, LeaseStatus::Cancelled("not needed".to_owned()));
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(*keeper.status().borrow(), LeaseStatus::Cancelled("not needed".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_in_a_refused_heartbeat_is_reported() {
    let heartbeat = Box::new(|_, _: &_| {
        let metadata = [("directive", "DIRECTIVE_CANCEL"), ("cancel_reason", "stop")];
        Err(refusal(Code::FailedPrecondition, "PROGRESS_TIMEOUT", &metadata))
    });
    let (keeper, _fake, _) = keep(FakeCoordinator { heartbeat, ..FakeCoordinator::default() }).await;
    assert_eq!(worker::must_stop(&keeper).await, LeaseStatus::Cancelled("stop".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_sent_with_the_next_heartbeat() {
    let (keeper, fake, _) =
        keep(FakeCoordinator { heartbeat: Box::new(|number, _| accepted(number)), ..FakeCoordinator::default() }).await;
    // Long after the keeper began to wait for progress.
    tokio::time::sleep(Duration::from_millis(30)).await;
    keeper.set_progress("half".into());
    while fake.calls_received().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    match &fake.calls_received()[0] {
        ReceivedCall::heartbeat(first) => assert_eq!(first.progress.as_deref(), Some(&b"half"[..])),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_sent_until_it_is_accepted() {
    let heartbeat =
        Box::new(|number, _: &_| if number == 0 { Err(Status::unavailable("gone")) } else { accepted(number) });
    let (keeper, fake, _) = keep(FakeCoordinator { heartbeat, ..FakeCoordinator::default() }).await;
    keeper.set_progress("half".into());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let progress: Vec<_> = fake
        .calls_received()
        .iter()
        .map(|seen| match seen {
            ReceivedCall::heartbeat(request) => request.progress.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    let sent = progress.iter().filter(|progress| progress.is_some()).count();
    assert!((1..=2).contains(&sent), "{progress:?}");
    assert!(progress.last().is_some_and(Option::is_none), "accepted once, it is not sent again: {progress:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_waited_is_confirmed_before_work_begins() {
    let fake = FakeCoordinator { heartbeat: Box::new(|number, _| accepted(number)), ..FakeCoordinator::default() };
    let (client, fake) = fake.start().await;
    let long_ago = time::now() - Duration::from_secs(5);
    let keeper = LeaseKeeper::start(&client, &saga(TTL_MS), long_ago).await.expect("confirmed");
    assert_eq!(fake.calls_received().len(), 1);
    assert!(keeper.deadline() > time::now());

    let heartbeat = Box::new(|_, _: &_| Err(refusal(Code::Aborted, "LEASE_EXPIRED", &[])));
    let (client, _fake) = FakeCoordinator { heartbeat, ..FakeCoordinator::default() }.start().await;
    let lost = LeaseKeeper::start(&client, &saga(TTL_MS), long_ago).await.expect_err("no work begins under it");
    assert!(lost.reason == "LEASE_EXPIRED", "{lost}");
}
