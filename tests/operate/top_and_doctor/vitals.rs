//! `AdminService.GetVitals` over the wire.

use sagad::proto::*;

use crate::support::{Daemon, create, eventually, ms, secs};

async fn vitals(daemon: &Daemon) -> GetVitalsResponse {
    daemon.api().await.admin.get_vitals(GetVitalsRequest::default()).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vitals_report_what_the_daemon_measures() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let before = vitals(&daemon).await;
    for number in 0..20 {
        api.create_saga(create(&format!("t-{number}"))).await.unwrap();
    }
    let after = eventually("what was committed is measured", || async {
        let after = vitals(&daemon).await;
        (after.changes >= before.changes + 20).then_some(after)
    })
    .await;
    assert!(after.batch_count > before.batch_count && after.batch_count <= after.changes + before.batch_count + 20);
    let commits = after.commits.unwrap();
    let micros = |span: Option<prost_types::Duration>| {
        span.map(|span| span.seconds * 1_000_000 + i64::from(span.nanos) / 1000).unwrap()
    };
    let [p50, p99, max] = [commits.p50, commits.p99, commits.max].map(micros);
    assert!(commits.count >= 1 && 0 < p50 && p50 <= p99 && p99 <= max, "{commits:?}");
    assert!(micros(after.batches.unwrap().max) >= p50);
    let (log, disk) = (after.log.unwrap(), after.disk.unwrap());
    assert!(log.bytes > before.log.unwrap().bytes && log.max_bytes == 64 << 20, "{log:?}");
    assert!(disk.store_bytes > 0 && disk.free_bytes > 0 && disk.total_bytes >= disk.free_bytes, "{disk:?}");
    assert!(
        after.writer_queue_max > 0 && after.open_files > 5 && after.open_files_max >= after.open_files,
        "{after:?}"
    );
    assert_eq!((after.refusals.unwrap(), after.disk_full), (Refusals::default(), false));
    assert!(after.writer_silence.is_some() && after.clock.unwrap().offset.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vitals_report_watches_held_claims_and_compensation_handlers() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let queues = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let request = |names| WatchStaleRequest { queues: queues(names), ..Default::default() };
    let _all = api.watch_stale(request(&[])).await.unwrap();
    let one = api.watch_stale(request(&["a", "b"])).await.unwrap();
    let _other = api.watch_stale(request(&["a"])).await.unwrap();
    let _events = api.watch_events(WatchEventsRequest::default()).await.unwrap();
    let watched = |vitals: GetVitalsResponse| {
        let watches = vitals.stale_watches.into_iter().map(|watches| (watches.queue, watches.count));
        (watches.collect::<Vec<_>>(), vitals.event_watches)
    };
    let told = |expected: &[(&str, i64)]| expected.iter().map(|(queue, count)| ((*queue).to_owned(), *count)).collect();
    let expected: (Vec<_>, i64) = (told(&[("", 1), ("a", 2), ("b", 1)]), 1);
    eventually("all watches are reported", || async { (watched(vitals(&daemon).await) == expected).then_some(()) })
        .await;
    drop(one);
    let expected: (Vec<_>, i64) = (told(&[("", 1), ("a", 1)]), 1);
    eventually("ended watches are not reported", || async {
        (watched(vitals(&daemon).await) == expected).then_some(())
    })
    .await;

    let ask = |kinds: &[&str]| ClaimNextRequest {
        queues: queues(&["a"]),
        owner_id: "handler".into(),
        purpose: LeasePurpose::Compensate.into(),
        compensation_kinds: queues(kinds),
        wait: ms(0),
        ..Default::default()
    };
    api.claim_next(ask(&["branch"])).await.unwrap();
    api.claim_next(ask(&[])).await.unwrap();
    let asked = vitals(&daemon).await.asked_kinds;
    let asked: Vec<_> = asked.iter().map(|asked| (asked.queue.as_str(), asked.kind.as_str())).collect();
    assert_eq!(asked, [("a", ""), ("a", "branch")]);

    let wait = |queue: &str, purpose: LeasePurpose, kinds: &[&str]| ClaimNextRequest {
        queues: queues(&[queue]),
        purpose: purpose.into(),
        wait: secs(50),
        ..ask(kinds)
    };
    for request in [
        wait("a", LeasePurpose::Execute, &[]),
        wait("a", LeasePurpose::Execute, &[]),
        wait("b", LeasePurpose::Compensate, &["worktree"]),
        wait("b", LeasePurpose::Compensate, &["branch"]),
        wait("c", LeasePurpose::Compensate, &[]),
    ] {
        let api = api.clone();
        tokio::spawn(async move { drop(api.claim_next(request).await) });
    }
    let waits = |queue: &str, purpose: LeasePurpose, count, kinds: &[&str]| WaitingClaims {
        queue: queue.into(),
        purpose: purpose.into(),
        count,
        compensation_kinds: queues(kinds),
    };
    let expected = [
        waits("a", LeasePurpose::Execute, 2, &[]),
        waits("b", LeasePurpose::Compensate, 2, &["branch", "worktree"]),
        waits("c", LeasePurpose::Compensate, 1, &[]),
    ];
    eventually("held claims are reported", || async {
        (vitals(&daemon).await.waiting_claims == expected).then_some(())
    })
    .await;
}
