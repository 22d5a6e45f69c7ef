//! Many leases and delays due at the same time, as after an absence: other calls are answered meanwhile.

use std::time::Duration;

use futures::future::join_all;
use sagad::proto::*;

use crate::support::*;

/// The number of leases; there are a third as many delays. `DUE_AT_ONCE=150000` is the promise's number.
fn many() -> usize {
    number("DUE_AT_ONCE").unwrap_or(24_000)
}

/// The longest allowed heartbeat of another lease. Sweeping all leases in one transaction takes several seconds in the dev
/// profile; a slice takes some tens of milliseconds. The rest is margin for a busy machine.
const LONGEST: Duration = Duration::from_millis(800);

async fn create_many(api: &Api, queue: &str, count: usize, template: &CreateSagaRequest) {
    for from in (0..count).step_by(1000) {
        let requests = (from..count.min(from + 1000)).map(|n| CreateSagaRequest {
            task_id: format!("{queue}-{n}"),
            queue: queue.into(),
            ..template.clone()
        });
        let batch = BatchCreateSagasRequest { requests: requests.collect(), ..Default::default() };
        api.batch_create_sagas(batch).await.unwrap();
    }
}

fn next(queue: &str, owner_id: &str, max_sagas: i32, ttl_ms: u64) -> ClaimNextRequest {
    ClaimNextRequest {
        queues: vec![queue.into()],
        owner_id: owner_id.into(),
        ttl: ms(ttl_ms),
        max_sagas,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p14_heartbeats_are_answered_while_thousands_of_leases_and_delays_are_due() {
    let many = many();
    // The grace after the restart makes all leases end at the same time.
    let mut daemon = Daemon::start_with(&["--restart-grace", "4s"]);
    let api = daemon.api().await;
    let requeued = Policy { on_stale: StaleAction::Requeue.into(), ..Default::default() };
    let template = |policy: Policy| CreateSagaRequest { policy: Some(policy), ..Default::default() };
    create_many(&api, "held", many / 2, &template(Policy::default())).await;
    create_many(&api, "again", many - many / 2, &template(requeued)).await;
    for (queue, count) in [("held", many / 2), ("again", many - many / 2)] {
        let mut claimed = 0;
        while claimed < count {
            claimed += api.claim_next(next(queue, "dead", 100, 1_000)).await.unwrap().len();
        }
    }
    daemon.restart(daemon::ShutdownSignal::Kill).await;
    let api = daemon.api().await;
    let delayed = CreateSagaRequest { delay: ms(3_000), ..Default::default() };
    create_many(&api, "late", many / 3, &delayed).await;
    let lease = key(&api.running("mine", "w").await);

    // Claims that find nothing and claims that find requeued sagas, without and with a wait.
    let asks = ["empty", "held", "again", "late"].into_iter().flat_map(|queue| [0, 500].map(|wait| (queue, wait)));
    let claiming: Vec<_> = join_all(asks.clone().map(|_| daemon.api()))
        .await
        .into_iter()
        .zip(asks)
        .map(|(api, (queue, wait))| {
            tokio::spawn(async move {
                loop {
                    let request = ClaimNextRequest { wait: ms(wait), ..next(queue, "claimer", 1, 60_000) };
                    api.claim_next(request).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();

    let begun = now();
    let mut longest = Duration::ZERO;
    for beat in 1.. {
        let asked = now();
        // Each heartbeat asks for a slightly longer lease, so that it extends.
        api.heartbeat(HeartbeatRequest { ttl: ms(60_000 + beat), ..lease.heartbeat() }).await.unwrap();
        longest = longest.max(asked.elapsed());
        if beat % 50 == 0 && begun.elapsed() > Duration::from_secs(6) {
            let stats = api.stats().await;
            let held = stats.queues.iter().find(|stats| stats.queue == "held").unwrap();
            if held.stale as usize == many / 2 {
                break;
            }
        }
        assert!(begun.elapsed() < WAIT_MAX * 4, "the sweep does not end");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(claiming.iter().all(|claims| !claims.is_finished()), "a claim failed");
    claiming.iter().for_each(tokio::task::JoinHandle::abort);
    println!("{many} leases: the longest of the others' heartbeats took {longest:?}");
    assert!(longest < LONGEST, "a heartbeat took {longest:?}");
    let log = daemon.log();
    assert_eq!(
        log.matches("the coordinator was away").count(),
        0,
        "the daemon took its own work for an absence:\n{log}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_claim_is_not_executed() {
    const SAGAS: usize = 300;
    let daemon = Daemon::start();
    let api = daemon.api().await;
    create_many(&api, "q", SAGAS, &CreateSagaRequest::default()).await;
    let callers = join_all((0..8).map(|_| daemon.api())).await;
    // Large batches keep the writer busy, so that most claims behind them are cancelled before they are executed.
    let busy: Vec<_> = (0..3)
        .map(|n| {
            let api = callers[n].clone();
            tokio::spawn(async move {
                for batch in 0.. {
                    create_many(&api, &format!("busy-{n}-{batch}"), 1000, &CreateSagaRequest::default()).await;
                }
            })
        })
        .collect();
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let gone: Vec<_> = callers[1..]
            .iter()
            .map(|api| {
                let api = api.clone();
                let request = next("q", "gone", 1, 60_000);
                tokio::spawn(async move { api.claim_next(request).await.map(|sagas| sagas.len()) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        gone.iter().for_each(tokio::task::JoinHandle::abort);
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    // When this is answered, no earlier call is left in the queue.
    create_many(&api, "after", 1, &CreateSagaRequest::default()).await;
    let listed = ListSagasRequest { owner_id: "gone".into(), ..Default::default() };
    let leased = api.list_sagas(listed).await.unwrap().sagas.len();
    println!("{leased} of 84 cancelled calls got a lease");
    assert!(leased <= 56, "{leased} sagas were leased to cancelled calls");
}
